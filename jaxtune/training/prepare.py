"""From an experiment to everything the loop needs. What can fail for the user's reasons fails here,
before anything is compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax

from jaxtune.config import Experiment
from jaxtune.data.loader import lengths_of
from jaxtune.data.pipeline import Split
from jaxtune.data.planning import Plan, plan_training
from jaxtune.directions import higher_is_better
from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.base import Task
from jaxtune.training.evaluation import Evaluated
from jaxtune.training.mapped_step import PMAP_AXIS, MappedStep
from jaxtune.training.network import Network, check_plan
from jaxtune.training.optimizers import make_optimizer, make_schedule
from jaxtune.training.state import TrainState, create_state, partition
from jaxtune.training.step import make_train_step
from jaxtune.training.throughput import attention_width, matrix_parameters, peak_flops


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run, ready to train.

    Attributes:
        network: the model on its mesh.
        splits: tokenised ``train``, and ``validation`` and ``test`` where there are any.
        plan: the global batches of the whole run.
        raw_config: config.json of what the run starts with; none describes the network alone.
    """

    network: Network
    splits: dict[str, Split]
    plan: Plan
    raw_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def experiment(self) -> Experiment:
        """The experiment, with what depends on the machine resolved."""
        return self.network.experiment

    @property
    def task(self) -> Task:
        """The task, its labels settled."""
        return self.network.task

    @property
    def batch_sharding(self) -> Any:
        """Sharding of a batch's fields."""
        return self.network.batch_sharding

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Descent direction without a learning rate."""
        return make_optimizer(self.experiment.optim)

    @cached_property
    def schedule(self) -> optax.Schedule:
        """Learning rate at a step."""
        return make_schedule(self.experiment.optim, self.plan.num_steps)

    @property
    def compiler_options(self) -> dict[str, str] | None:
        """XLA's options for the step, by name."""
        return dict(option.split("=", 1) for option in self.experiment.train.compiler_options) or None

    @cached_property
    def train_step(self) -> Any:
        """The jitted step; its state argument is donated."""
        step = make_train_step(
            self.network.training_forward,
            self.task.loss,
            self.optimizer,
            self.schedule,
            accumulate=self.experiment.train.accumulate,
            mapped_over=PMAP_AXIS if self.experiment.mesh.mode == "pmap" else None,
        )
        if self.experiment.mesh.mode == "pmap":
            return MappedStep(step, self.network.mesh)
        layout = self.network.shardings(self._abstract(self.network.from_canonical))
        return jax.jit(step, donate_argnums=0, out_shardings=(layout, self.network.replicated))

    def initial_state(self, canonical_params: Any) -> TrainState:
        """A state at step 0, in place on the mesh."""
        layout = self.network.shardings(jax.eval_shape(self._create, canonical_params))
        return jax.jit(self._create, out_shardings=layout)(canonical_params)

    def random_state(self) -> TrainState:
        """A state at step 0 with newly initialised parameters, made where it lies: no device ever holds it whole."""

        def create() -> TrainState:
            return self._create(self.network.fresh_params(self.experiment.train.seed))

        return jax.jit(create, out_shardings=self.network.shardings(jax.eval_shape(create)))()

    def _create(self, canonical_params: Any) -> TrainState:
        arranged, seed = self.network.from_canonical(canonical_params), self.experiment.train.seed
        return create_state(arranged, self.optimizer, seed, self.network.trains)

    def abstract_state(self) -> TrainState:
        """Shapes and shardings of the canonical state, as a checkpoint holds it."""
        return self.network.placed(self._abstract())

    def abstract_running_state(self) -> TrainState:
        """Shapes and shardings of the state in the layout that the step runs in."""
        return self.network.placed(self._abstract(self.network.from_canonical))

    def _abstract(self, layout: Callable[[Any], Any] = lambda params: params) -> TrainState:
        """Shapes of a state; Adafactor's part is canonical in both layouts."""

        def create() -> TrainState:
            params, seed = layout(self.network.fresh_params(0)), self.experiment.train.seed
            return create_state(params, self.optimizer, seed, self.network.trains)

        return jax.eval_shape(create)

    @cached_property
    def eval_plans(self) -> dict[str, Plan]:
        """One pass over each split that is evaluated."""
        return {
            name: self.network.plan(split.examples) for name, split in self.splits.items() if name != "train"
        }

    def evaluate(self, params: Any, split: str, *, written: bool = True) -> Evaluated:
        """Metrics of a split, for parameters in the layout the model runs in; see ``Network.evaluate``."""
        return self.network.evaluate(params, self.splits[split], self.eval_plans[split], written=written)

    @property
    def watches_writing(self) -> bool:
        """Whether the best checkpoint is picked by texts that have to be written at every evaluation."""
        return self.best_metric in self.task.written_metrics

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation is due after ``step`` steps: every ``eval_every``, or at ends of epochs."""
        every = self.experiment.train.eval_every
        return step % every == 0 if every is not None else step in self._epoch_ends

    @cached_property
    def _epoch_ends(self) -> frozenset[int]:
        return frozenset(np.cumsum(self.plan.steps_per_epoch).tolist())

    @property
    def best_metric(self) -> str:
        """Validation metric that picks the best checkpoint."""
        return self.experiment.train.best_metric or self.task.default_metric

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether a value of ``best_metric`` beats an earlier one; an undefined one never does."""
        if value is None or not np.isfinite(value):
            return False
        if than is None:
            return True
        return value > than if higher_is_better(self.best_metric) else value < than

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        """What a progress line says of an evaluation, as far as it is known."""
        names = ("loss", "perplexity", self.task.default_metric, self.best_metric, *self.task.written_metrics)
        return tuple(dict.fromkeys(names))

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the data of each split was when the run began."""
        return {name: split.fingerprint for name, split in self.splits.items()}

    @property
    def rows_fingerprints(self) -> dict[str, str]:
        """What the rows of each split were, whatever the tokenizer: what runs of different models have in common."""
        return {name: split.rows_fingerprint for name, split in self.splits.items()}

    @cached_property
    def flops_shape(self) -> tuple[int, int]:
        """Matrix parameters, and width of all attentions: what FLOPs are counted from."""
        params = jax.eval_shape(lambda: self.network.fresh_params(0))
        return matrix_parameters(params), attention_width(params)

    @cached_property
    def peak(self) -> tuple[float | None, str]:
        """Peak FLOP/s of the mesh, and where the number is from."""
        return peak_flops(self.network.mesh.size, self.experiment.model.precision)

    @property
    def peak_flops(self) -> float | None:
        return self.peak[0]


def plan_run(
    experiment: Experiment,
    network: Network,
    splits: dict[str, Split],
    raw_config: Mapping[str, Any] | None = None,
) -> Prepared:
    """Plan all batches, and check what only now can be checked.

    Args:
        raw_config: config.json of what the run starts with.

    Raises:
        ConfigError: rows that do not divide over the mesh, or a metric that the task does not have.
        DataError: nothing to train on.
    """
    data, train = experiment.data, experiment.train
    examples = splits["train"].examples
    if not len(examples):
        raise DataError(f"data.train={data.train}: no example is left to train on")
    lengths, decoder_lengths = lengths_of(examples, network.task.dynamic)
    plan = plan_training(
        lengths,
        batching=data.batching,
        batch_size=train.batch_size,
        seed=train.seed,
        epochs=train.epochs,
        steps=train.steps,
        buckets=data.buckets,
        row_length=data.row_length,
        rows=data.rows,
        decoder_lengths=decoder_lengths,
        max_tokens=data.max_tokens,
        repeats=splits["train"].repeats,
    )
    check_plan(plan, network.mesh, train.accumulate)
    if train.trainable != "all" and not partition(network.abstract_params(), network.trains)[0]:
        raise ConfigError(
            f"`train.trainable` is {train.trainable!r}, but the {network.task.head} head of {experiment.model.source} "
            "has no parameters of its own (it reads the word table of the backbone); expected all"
        )
    known = network.task.metric_names
    if train.best_metric is not None and train.best_metric not in known:
        raise ConfigError(
            f"`train.best_metric` is {train.best_metric!r}; {network.task.name} has: {', '.join(known)}"
        )
    if train.patience is not None and "validation" not in splits:
        raise ConfigError(
            "`train.patience` needs a validation split; set `data.validation` or `data.holdout`"
        )
    return Prepared(network, splits, plan, raw_config or {})
