"""``train``: a run from its first start to its result, readable from top to bottom."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

import jax

from jaxtune import files
from jaxtune.config import Experiment, require_sources, validate
from jaxtune.data.pipeline import Rows
from jaxtune.errors import ConfigError, RunError
from jaxtune.hub.description import Description, read_description, save_description
from jaxtune.hub.new_models import is_new
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.start import describe_start
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.persistence.metrics_log import MetricsLog
from jaxtune.persistence.provenance import collect_provenance, write_provenance
from jaxtune.persistence.run_directory import RunDirectory, locked
from jaxtune.tasks.registry import make_task
from jaxtune.training.augmenting import make_rewrite
from jaxtune.training.finish import RESULTS, finish
from jaxtune.training.loop import Loop, LoopRecord
from jaxtune.training.network import build_network
from jaxtune.training.precision import with_precision
from jaxtune.training.prepare import Prepared, plan_run
from jaxtune.training.progress import Progress, make_progress
from jaxtune.training.run import BASE, Run, headline
from jaxtune.training.state import TrainState, count


def train(experiment: Experiment, *, quiet: bool = False) -> Run:
    """Train, or go on with, the run that ``experiment`` describes; what ``jaxtune train`` does.

    Starting the same experiment again resumes from the newest sound checkpoint; a finished run
    is returned as it is.

    Args:
        quiet: print nothing.

    Raises:
        JaxtuneError: whatever keeps the run from starting or going on; see ``jaxtune.errors``.
    """
    validate(experiment)
    require_sources(experiment)
    progress = make_progress(quiet=quiet)
    with locked(files.join(experiment.output, experiment.name)):
        directory, experiment = RunDirectory.open(experiment)
        run = Run(directory)
        if files.exists(directory.file(RESULTS)):
            progress.say(f"{directory.path} is finished; its results: {headline(run.results)}")
            return run
        prepared, reason = _prepare(experiment, directory, progress)
        run.interrupted = _train(prepared, directory, progress, reason)
    return run


def _prepare(experiment: Experiment, directory: RunDirectory, progress: Progress) -> tuple[Prepared, str]:
    """Everything up to the first compilation. The data is read before any device is touched, so that a
    mistake in it does not cost time on an accelerator."""
    task = make_task(experiment)
    rows = Rows(experiment.data, task.columns_read, make_rewrite(experiment.data))
    description = _describe(experiment, directory, rows)
    check_fit(experiment, description)
    splits = rows.tokenize(task.for_model(description), description.tokenizer)
    for split in splits.values():
        progress.say(split.summary())
    experiment, reason = with_precision(splits.task.settle(experiment))
    directory.save_config(dataclasses.replace(experiment, resume="auto", overwrite=False))
    progress.say(f"precision: {experiment.model.precision}, {reason}")
    network = build_network(experiment, splits.task, description.tokenizer, description.config)
    prepared = plan_run(experiment, network, splits, description.raw_config)
    progress.say(f"plan: {prepared.plan.describe()}")
    return prepared, reason


def _train(
    prepared: Prepared, directory: RunDirectory, progress: Progress, reason: str
) -> signal.Signals | None:
    """The loop and the finish; returns the signal that stopped it, if one did."""
    keep = prepared.experiment.train.keep
    with Checkpoints(directory.checkpoints, keep=keep) as checkpoints:
        state, record, position, resumed = _start_or_resume(prepared, directory, checkpoints, progress)
        extra = {"precision": reason, "peak_flops": prepared.peak, "parameters": count(state.params)}
        extra["trained_parameters"] = count(state.trainable)
        extra["rows"] = prepared.rows_fingerprints
        entry = collect_provenance(prepared.fingerprints, extra)
        write_provenance(directory.path, entry, resumed_step=resumed)
        log = MetricsLog(directory.path, resumed_step=resumed, primary=jax.process_index() == 0)
        try:
            outcome = Loop(prepared, state, record, position, checkpoints, log, progress).run()
        finally:
            log.close()
        if outcome.interrupted is not None:
            progress.say(
                f"{outcome.interrupted.name}: saved at step {int(outcome.state.step)} in {directory.path}; "
                "start the same command again to go on from there"
            )
            return outcome.interrupted
        finish(prepared, directory, checkpoints, outcome, entry, progress)
    return None


def _start_or_resume(
    prepared: Prepared, directory: RunDirectory, checkpoints: Checkpoints, progress: Progress
) -> tuple[TrainState, LoopRecord, dict[str, Any] | None, int | None]:
    """State, loop record, data position and resumed step: of the newest sound checkpoint, or fresh ones."""
    restored = checkpoints.restore(prepared.abstract_state())
    if restored is None:
        if prepared.experiment.resume == "must":
            raise RunError(
                f"{directory.path} has no finished checkpoint to resume from; --resume auto starts it"
            )
        return _fresh_state(prepared, directory, progress), LoopRecord(), None, None
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


def _fresh_state(prepared: Prepared, directory: RunDirectory, progress: Progress) -> TrainState:
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
    save_description(directory.file(BASE), network.pretrained(params, prepared.raw_config))
    state = prepared.initial_state(params)
    share = f" of {count(state.params):,}" if state.frozen else ""
    progress.say(
        f"{count(state.trainable):,}{share} parameters to train, on {prepared.network.mesh.size} "
        f"{jax.devices()[0].platform} device(s)"
    )
    return state


def _describe(experiment: Experiment, directory: RunDirectory, rows: Rows) -> Description:
    """Config and tokenizer: the run's own copy once it has one."""
    base = directory.file(BASE)
    if directory.has_checkpoints() and files.exists(files.join(base, "config.json")):
        return read_description(base)
    return describe_start(experiment.model, rows.texts)


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
