"""``train``: a run from its first start to its result, readable from top to bottom."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

from jaxtune import files
from jaxtune.config import Experiment, from_dict, require_sources, to_dict, validate
from jaxtune.data.pipeline import Rows
from jaxtune.errors import ConfigError, ProcessError, RunError
from jaxtune.hub.description import Description, read_description, save_description
from jaxtune.hub.new_models import is_new
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.start import describe_start
from jaxtune.parallel.agreement import Processes, code_facts, flat_facts
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.persistence.metrics_log import MetricsLog
from jaxtune.persistence.provenance import collect_provenance, versions, write_provenance
from jaxtune.persistence.run_directory import RunDirectory, locked
from jaxtune.tasks.registry import make_task
from jaxtune.training.augmenting import make_rewrite
from jaxtune.training.finish import RESULTS, finish
from jaxtune.training.loop import Loop, LoopRecord
from jaxtune.training.network import build_network
from jaxtune.training.precision import resolve_precision
from jaxtune.training.prepare import Prepared, plan_run
from jaxtune.training.profiling import start_profiler_server
from jaxtune.training.progress import Progress, make_progress
from jaxtune.training.run import BASE, Run, headline
from jaxtune.training.state import TrainState, count


def train(experiment: Experiment, *, quiet: bool = False) -> Run:
    """Train, or go on with, the run that ``experiment`` describes; what ``jaxtune train`` does.

    Starting the same experiment again resumes from the newest sound checkpoint; a finished run
    is returned as it is. One of several processes trains together with the others: what lies in the run
    directory is decided, written and said by the first, and where one of them fails all stop.

    Args:
        quiet: print nothing.

    Raises:
        JaxtuneError: whatever keeps the run from starting or going on; see ``jaxtune.errors``.
    """
    processes = Processes.here()
    progress = make_progress(quiet=quiet or not processes.first)
    processes.compare("code", code_facts(versions()))
    processes.compare("configuration", flat_facts("", to_dict(experiment)))
    validate(experiment)
    require_sources(experiment)
    with _opened(experiment, processes) as (directory, experiment):
        run = Run(directory)
        if processes.decide("the results", lambda: files.exists(directory.file(RESULTS))):
            with processes.together("the results"):
                progress.say(f"{directory.path} is finished; its results: {headline(run.results)}")
            return run
        with processes.together("the preparation"):
            prepared, reason = _prepare(experiment, directory, progress, processes)
        processes.compare("data", {**prepared.fingerprints, "batches": prepared.plan.digest})
        with _with_peers(processes):
            run.interrupted = _train(prepared, directory, progress, reason, processes)
    return run


@contextmanager
def _opened(experiment: Experiment, processes: Processes) -> Iterator[tuple[RunDirectory, Experiment]]:
    """The run directory, held by the first process, and the experiment as it is to run."""
    path = files.join(experiment.output, experiment.name)
    with ExitStack() as held:

        def opened() -> dict[str, Any]:
            held.enter_context(locked(path))
            return to_dict(RunDirectory.open(experiment)[1])

        settled = processes.decide("the run directory", opened)
        processes.check_shared(path)
        yield RunDirectory(path), from_dict(settled)


@contextmanager
def _with_peers(processes: Processes) -> Iterator[None]:
    """A run time that fails beneath one of several processes, most often for another that went, as an error that says so.

    Raises:
        ProcessError: it did.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not processes.several:
            raise
        raise ProcessError(
            f"process {processes.index} of {processes.count} could not go on, as it looks because another one ended; "
            f"the logs of the others say why. JAX says: {str(error).strip()}"
        ) from error


def _prepare(
    experiment: Experiment, directory: RunDirectory, progress: Progress, processes: Processes
) -> tuple[Prepared, str]:
    """Everything up to the first compilation. The data is read before any device is touched, so that a
    mistake in it does not cost time on an accelerator."""
    task = make_task(experiment)
    rows = Rows(experiment.data, task.columns_read, make_rewrite(experiment.data))
    begun = processes.decide("its checkpoints", lambda: _has_begun(directory))
    description = (
        read_description(directory.file(BASE)) if begun else describe_start(experiment.model, rows.texts)
    )
    check_fit(experiment, description)
    splits = rows.tokenize(task.for_model(description), description.tokenizer)
    for split in splits.values():
        progress.say(split.summary())
    experiment = splits.task.settle(experiment)
    # A CPU's precision is found by timing it, which may end otherwise in each process.
    precision, reason = processes.decide(
        "the precision", lambda: resolve_precision(experiment.model.precision)
    )
    experiment = dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, precision=precision)
    )
    if processes.first:
        directory.save_config(dataclasses.replace(experiment, resume="auto", overwrite=False))
    progress.say(f"precision: {experiment.model.precision}, {reason}")
    network = build_network(experiment, splits.task, description.tokenizer, description.config)
    if processes.several and network.mesh.size != jax.device_count():
        raise ConfigError(
            f"`mesh.devices` is {experiment.mesh.devices}, but {processes.count} processes have {jax.device_count()} "
            "devices; with several processes the mesh takes all: expected none"
        )
    prepared = plan_run(experiment, network, splits, description.raw_config)
    progress.say(f"plan: {prepared.plan.describe()}")
    return prepared, reason


