"""The runs of a table: which there are, and how to make the others."""

from __future__ import annotations

import importlib.util
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from jaxtune import files
from jaxtune.config import Experiment, dump_yaml, from_dict, to_dict
from jaxtune.errors import ConfigError, RunError
from jaxtune.persistence.metrics_log import read_metrics
from jaxtune.persistence.run_directory import FREE_FIELDS, differences
from jaxtune.reports.records import RECORD, RESULTS, RunRecord, dump_record, load_record, read_run
from jaxtune.reports.result_tables import cells_of
from jaxtune.reports.seed_curves import draw_seed_curves
from jaxtune.reports.style import pictures
from jaxtune.reports.table_description import SystemRow, TableDescription, TaskColumn, slug
from jaxtune.training.stop_signals import EXIT_CODES

State = Literal["finished", "cut off", "missing"]
CONFIGS = "tables"
"""Folder beside the runs that holds the configurations a table started them with."""
_OWN_FIELDS = ("name", "output", "resume", "overwrite", "train.seed", "version")
"""Fields that the table itself decides."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableRun:
    """One run that a table asks for.

    Attributes:
        name: of the run.
        path: its directory.
        experiment: what it is; for a program, the experiment whose data it is to use.
        program: script that makes the record, if it is no training run.
    """

    name: str
    path: str
    experiment: Experiment
    program: str | None = None

    @property
    def state(self) -> State:
        """Whether it is finished, was begun, or is not there."""
        if any(files.exists(files.join(self.path, name)) for name in (RESULTS, RECORD)):
            return "finished"
        return "cut off" if files.exists(files.join(self.path, "config.yaml")) else "missing"

    def record(self) -> RunRecord:
        """The record of the finished run.

        Raises:
            RunError: it was made with another configuration than the table asks for.
        """
        found = read_run(self.path)
        if self.program is None:
            asked = to_dict(self.experiment)
            different = differences({**asked, **found.config}, asked, FREE_FIELDS)
            if different:
                raise RunError(
                    f"{self.path} was made with another configuration than the table asks for:\n  "
                    + "\n  ".join(different)
                    + "\nRemove that run, or use another --runs-dir."
                )
        return found

    def command(self, config: str) -> list[str]:
        """The command that makes the run, or goes on with it."""
        if self.program is not None:
            return [sys.executable, self.program, "--config", config, "--output", self.path]
        return [sys.executable, "-m", "jaxtune.cli", "train", "--config", config]


def table_runs(description: TableDescription, runs_dir: str) -> list[TableRun]:
    """Every run that a table asks for, in the order of its rows.

    Raises:
        ConfigError: no such preset, a field that an experiment does not have, or a value it cannot have.
    """
    presets = _read_presets(description)
    return [
        TableRun(
            name=name,
            path=files.join(runs_dir, name),
            experiment=_experiment(description, presets, row, task, seed, name, runs_dir),
            program=None if row.program is None else description.beside(row.program),
        )
        for row, task, seed, name in cells_of(description)
    ]


def finished_records(runs: Sequence[TableRun]) -> dict[str, RunRecord]:
    """Run name → record of those that are finished."""
    return {run.name: run.record() for run in runs if run.state == "finished"}


def load_records(folder: str) -> dict[str, RunRecord]:
    """Run name → record of every file in a folder that ``save_records`` wrote.

    Raises:
        RunError: no such folder, or one of the files is no record.
    """
    if not files.is_dir(folder):
        raise RunError(f"{folder}: there is no such folder of records")
    paths = [files.join(folder, name) for name in sorted(files.list_dir(folder)) if name.endswith(".json")]
    if not paths:
        raise RunError(f"{folder} holds no records (.json); jaxtune table NAME --save {folder} writes them")
    records = [load_record(path) for path in paths]
    return {record.name: record for record in records}


def save_records(folder: str, records: Mapping[str, RunRecord]) -> None:
    """One file per run; a record of the same name is replaced."""
    for name, record in records.items():
        files.write_text(files.join(folder, f"{name}.json"), dump_record(record))


def launch_missing(
    description: TableDescription,
    runs: Sequence[TableRun],
    runs_dir: str,
    start: Callable[[list[str]], int] | None = None,
) -> int:
    """Make what is not finished, one after the other, each in a process of its own.

    What was cut off goes on from its checkpoint. A run that fails does not keep the next ones from starting.

    Args:
        start: runs a command and returns its exit status.

    Returns:
        0, or the exit status of a run that a signal stopped; then no further one is started.

    Raises:
        RunError: runs that failed, at the end; or a finished one of another configuration, at the beginning.
    """
    finished_records(runs)
    todo = [run for run in runs if run.state != "finished"]
    logger.info("%d of %d runs are finished", len(runs) - len(todo), len(runs))
    failed = []
    for i, run in enumerate(todo, start=1):
        config = files.join(runs_dir, CONFIGS, description.name, f"{run.name}.yaml")
        files.write_text(config, dump_yaml(run.experiment))
        verb = "going on with" if run.state == "cut off" else "starting"
        logger.info("[%d/%d] %s %s", i, len(todo), verb, run.name)
        status = (start or _start)(run.command(config))
        if status in {*EXIT_CODES.values(), run.experiment.train.preempted_exit_code}:
            logger.info("%s was stopped; the same command goes on with it", run.name)
            return status
        if status != 0 or run.state != "finished":
            failed.append(f"{run.name} (exit status {status})")
    if failed:
        raise RunError("these runs failed, see what they said above: " + ", ".join(failed))
    return 0


def write_plots(folder: str, description: TableDescription, runs: Sequence[TableRun]) -> int:
    """Learning curves across the seeds of each system and task, from what its runs have logged so far.

    Returns:
        how many, each a PNG and an SVG.
    """
    paths = {run.name: run.path for run in runs if run.program is None and run.state != "missing"}
    groups: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
    metrics = {task.name: task.metrics[0] for task in description.tasks}
    for row, task, seed, name in cells_of(description):
        if name in paths:
            groups.setdefault((row.name, task.name), {})[seed] = read_metrics(paths[name])
    for (row_name, task_name), found in groups.items():
        figure = draw_seed_curves(found, metric=metrics[task_name], title=f"{row_name}, {task_name}")
        for name, data in pictures(f"{slug(row_name)}-{slug(task_name)}", figure).items():
            files.write_bytes(files.join(folder, name), data)
    return len(groups)


def _start(command: list[str]) -> int:
    with subprocess.Popen(command) as process, _passing_on(process):
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # The terminal sent it to the run as well, which saves and ends.
                continue


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A SIGTERM to us is one to the run, which then saves and ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _read_presets(description: TableDescription) -> Mapping[str, Experiment]:
    """The ``PRESETS`` of the file that a table names: name → (description, experiment)."""
    if description.presets is None:
        return {}
    path = description.beside(description.presets)
    if not files.exists(path):
        raise ConfigError(f"{description.path}: `presets` names {path}, and there is no such file")
    spec = importlib.util.spec_from_file_location("jaxtune_table_presets", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{description.path}: `presets` names {path}; expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    presets = getattr(module, "PRESETS", None)
    if not isinstance(presets, Mapping):
        raise ConfigError(f"{path} has no PRESETS; expected a dict: name → (description, Experiment)")
    return {name: experiment for name, (_, experiment) in presets.items()}


def _experiment(
    description: TableDescription,
    presets: Mapping[str, Experiment],
    row: SystemRow,
    task: TaskColumn,
    seed: int,
    name: str,
    runs_dir: str,
) -> Experiment:
    """The preset, then what the table sets, then task and row (which set different fields)."""
    preset = row.preset or task.preset
    if preset is not None and preset not in presets:
        raise ConfigError(f"{description.path}: no preset {preset!r}; there are: {', '.join(presets)}")
    tree = to_dict(presets[preset] if preset is not None else Experiment())
    for path, value in {**description.set, **task.set, **row.set}.items():
        if path in _OWN_FIELDS:
            raise ConfigError(f"{description.path}: `{path}` is decided by the table; leave it out of `set`")
        _put(tree, path, value, description.path)
    tree |= {"name": name, "output": runs_dir, "resume": "auto", "overwrite": False}
    tree["train"]["seed"] = seed
    return from_dict(tree, f"{description.path}: {name}")


def _put(tree: dict[str, Any], path: str, value: Any, where: str) -> None:
    *sections, last = path.split(".")
    for section in sections:
        inner = tree.get(section)
        if not isinstance(inner, dict):
            raise ConfigError(f"{where}: unknown field `{path}` in `set`; there is no section {section!r}")
        tree = inner
    tree[last] = value
