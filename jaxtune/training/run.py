"""``train`` and ``open_run``: a run from its first start to its result, and what can be done with it."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax

from jaxtune import files
from jaxtune.config import Experiment, require_sources, validate
from jaxtune.data.pipeline import load_splits
from jaxtune.data.records import Records
from jaxtune.data.sources import open_source
from jaxtune.data.tokenizing import tokenize_records
from jaxtune.errors import ConfigError, DataError, RunError
from jaxtune.hub.cache import cache_dir
from jaxtune.hub.description import Description, read_description, save_description
from jaxtune.hub.pretrained import Pretrained, load_pretrained
from jaxtune.hub.saving import save_pretrained
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.persistence.metrics_log import MetricsLog, read_metrics
from jaxtune.persistence.provenance import collect_provenance, machine, versions, write_provenance
from jaxtune.persistence.run_directory import RunDirectory, locked
from jaxtune.tasks.registry import make_task
from jaxtune.training.finish import BEST, RESULTS, finish
from jaxtune.training.loop import Loop, LoopRecord
from jaxtune.training.network import Network, build_network
from jaxtune.training.precision import resolve_precision
from jaxtune.training.prepare import Prepared, plan_run
from jaxtune.training.progress import Progress, make_progress
from jaxtune.training.state import TrainState, count

BASE = "base"
"""Folder of a run that holds its config.json and tokenizer: all of the first checkpoint but the weights."""

logger = logging.getLogger(__name__)


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
            progress.say(f"{directory.path} is finished; its results: {_headline(run.results)}")
            return run
        prepared, reason = _prepare(experiment, directory, progress)
        run.interrupted = _train(prepared, directory, progress, reason)
    return run


def _prepare(experiment: Experiment, directory: RunDirectory, progress: Progress) -> tuple[Prepared, str]:
    """Everything up to the first compilation. The data is read before any device is touched, so that a
    mistake in it does not cost time on an accelerator."""
    description = read_description(_base_or_source(directory, experiment))
    check_fit(experiment, description)
    splits = load_splits(experiment.data, make_task(experiment), description.tokenizer)
    for split in splits.values():
        progress.say(split.summary())
    experiment, reason = _resolve(experiment)
    directory.save_config(dataclasses.replace(experiment, resume="auto", overwrite=False))
    progress.say(f"precision: {experiment.model.precision}, {reason}")
    network = build_network(experiment, splits.task, description.tokenizer, description.config)
    prepared = plan_run(experiment, network, splits)
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
        raw_config = read_description(directory.file(BASE)).raw_config
        finish(prepared, directory, checkpoints, outcome, raw_config, entry, progress)
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
    state = restored.state
    if prepared.experiment.model.scan_layers:
        state = prepared.network.place(state)
    progress.say(f"resumed from step {restored.step} of {prepared.plan.num_steps}")
    return state, LoopRecord.from_record(saved["loop"]), saved["data"], restored.step


def _fresh_state(prepared: Prepared, directory: RunDirectory, progress: Progress) -> TrainState:
    """Parameters from the checkpoint that the experiment names, on the mesh."""
    experiment, task = prepared.experiment, prepared.task
    pretrained = load_pretrained(
        experiment.model.source,
        task.head,
        labels=task.labels,
        seed=experiment.train.seed,
        new_head=experiment.model.new_head,
    )
    save_description(directory.file(BASE), pretrained)
    state = prepared.initial_state(pretrained.params)
    progress.say(
        f"{count(state.trainable):,} parameters to train, on {prepared.network.mesh.size} "
        f"{jax.devices()[0].platform} device(s)"
    )
    return state


def _resolve(experiment: Experiment) -> tuple[Experiment, str]:
    """The experiment with its precision settled, and why it is that."""
    precision, reason = resolve_precision(experiment.model.precision)
    model = dataclasses.replace(experiment.model, precision=precision)
    return dataclasses.replace(experiment, model=model), reason


def _base_or_source(directory: RunDirectory, experiment: Experiment) -> str:
    """Where config and tokenizer come from: the run's own copy once it has one."""
    base = directory.file(BASE)
    started = directory.has_checkpoints() and files.exists(files.join(base, "config.json"))
    return base if started else experiment.model.source


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
    if experiment.data.max_length > longest:
        raise ConfigError(
            f"`data.max_length` is {experiment.data.max_length}, but the checkpoint has positions for {longest} tokens"
        )
    if len(tokenizer) > config.vocab_size:
        raise ConfigError(
            f"the tokenizer of {experiment.model.source} has {len(tokenizer)} tokens, but the model's embedding "
            f"only {config.vocab_size} rows; they do not belong together"
        )


def _headline(results: Mapping[str, Any]) -> str:
    metric = results["metric"]
    shown = [
        f"{s} {metric} {m[metric]:.4f}" for s, m in results["splits"].items() if m.get(metric) is not None
    ]
    return ", ".join(shown) or "none"


def open_run(path: str) -> Run:
    """A run directory, local or remote, to look at, evaluate, predict with or export.

    Raises:
        RunError: there is none.
    """
    return Run(RunDirectory.existing(str(path)))