def _train(
    prepared: Prepared, directory: RunDirectory, progress: Progress, reason: str, processes: Processes
) -> signal.Signals | None:
    """The loop and the finish; returns the signal that stopped it, if one did."""
    keep = prepared.experiment.train.keep
    with Checkpoints(directory.checkpoints, keep=keep, processes=processes) as checkpoints:
        with processes.together("the start"):
            started = _start_or_resume(prepared, directory, checkpoints, progress, processes)
            state, record, position, resumed = started
            entry = _provenance(prepared, state, reason)
            if processes.first:
                write_provenance(directory.path, entry, resumed_step=resumed)
            log = MetricsLog(directory.path, resumed_step=resumed, primary=processes.first)
        start_profiler_server()
        try:
            outcome = Loop(prepared, state, record, position, checkpoints, log, progress, processes).run()
        finally:
            log.close()
        if outcome.interrupted is not None:
            progress.say(
                f"{outcome.interrupted.name}: saved at step {int(outcome.state.step)} in {directory.path}; "
                "start the same command again to go on from there"
            )
            return outcome.interrupted
        finish(prepared, directory, checkpoints, outcome, entry, progress, processes)
    return None


def _provenance(prepared: Prepared, state: TrainState, reason: str) -> dict[str, Any]:
    extra = {"precision": reason, "peak_flops": prepared.peak, "parameters": count(state.params)}
    extra["trained_parameters"] = count(state.trainable)
    extra["rows"] = prepared.rows_fingerprints
    return collect_provenance(prepared.fingerprints, extra)


def _start_or_resume(
    prepared: Prepared,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    progress: Progress,
    processes: Processes,
) -> tuple[TrainState, LoopRecord, dict[str, Any] | None, int | None]:
    """State, loop record, data position and resumed step: of the newest sound checkpoint, or fresh ones."""
    restored = checkpoints.restore(prepared.abstract_state())
    if restored is None:
        if prepared.experiment.resume == "must":
            raise RunError(
                f"{directory.path} has no finished checkpoint to resume from; --resume auto starts it"
            )
        return _fresh_state(prepared, directory, progress, processes), LoopRecord(), None, None
    saved = restored.record
    changed = [s for s, f in prepared.fingerprints.items() if saved["fingerprints"].get(s, f) != f]
    if changed:
        raise RunError(
            f"the data of {' and '.join(changed)} changed since {directory.path} began; bring the old data "
            "back, or choose another --name to train on the new"
        )
    state = prepared.network.arrange(restored.state)
    progress.say(f"resumed from step {restored.step} of {prepared.plan.num_steps}")
    return state, LoopRecord.from_record(saved["loop"]), saved["data"], restored.step


def _fresh_state(
    prepared: Prepared, directory: RunDirectory, progress: Progress, processes: Processes
) -> TrainState:
    """Parameters from the checkpoint that the experiment names, or random ones, on the mesh."""
    experiment, task, network = prepared.experiment, prepared.task, prepared.network
    if is_new(experiment.model.source):
        params = network.fresh_params(experiment.train.seed)
    else:
        params = load_pretrained(
            experiment.model.source,
            task.head,
            labels=task.labels,
            seed=experiment.train.seed,
            new_head=experiment.model.new_head,
        ).params
    if processes.first:
        save_description(directory.file(BASE), network.pretrained(params, prepared.raw_config))
    state = prepared.initial_state(params)
    share = f" of {count(state.params):,}" if state.frozen else ""
    progress.say(
        f"{count(state.trainable):,}{share} parameters to train, on {prepared.network.mesh.size} "
        f"{jax.devices()[0].platform} device(s)"
    )
    return state


def _has_begun(directory: RunDirectory) -> bool:
    """Whether the run has a config and tokenizer of its own."""
    return directory.has_checkpoints() and files.exists(files.join(directory.file(BASE), "config.json"))


def check_fit(experiment: Experiment, description: Description) -> None:
    """Check that texts of the length asked for, in the tokenizer's vocabulary, fit the model.

    Raises:
        ConfigError: they do not.
    """
    config, tokenizer = description.config, description.tokenizer
    pair = experiment.data.text_pair is not None
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if experiment.data.max_length < special + 1 + pair:
        raise ConfigError(
            f"`data.max_length` is {experiment.data.max_length}, which leaves no room for text beside the "
            f"tokenizer's {special} special tokens; expected at least {special + 1 + pair}"
        )
    longest = config.max_position_embeddings
    if longest is not None and experiment.data.max_length > longest:
        raise ConfigError(
            f"`data.max_length` is {experiment.data.max_length}, but the checkpoint has positions for {longest} tokens"
        )
    if len(tokenizer) > config.vocab_size:
        raise ConfigError(
            f"the tokenizer of {experiment.model.tokenizer or experiment.model.source} has {len(tokenizer)} tokens, but "
            f"the model's embedding only {config.vocab_size} rows; they do not belong together"
        )
