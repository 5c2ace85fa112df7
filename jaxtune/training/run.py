"""A run directory opened: what it says, and what can be done with its best model."""

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
from jaxtune.config import Experiment, MeshConfig
from jaxtune.data.pipeline import load_splits
from jaxtune.data.records import Records
from jaxtune.data.sources import open_source
from jaxtune.data.tokenizing import tokenize_records
from jaxtune.errors import DataError, RunError
from jaxtune.hub.description import Description, read_description
from jaxtune.hub.fetching.cache import cache_dir
from jaxtune.hub.pretrained import Pretrained, load_pretrained
from jaxtune.hub.saving import save_pretrained
from jaxtune.models.model import build_model, init_params
from jaxtune.parallel.mesh import imagined_mesh, that_fits
from jaxtune.parallel.rules import check_heads, layout_table, rules_of
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.persistence.metrics_log import read_metrics
from jaxtune.persistence.provenance import machine, versions
from jaxtune.persistence.run_directory import RunDirectory
from jaxtune.tasks.base import Task
from jaxtune.tasks.registry import make_task
from jaxtune.training.finish import BEST, RESULTS
from jaxtune.training.network import Network, build_network
from jaxtune.training.precision import resolve_precision
from jaxtune.training.state import partition

BASE = "base"
"""Folder of a run that holds its config.json and tokenizer: all of the first checkpoint but the weights."""

logger = logging.getLogger(__name__)


def headline(results: Mapping[str, Any]) -> str:
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
            _check_columns(records, data, tuple(network.task.columns_read.values()))
            names = records.label_names.get(config.label, ())
            done = tokenize_records(
                records, network.task, network.tokenizer, on_error=config.on_error, source_names=names
            )
            if done.skipped:
                logger.warning("%s: %d rows skipped, the first: %s", data, len(done.skipped), done.skipped[0])
            return network.evaluate(params, done).metrics
        splits = load_splits(config, network.task, network.tokenizer)
        if split not in splits:
            raise DataError(f"{self.path} has no split {split!r}; it has: {', '.join(splits)}")
        return network.evaluate(params, splits[split]).metrics

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
            "results": headline(self.results) if finished else "none yet",
        }

    def sharding(self, mesh: MeshConfig | None = None) -> list[dict[str, Any]]:
        """Where the parameters lie on a mesh, row by row; see ``parallel.rules.layout_table``.

        Args:
            mesh: sizes of the axes, for which no devices are needed; none takes the run's own.

        Raises:
            ConfigError: the model does not fit these sizes; says what would.
        """
        mesh = mesh or self.config.mesh
        model = build_model(self._description.config, self._task.head, self._task.num_labels)
        imagined = imagined_mesh(mesh)
        check_heads(*model.family.attention_heads(model.config), imagined)
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        return layout_table(shapes, rules_of(model.family.model_type, mesh.rules), imagined)

    @cached_property
    def _description(self) -> Description:
        base = self.directory.file(BASE)
        if not files.exists(files.join(base, "config.json")):
            raise RunError(f"{self.path} has not begun to train yet; start its command again")
        return read_description(base)

    @cached_property
    def _task(self) -> Task:
        """The task, with the labels that the run settled."""
        description, experiment = self._description, self.config
        settled = dataclasses.replace(experiment.data, labels=description.labels)
        return make_task(dataclasses.replace(experiment, data=settled)).for_model(description)

    @cached_property
    def _network(self) -> tuple[Network, Any]:
        """The model on this machine's devices, with the parameters of the best checkpoint."""
        description, task = self._description, self._task
        mesh = that_fits(self.config.mesh, len(jax.devices()))
        experiment = dataclasses.replace(self.config, mesh=mesh)
        network = build_network(experiment, task, description.tokenizer, description.config)
        best = self.directory.file(BEST)
        if files.exists(self.directory.file(RESULTS)):
            return network, network.place(load_pretrained(best, task.head, labels=task.labels).params)
        with Checkpoints(self.directory.checkpoints, writable=False) as checkpoints:
            trainable, frozen = partition(network.abstract_params(), network.trains)
            like = {"trainable": trainable, "frozen": frozen}
            restored = checkpoints.restore(like, checkpoints.best_step(), partial=True)
        if restored is None:
            raise RunError(f"{self.path} has no checkpoint yet; start its command again")
        return network, network.params_of(restored.state)


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