class Run:
    """One run directory.

    Attributes:
        path: the directory.
        interrupted: the signal that stopped ``train``, if one did.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.path = directory.path
        self.interrupted: signal.Signals | None = None

    @property
    def config(self) -> Experiment:
        """The resolved experiment."""
        return self.directory.experiment()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: training and validation."""
        return read_metrics(self.path)

    @property
    def results(self) -> dict[str, Any]:
        """Metrics per split of the best model; only of a finished run.

        Raises:
            RunError: the run has not finished.
        """
        path = self.directory.file(RESULTS)
        if not files.exists(path):
            raise RunError(f"{self.path} has not finished; start its command again to go on")
        return json.loads(files.read_text(path))

    def evaluate(self, split: str = "test", *, data: str | None = None) -> dict[str, Any]:
        """Metrics of the best model on a split, or on another labelled source.

        Raises:
            DataError: no such split, or rows that cannot be read.
        """
        network, params = self._network
        config = network.experiment.data
        if data is not None:
            records = open_source(data)
            _check_columns(records, data, (config.text, config.text_pair, config.label))
            names = records.label_names.get(config.label, ())
            done = tokenize_records(
                records, network.task, network.tokenizer, on_error=config.on_error, source_names=names
            )
            if done.skipped:
                logger.warning("%s: %d rows skipped, the first: %s", data, len(done.skipped), done.skipped[0])
            return network.evaluate(params, done.examples).metrics
        splits = load_splits(config, network.task, network.tokenizer)
        if split not in splits:
            raise DataError(f"{self.path} has no split {split!r}; it has: {', '.join(splits)}")
        return network.evaluate(params, splits[split].examples).metrics

    def predict(self, records: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What the best model says of each text or record, in order; labels are not needed.

        Raises:
            DataError: of the first record that cannot be read.
        """
        column, pair = self.config.data.text, self.config.data.text_pair
        if pair is not None and any(isinstance(record, str) for record in records):
            raise DataError(
                f"{self.path} reads pairs of texts; expected records with the columns {column!r} and {pair!r}, "
                "as a file given with --input"
            )
        rows = [{column: record} if isinstance(record, str) else record for record in records]
        network, params = self._network
        return network.predict(params, rows, lambda i: f"record {i + 1}") if rows else []

    def predict_file(self, source: str) -> list[dict[str, Any]]:
        """Predictions for every row of a file or other source; each row is repeated beside its prediction."""
        records, data = open_source(source), self.config.data
        _check_columns(records, source, (data.text, data.text_pair))
        rows = [records[i] for i in range(len(records))]
        network, params = self._network
        answers = network.predict(params, rows, records.where) if rows else []
        return [{**_plain(row), "prediction": answer} for row, answer in zip(rows, answers)]

    def pretrained(self) -> Pretrained:
        """The best model so far, callable as what ``load_pretrained`` gives."""
        network, params = self._network
        return network.pretrained(network.to_canonical(params), self._description.raw_config)

    def export(self, folder: str, *, overwrite: bool = False) -> None:
        """Write the best model as a Hugging Face folder.

        Raises:
            RunError: the folder is in use.
        """
        save_pretrained(folder, self.pretrained(), overwrite=overwrite)

    def describe(self) -> dict[str, Any]:
        """Where the run stands."""
        checkpoints = Checkpoints(self.directory.checkpoints, writable=False)
        finished = files.exists(self.directory.file(RESULTS))
        config, rows = self.config, self.metrics
        return {
            "run": self.path,
            "task": config.task,
            "model": config.model.source,
            "data": config.data.train,
            "state": "finished" if finished else "not finished",
            "last logged step": rows[-1]["step"] if rows else 0,
            "checkpoints": ", ".join(map(str, checkpoints.steps())) or "none",
            "best checkpoint": checkpoints.best_step(),
            "results": _headline(self.results) if finished else "none yet",
        }

    @cached_property
    def _description(self) -> Description:
        base = self.directory.file(BASE)
        if not files.exists(files.join(base, "config.json")):
            raise RunError(f"{self.path} has not begun to train yet; start its command again")
        return read_description(base)

    @cached_property
    def _network(self) -> tuple[Network, Any]:
        """The model on this machine's devices, with the parameters of the best checkpoint."""
        description, experiment = self._description, self.config
        settled = dataclasses.replace(experiment.data, labels=description.labels)
        task = make_task(dataclasses.replace(experiment, data=settled))
        network = build_network(experiment, task, description.tokenizer, description.config)
        best = self.directory.file(BEST)
        if files.exists(self.directory.file(RESULTS)):
            return network, network.place(load_pretrained(best, task.head, labels=task.labels).params)
        with Checkpoints(self.directory.checkpoints, writable=False) as checkpoints:
            like = network.abstract_params()
            restored = checkpoints.restore({"trainable": like}, checkpoints.best_step(), partial=True)
        if restored is None:
            raise RunError(f"{self.path} has no checkpoint yet; start its command again")
        return network, network.params_of({**restored.state, "frozen": {}})


def describe_machine() -> dict[str, Any]:
    """Versions, devices, and the precision that ``auto`` would take here, with the reason."""
    precision, reason = resolve_precision("auto")
    return {**versions(), **machine(), "precision": f"{precision} ({reason})", "cache": str(cache_dir())}


def _check_columns(records: Records, source: str, wanted: Sequence[str | None]) -> None:
    """Raises DataError for a source that lacks a column which the run reads."""
    for column in wanted:
        if column is not None and records.columns and column not in records.columns:
            raise DataError(
                f"{source}: there is no column {column!r}, which this run reads; the columns are "
                f"{', '.join(map(repr, records.columns))}. Rename the right one."
            )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record as JSON can hold it."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, Mapping):
            return {str(name): plain(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        if hasattr(value, "tolist"):  # NumPy's scalars and arrays
            return plain(value.tolist())
        return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

    return {name: plain(value) for name, value in row.items()}
