"""A grid of runs, tasks and seeds as a table of results: means, deviations, and which differences are real."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from jaxtune.directions import higher_is_better
from jaxtune.errors import RunError
from jaxtune.reports.records import RunRecord
from jaxtune.reports.significance import (
    RESAMPLES,
    Bootstrap,
    Randomisation,
    Scores,
    approximate_randomisation,
    paired_bootstrap,
)
from jaxtune.reports.table_description import SystemRow, TableDescription, TaskColumn


@dataclass(frozen=True)
class Comparison:
    """A cell against the same cell of the baseline.

    Attributes:
        bootstrap: with the confidence interval of the difference.
        randomisation: the second opinion.
        better: the difference is for the better.
        significant: both p-values are below the table's level.
    """

    bootstrap: Bootstrap
    randomisation: Randomisation
    better: bool
    significant: bool


@dataclass(frozen=True)
class Cell:
    """One system on one task by one metric.

    Attributes:
        values: seed → value, of the runs that are finished.
        missing: seeds without a finished run.
        runs: names of the finished runs, in the order of ``values``.
        published: a figure from the literature instead.
        best: the best mean of the column.
        comparison: with the baseline, where both have runs and the metric can be computed per example.
    """

    values: Mapping[int, float] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    published: float | None = None
    best: bool = False
    comparison: Comparison | None = None

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; a published figure as it is."""
        return statistics.fmean(self.values.values()) if self.values else self.published

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds with n - 1; none of a single one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


Column = tuple[TaskColumn, str]
"""A task and one of its metrics."""


@dataclass(frozen=True)
class ResultTable:
    """A table, ready to be written.

    Attributes:
        columns: in order.
        cells: (row name, task name, metric) → cell.
        resamples: draws of each test.
    """

    description: TableDescription
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, str, str], Cell]
    resamples: int

    def row(self, row: SystemRow) -> list[Cell]:
        """The cells of a row, in the order of the columns."""
        return [self.cells[row.name, task.name, metric] for task, metric in self.columns]

    def missing(self) -> list[str]:
        """Names of the runs that the table lacks."""
        d = self.description
        found = {
            d.run_name(row, task, seed): None
            for row in d.rows
            for task, metric in self.columns
            for seed in self.cells[row.name, task.name, metric].missing
        }
        return list(found)


def cells_of(description: TableDescription) -> Iterator[tuple[SystemRow, TaskColumn, int, str]]:
    """Row, task, seed and run name of every run that a table asks for."""
    for row in description.rows:
        if row.is_measured:
            for task in description.tasks:
                for seed in description.seeds_of(row):
                    yield row, task, seed, description.run_name(row, task, seed)


def build_table(
    description: TableDescription, records: Mapping[str, RunRecord], *, resamples: int = RESAMPLES
) -> ResultTable:
    """The table of a description from the records of its finished runs.

    Args:
        records: run name → record; runs that are missing here are marked in their cells.
        resamples: draws of each test of significance.

    Raises:
        RunError: runs of one task on different data or with the wrong seed, or a metric that a run does not have.
    """
    check_same_data(description, records)
    columns = tuple((task, metric) for task in description.tasks for metric in task.metrics)
    cells: dict[tuple[str, str, str], Cell] = {}
    for task, metric in columns:
        column = {row.name: _cell(description, row, task, metric, records) for row in description.rows}
        column = _with_comparisons(description, task, metric, column, records, resamples)
        best = _best(column, metric)
        for name, cell in column.items():
            cells[name, task.name, metric] = replace(cell, best=name in best)
    return ResultTable(description, columns, cells, resamples)


def check_same_data(description: TableDescription, records: Mapping[str, RunRecord]) -> None:
    """Refuse to compare runs of a task that saw different data.

    The rows that are evaluated must be the same in all runs of a task. Runs with the same data section must agree in
    the rows of all splits; where model and tokenizer are the same too, token by token.

    Raises:
        RunError: naming the task, the split and the runs of each version.
    """
    for task in description.tasks:
        found = [
            records[name] for _, one, _, name in cells_of(description) if one is task and name in records
        ]
        _refuse_different(task, "evaluated split", {r.name: r.split for r in found})
        for split in dict.fromkeys(record.split for record in found):
            _refuse_different(
                task, f"rows of the {split} split", {r.name: r.rows.get(split, "") for r in found}
            )
        for group in _alike(found, ()):
            _refuse_different_splits(task, "rows", {r.name: r.rows for r in group})
        for group in _alike(found, ("source", "tokenizer", "normalizer")):
            _refuse_different_splits(task, "tokens", {r.name: r.fingerprints for r in group})


