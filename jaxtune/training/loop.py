"""The training loop. Its order is fixed: evaluate, save, stop if asked, then take the next batch.

Everything the loop knows beside the arrays is in ``LoopRecord`` and saved with every checkpoint,
so a run that was killed anywhere goes on as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import jax

from jaxtune.data.loader import Batches
from jaxtune.errors import ConfigError, NonFiniteError
from jaxtune.parallel.agreement import Processes
from jaxtune.parallel.mesh import put_batch, rows_here
from jaxtune.parallel.watchdog import Watchdog
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.persistence.metrics_log import MetricsLog
from jaxtune.training.prepare import Prepared
from jaxtune.training.progress import Progress
from jaxtune.training.state import TrainState
from jaxtune.training.stop_signals import AgreedStopSignals, StopSignals
from jaxtune.training.throughput import training_flops
from jaxtune.training.window import LogWindow

MOST_SKIPPED_IN_A_ROW = 10


@dataclasses.dataclass
class LoopRecord:
    """Host-side state of the loop.

    Attributes:
        best_value, best_step: best validation metric so far and where it was.
        without_better: evaluations since then.
        evaluated_at, saved_at: last steps at which that was done.
        stopped: why training ended before its last step; none while it has not.
        window: the open log window.
    """

    best_value: float | None = None
    best_step: int | None = None
    without_better: int = 0
    evaluated_at: int = 0
    saved_at: int = 0
    stopped: str | None = None
    window: LogWindow = dataclasses.field(default_factory=LogWindow)

    def to_record(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "window": self.window.to_record()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> LoopRecord:
        return cls(**{**record, "window": LogWindow(**record["window"])})


@dataclasses.dataclass
class Outcome:
    """How the loop ended: the state, its record, and the signal that stopped it, if one did."""

    state: TrainState
    record: LoopRecord
    interrupted: signal.Signals | None


class Loop:
    """One run from the state it is given to its last step."""

    def __init__(
        self,
        prepared: Prepared,
        state: TrainState,
        record: LoopRecord,
        position: dict[str, Any] | None,
        checkpoints: Checkpoints,
        log: MetricsLog,
        progress: Progress,
        processes: Processes,
    ) -> None:
        self.p = prepared
        self.state = state
        self.record = record
        self.step = int(jax.device_get(state.step))
        self.batches = Batches(
            prepared.splits["train"].examples,
            prepared.plan,
            rows_of=rows_here(prepared.batch_sharding),
            dynamic=prepared.task.dynamic,
            seed=prepared.experiment.train.seed,
        )
        if position is not None:
            self.batches.restore(position)
        self.checkpoints = checkpoints
        self.log = log
        self.progress = progress
        self.processes = processes
        self.watchdog = Watchdog(prepared.experiment.train.step_timeout)
        self._steps: dict[tuple[int, ...], Callable[..., Any]] = {}
        self._pending: tuple[int, Any] | None = None
        self._clock = time.perf_counter()

    def run(self) -> Outcome:
        """Train to the end, or until a signal asks to stop.

        Raises:
            NonFiniteError: see ``TrainConfig.nonfinite``.
            CheckpointError: a checkpoint could not be written.
        """
        self.progress.begin(self.p.plan.num_steps, self.step)
        try:
            with self.watchdog, AgreedStopSignals() if self.processes.several else StopSignals() as signals:
                stopped_by = self._steps_until_stopped(signals)
                with self.watchdog.busy("saving"):
                    self.checkpoints.wait()
            return Outcome(self.state, self.record, stopped_by)
        finally:
            self.batches.close()
            self.progress.end()

    def _steps_until_stopped(self, signals: StopSignals) -> signal.Signals | None:
        """Train; the signal that stopped it before the end, if one did."""
        while True:
            if self._evaluation_is_due():
                self._off_the_clock(self._evaluate, "the evaluation")
            done = self.step >= self.p.plan.num_steps or self.record.stopped is not None
            stop = signals.due(self.step)
            if self._save_is_due(done or stop):
                self._off_the_clock(self._save, "saving")
            if done or stop:
                return None if done else signals.received
            self._train_one_step(next(self.batches))

    def _train_one_step(self, batch: Any) -> None:
        on_device = put_batch(batch, self.p.batch_sharding, self.p.plan[self.step].shape[0])
        shape = on_device["tokens"].shape
        if shape not in self._steps:
            self._off_the_clock(lambda: self._compile(shape, on_device), "compiling")
        # Nothing may travel between host and device unasked: that would stall the dispatch.
        with jax.transfer_guard("disallow"):
            self.state, metrics = self._steps[shape](self.state, on_device)
        self.step += 1
        # Metrics are read one step late, while the device works on this step.
        self._read_pending()
        self._pending = (self.step, metrics)

    def _compile(self, shape: tuple[int, ...], batch: Any) -> None:
        """Compile the step for one batch shape, ahead of its first use and off the clock."""
        start = time.perf_counter()
        lowered, options = self.p.train_step.lower(self.state, batch), self.p.compiler_options
        try:
            self._steps[shape] = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if options is None or "option" not in str(error).lower():
                raise
            raise ConfigError(f"`train.compiler_options`: {str(error).strip()}") from error
        seconds = time.perf_counter() - start
        # Gloo gives the processes 30 s to meet in the first collective of a program, and compilers differ by more.
        self.processes.meet(f"the compiled step for {shape[0]}×{shape[1]} tokens")
        self.progress.say(f"compiled the step for {shape[0]}×{shape[1]} tokens in {seconds:.1f} s")
        for line in self.p.network.attention_lines():
            self.progress.say(line)

    def _read_pending(self) -> None:
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        metrics = jax.device_get(metrics)
        self.watchdog.step_done(step)
        if not metrics["finite"]:
            self._not_finite(step, metrics)
        now = time.perf_counter()
        plan = self.p.plan[step - 1]
        lengths = self.p.splits["train"].examples.lengths[list(plan.ids)]
        frozen = self.p.experiment.train.trainable == "head"
        flops = training_flops(*self.p.flops_shape, lengths, frozen=frozen)
        rows, length = plan.shape
        self.record.window.add_step(metrics, lengths, rows * length, flops, now - self._clock)
        self._clock = now
        values: dict[str, float | None] = {}
        if step % self.p.experiment.train.log_every == 0 or step == self.p.plan.num_steps:
            values = self._log_training(step)
        self.progress.step(step, values)

    def _log_training(self, step: int) -> dict[str, float | None]:
        values = self.record.window.line(self.p.peak_flops)
        rate = float(self.p.schedule(step - 1))
        self.log.write(
            {
                "step": step,
                "epoch": self.p.plan.epoch_of(step),
                "split": "train",
                "learning_rate": rate,
                **values,
            }
        )
        self.record.window = LogWindow()
        return values

    def _not_finite(self, step: int, metrics: dict[str, Any]) -> None:
        total, weight = metrics["sums"]["loss"]
        what = f"step {step}: loss {float(total) / max(float(weight), 1e-8)}, gradient norm {metrics['grad_norm']}"
        in_a_row = int(metrics["skipped_in_a_row"])
        if self.p.experiment.train.nonfinite == "skip" and in_a_row < MOST_SKIPPED_IN_A_ROW:
            self.progress.say(f"{what}: not finite, update skipped ({in_a_row} in a row)")
            self._strike(metrics)
            return
        raise NonFiniteError(
            f"{what}: not finite; {self._last_good()}. Lower `optim.learning_rate`, set `optim.clip_norm`, use "
            "`model.precision float32`, or go on past single bad batches with `train.nonfinite skip`."
        )

    def _last_good(self) -> str:
        self.checkpoints.wait()
        steps = self.checkpoints.steps()
        return f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"

    @staticmethod
    def _strike(metrics: dict[str, Any]) -> None:
        """A skipped step counts as a step, but its sums would make the whole window NaN."""
        metrics["sums"] = dict.fromkeys(metrics["sums"], (0.0, 0.0))
        metrics["grad_norm"] = math.inf

    def _evaluation_is_due(self) -> bool:
        if self.step == 0:
            return self.p.experiment.train.eval_at_start
        if self.record.evaluated_at == self.step or self.record.stopped:
            return False
        return self.step >= self.p.plan.num_steps or self.p.evaluates_at(self.step)

    def _evaluate(self) -> None:
        """Evaluate on the validation split; note a new best and lost patience."""
        record, train = self.record, self.p.experiment.train
        record.evaluated_at = self.step
        if "validation" not in self.p.splits:
            return
        try:
            evaluated = self.p.evaluate(self.state.params, "validation", written=self.p.watches_writing)
            metrics = evaluated.metrics
        except NonFiniteError as error:
            raise NonFiniteError(
                f"evaluation after step {self.step}: {error}; {self._last_good()}"
            ) from error
        scalars = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        line = {"step": self.step, "epoch": self.p.plan.epoch_of(self.step), "split": "validation", **scalars}
        self.log.write(line)
        value = metrics[self.p.best_metric]
        if self.step == 0:
            pass  # untrained parameters are in no checkpoint, so they cannot be the best
        elif self.p.is_better(value, record.best_value):
            record.best_value, record.best_step, record.without_better = value, self.step, 0
        else:
            record.without_better += 1
            if train.patience is not None and record.without_better >= train.patience:
                record.stopped = (
                    f"{self.p.best_metric} did not improve in {train.patience} evaluations "
                    f"(best {record.best_value} at step {record.best_step})"
                )
        shown = "  ".join(f"{name} {scalars[name]:.4f}" for name in self.p.shown_metrics if name in scalars)
        best = (
            "  (best so far)" if record.best_step == self.step else "  (before training)" * (self.step == 0)
        )
        self.progress.say(f"step {self.step}  validation  {shown}{best}")
        if record.stopped:
            self.progress.say(f"stopped early: {record.stopped}")

    def _save_is_due(self, leaving: bool) -> bool:
        if self.step == 0 or self.record.saved_at == self.step:
            return False
        every = self.p.experiment.train.save_every
        return (
            leaving or self.record.evaluated_at == self.step or (every is not None and self.step % every == 0)
        )

    def _save(self) -> None:
        self.record.saved_at = self.step
        # A best from an earlier evaluation has its checkpoint already.
        best = self.record.best_step == self.step
        record = {
            "loop": self.record.to_record(),
            "data": self.batches.position(),
            "seed": self.p.experiment.train.seed,
            "fingerprints": self.p.fingerprints,
        }
        self.log.flush()
        self.checkpoints.save(self.step, self.p.network.to_canonical(self.state), record, best=best)

    def _off_the_clock(self, work: Callable[[], None], doing: str) -> None:
        """Do something that is no training; its time is not counted as a step's."""
        self._read_pending()
        with self.watchdog.busy(doing):
            work()
        self._clock = time.perf_counter()