def _alike(records: Iterable[RunRecord], model_fields: tuple[str, ...]) -> Iterable[list[RunRecord]]:
    """Groups of runs with the same data section, and the same of some fields of the model section."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        model = record.config.get("model") or {}
        key = [record.config.get("data"), *(model.get(name) for name in model_fields)]
        groups.setdefault(json.dumps(key, sort_keys=True, default=str), []).append(record)
    return groups.values()


def _refuse_different_splits(task: TaskColumn, what: str, versions: Mapping[str, Mapping[str, str]]) -> None:
    """As ``_refuse_different`` for each split, among the runs (name → split → version) that know it."""
    for split in dict.fromkeys(split for known in versions.values() for split in known):
        found = {name: known[split] for name, known in versions.items() if split in known}
        _refuse_different(task, f"{what} of the {split} split", found)


def _refuse_different(task: TaskColumn, what: str, versions: Mapping[str, str]) -> None:
    groups: dict[str, list[str]] = {}
    for name, version in versions.items():
        groups.setdefault(version, []).append(name)
    if len(groups) > 1:
        listed = "\n  ".join(
            f"{version or 'unknown'}: {', '.join(names)}" for version, names in groups.items()
        )
        raise RunError(
            f"runs of the task {task.name!r} differ in the {what}, so they cannot stand in one table:\n  {listed}\n"
            "Train those on the old data again, under another --runs-dir or after removing them."
        )


def _cell(
    description: TableDescription,
    row: SystemRow,
    task: TaskColumn,
    metric: str,
    records: Mapping[str, RunRecord],
) -> Cell:
    if row.published is not None:
        return Cell(published=row.published.get(task.name, {}).get(metric))
    values: dict[int, float] = {}
    runs, missing = [], []
    for seed in description.seeds_of(row):
        name = description.run_name(row, task, seed)
        if name not in records:
            missing.append(seed)
            continue
        record = records[name]
        if row.program is None and record.seed != seed:
            raise RunError(f"{name} was trained with the seed {record.seed}, the table asks for {seed}")
        values[seed] = record.metric(metric)
        runs.append(name)
    return Cell(values, tuple(missing), tuple(runs))


def _best(column: Mapping[str, Cell], metric: str) -> set[str]:
    """Names of the rows with the best mean; published figures and a lone row do not compete."""
    means = {name: cell.mean for name, cell in column.items() if cell.values}
    known = {name: mean for name, mean in means.items() if mean is not None}
    if len(known) < 2:
        return set()
    best = max(known.values()) if higher_is_better(metric) else min(known.values())
    return {name for name, mean in known.items() if mean == best}


def _with_comparisons(
    description: TableDescription,
    task: TaskColumn,
    metric: str,
    column: dict[str, Cell],
    records: Mapping[str, RunRecord],
    resamples: int,
) -> dict[str, Cell]:
    baseline = description.baseline
    if baseline is None:
        return column
    theirs = _scores(column[baseline], metric, records)
    done = dict(column)
    for name, cell in column.items():
        ours = _scores(cell, metric, records)
        pairing = None if name == baseline else _paired(ours, theirs)
        if pairing is not None:
            done[name] = replace(
                cell, comparison=_compare(*pairing, metric, description.significance, resamples)
            )
    return done


def _scores(cell: Cell, metric: str, records: Mapping[str, RunRecord]) -> dict[int, Scores]:
    found = {seed: records[name].scores(metric) for seed, name in zip(cell.values, cell.runs)}
    return {seed: scores for seed, scores in found.items() if scores is not None}


def _paired(
    ours: Mapping[int, Scores], theirs: Mapping[int, Scores]
) -> tuple[list[Scores], list[Scores]] | None:
    """Runs to compare: of the seeds that both have; a single run goes with all of the other side."""
    if not ours or not theirs:
        return None
    if 1 in (len(ours), len(theirs)):
        return list(ours.values()), list(theirs.values())
    common = [seed for seed in ours if seed in theirs]
    return ([ours[s] for s in common], [theirs[s] for s in common]) if common else None


def _compare(
    ours: list[Scores], theirs: list[Scores], metric: str, level: float, resamples: int
) -> Comparison:
    bootstrap = paired_bootstrap(ours, theirs, resamples=resamples)
    randomisation = approximate_randomisation(ours, theirs, resamples=resamples)
    return Comparison(
        bootstrap,
        randomisation,
        better=(bootstrap.difference > 0) == higher_is_better(metric) and bootstrap.difference != 0,
        significant=max(bootstrap.p_value, randomisation.p_value) < level,
    )
