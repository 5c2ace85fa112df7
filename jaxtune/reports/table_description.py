"""The file that describes a table of results: which runs are its rows, which tasks its columns, which seeds.

```yaml
title: Sentiment in four domains
presets: ../classification.py     # beside this file; its PRESETS are the experiments
seeds: [0, 1, 2]
baseline: VADER                   # the row that differences are tested against
tasks:
  - {name: movie, preset: movie-reviews, metrics: [f1_macro, accuracy]}
rows:
  - {name: MiniLM}
  - {name: BiLSTM, set: {model.source: "new:bilstm"}}
  - {name: VADER, program: ../vader_baseline.py}
  - {name: VADER (published), published: {movie: {f1_macro: 0.61}}, source: "Hutto & Gilbert 2014"}
```

A run of a row on a task is the preset with the fields that the table, the task and the row set. A row with a
``program`` calls it once per task with ``--config`` (that experiment) and ``--output``; it writes a ``record.json``.
A ``published`` row is context: it is never bold and never tested.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtune import files
from jaxtune.errors import ConfigError

FOLDER = "experiments/tables"
"""Where a table that is named without a path is looked up."""


@dataclass(frozen=True)
class TaskColumn:
    """One task, a column per metric.

    Attributes:
        name: as the table shows it.
        metrics: names of metrics of the split.
        preset: experiment of the presets file.
        set: dotted field → value.
    """

    name: str
    metrics: tuple[str, ...]
    preset: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SystemRow:
    """One system.

    Attributes:
        name: as the table shows it.
        preset: experiment of the presets file, where the tasks name none.
        set: dotted field → value.
        seeds: instead of the table's.
        program: script that makes the records of this row, beside the description; it has one "seed".
        published: task → metric → figure from the literature.
        source: where published figures are from.
    """

    name: str
    preset: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    program: str | None = None
    published: Mapping[str, Mapping[str, float]] | None = None
    source: str | None = None

    @property
    def is_measured(self) -> bool:
        """Whether there are runs behind the row."""
        return self.published is None


@dataclass(frozen=True)
class TableDescription:
    """What ``jaxtune table`` makes.

    Attributes:
        name: of the file, without its ending; run names begin with it.
        path: of the file.
        significance: below which p-value (of both tests) a difference is marked.
        digits: decimals of a cell.
    """

    name: str
    path: str
    tasks: tuple[TaskColumn, ...]
    rows: tuple[SystemRow, ...]
    seeds: tuple[int, ...] = (0,)
    title: str = ""
    note: str = ""
    baseline: str | None = None
    presets: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    significance: float = 0.05
    digits: int = 3

    def seeds_of(self, row: SystemRow) -> tuple[int, ...]:
        """The seeds of a row; a program has none of its own and counts as one."""
        if row.program is not None:
            return (0,)
        return self.seeds if row.seeds is None else row.seeds

    def run_name(self, row: SystemRow, task: TaskColumn, seed: int) -> str:
        """Name of the run in one cell; the link between a table, its runs and its records."""
        parts = [slug(self.name), slug(row.name), slug(task.name)]
        return "-".join(parts if row.program is not None else [*parts, f"s{seed}"])

    def beside(self, path: str) -> str:
        """A path of the description, which is relative to its file."""
        if files.is_remote(path) or path.startswith("/"):
            return path
        return files.join(files.parent(self.path), path)


def slug(text: str) -> str:
    """A text as a part of a file name: ``VADER (3.3)`` → ``vader-3-3``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def find_description(name: str) -> str:
    """Path of the description that a user names: a file, or one of ``experiments/tables`` without its ending.

    Raises:
        ConfigError: there is none.
    """
    if name.endswith((".yaml", ".yml")):
        if files.exists(name) and not files.is_dir(name):
            return name
        raise ConfigError(
            f"{name}: there is no such file; expected a description of a table, or the name of one"
        )
    path = files.join(FOLDER, f"{name}.yaml")
    if files.exists(path):
        return path
    found = files.list_dir(FOLDER) if files.is_dir(FOLDER) else []
    known = ", ".join(sorted(f[:-5] for f in found if f.endswith(".yaml")))
    raise ConfigError(
        f"there is no table {name!r} in {FOLDER}; {f'there are: {known}' if known else 'give a .yaml file'}"
    )


def read_description(path: str) -> TableDescription:
    """Read and check a description.

    Raises:
        ConfigError: not YAML, a field that is unknown, missing, doubled or ill-typed, or names that do not fit
            together; with the file, and the line or field.
    """
    try:
        raw = _yaml(files.read_text(path), path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid UTF-8 at byte {error.start}") from None
    top = _Fields(raw, path, "")
    tasks, rows = top.take("tasks", list), top.take("rows", list)
    description = TableDescription(
        name=files.name(path).rpartition(".")[0],
        path=path,
        tasks=tuple(_task(_Fields(one, path, f"tasks[{i}]")) for i, one in enumerate(tasks)),
        rows=tuple(_row(_Fields(one, path, f"rows[{i}]")) for i, one in enumerate(rows)),
        seeds=tuple(top.items("seeds", int, (0,))),
        title=top.take("title", str, ""),
        note=top.take("note", str, ""),
        baseline=top.take("baseline", str, None),
        presets=top.take("presets", str, None),
        set=_settings(top),
        significance=float(top.take("significance", float, 0.05)),
        digits=top.take("digits", int, 3),
    )
    top.end()
    _check(description)
    return description


def _task(raw: _Fields) -> TaskColumn:
    task = TaskColumn(
        name=raw.take("name", str),
        metrics=tuple(raw.items("metrics", str)),
        preset=raw.take("preset", str, None),
        set=_settings(raw),
    )
    raw.end()
    return task


def _row(raw: _Fields) -> SystemRow:
    published = raw.take("published", dict, None)
    if published is not None:
        for task in published:
            figures = _Fields(published[task], raw.path, f"{raw.prefix}.published.{task}")
            for metric in published[task]:
                figures.take(metric, float)
    seeds = raw.items("seeds", int, None)
    row = SystemRow(
        name=raw.take("name", str),
        preset=raw.take("preset", str, None),
        set=_settings(raw),
        seeds=None if seeds is None else tuple(seeds),
        program=raw.take("program", str, None),
        published=published,
        source=raw.take("source", str, None),
    )
    raw.end()
    return row


def _settings(raw: _Fields) -> dict[str, Any]:
    """``set``: dotted fields, or nested ones, as dotted ones."""

    def flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in tree.items():
            found |= (
                flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
            )
        return found

    return flat(raw.take("set", dict, {}), "")


_TYPES = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}
_REQUIRED: Any = object()


class _Fields:
    """The fields of one mapping; each is taken once, and none may be left."""

    def __init__(self, raw: Any, path: str, prefix: str) -> None:
        if not isinstance(raw, dict):
            place = f"`{prefix}`" if prefix else "the file"
            raise ConfigError(f"{path}: {place} is to be a mapping of fields; got {type(raw).__name__}")
        self.path, self.prefix = path, prefix
        self._raw, self._taken = raw, list[str]()

    def take(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The value of a field; a whole number is a number too."""
        self._taken.append(name)
        if name not in self._raw or (self._raw[name] is None and default is None):
            if default is _REQUIRED:
                raise ConfigError(f"{self.path}: `{self._named(name)}` is missing; expected {_TYPES[kind]}")
            return default
        value = self._raw[name]
        right = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not right:
            raise ConfigError(f"{self.path}: `{self._named(name)}` expects {_TYPES[kind]}; got {value!r}")
        return value

    def items(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """A list whose entries are of one kind, all different, at least one."""
        found = self.take(name, list, default)
        if found is default:
            return found
        for value in found:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ConfigError(
                    f"{self.path}: `{self._named(name)}` expects {_TYPES[kind]} each; got {value!r}"
                )
        if not found or len(set(found)) < len(found):
            raise ConfigError(
                f"{self.path}: `{self._named(name)}` is {found}; expected at least one, all different"
            )
        return found

    def end(self) -> None:
        """Refuse what was not taken."""
        for name in self._raw:
            if name not in self._taken:
                near = difflib.get_close_matches(str(name), self._taken, n=1, cutoff=0.5)
                hint = f"did you mean `{near[0]}`?" if near else f"fields: {', '.join(self._taken)}"
                raise ConfigError(f"{self.path}: unknown field `{self._named(str(name))}`; {hint}")

    def _named(self, name: str) -> str:
        return f"{self.prefix}.{name}" if self.prefix else name


def _yaml(text: str, where: str) -> Any:
    """Strict YAML: a field that is given twice is an error."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        names = [loader.construct_object(key, deep=True) for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if names[i] in names[:i]:
                raise ConfigError(f"{where}:{key.start_mark.line + 1}: `{names[i]}` is given twice")
        return {
            name: loader.construct_object(value, deep=True) for name, (_, value) in zip(names, node.value)
        }

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = where if mark is None else f"{where}:{mark.line + 1}"
        raise ConfigError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error


def _check(d: TableDescription) -> None:
    """What the fields alone do not say. Raises ConfigError."""
    for what, named in (("tasks", d.tasks), ("rows", d.rows)):
        names = [slug(one.name) for one in named]
        if not names or "" in names or len(set(names)) < len(names):
            shown = [one.name for one in named]
            raise ConfigError(
                f"{d.path}: the names of `{what}` are {shown}; expected at least one, all different"
            )
    runs = [
        d.run_name(row, task, seed)
        for row in d.rows
        if row.is_measured
        for task in d.tasks
        for seed in d.seeds_of(row)
    ]
    twice = sorted({name for name in runs if runs.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{d.path}: two cells would have a run of the same name, {twice[0]}; name them otherwise"
        )
    measured = [row.name for row in d.rows if row.is_measured]
    if d.baseline is not None and d.baseline not in measured:
        raise ConfigError(
            f"{d.path}: `baseline` is {d.baseline!r}; expected one of the rows with runs: {measured}"
        )
    if not 0 < d.significance < 1 or not 0 <= d.digits <= 10:
        raise ConfigError(f"{d.path}: expected a `significance` between 0 and 1, and `digits` from 0 to 10")
    for i, row in enumerate(d.rows):
        _check_row(d, row, f"{d.path}: `rows[{i}]` ({row.name})")


def _check_row(d: TableDescription, row: SystemRow, where: str) -> None:
    if row.published is not None:
        given = [f.name for f in dataclasses.fields(row) if f.name not in ("name", "published", "source")]
        if any(getattr(row, name) for name in given):
            raise ConfigError(
                f"{where} has published figures, so it has no runs: leave out {', '.join(given)}"
            )
        metrics = {task.name: task.metrics for task in d.tasks}
        for name, figures in row.published.items():
            for metric in figures:
                if metric not in metrics.get(name, ()):
                    raise ConfigError(f"{where}: the table has no column `{name}`, `{metric}`")
        return
    for task in d.tasks:
        if row.preset is not None and task.preset is not None:
            raise ConfigError(f"{where}: this row and the task {task.name!r} both name a preset; which one?")
        both = sorted(set(row.set) & set(task.set))
        if both:
            raise ConfigError(f"{where}: this row and the task {task.name!r} both set {', '.join(both)}")
        if (row.preset or task.preset) and d.presets is None:
            raise ConfigError(
                f"{d.path}: `presets` is missing; which file holds {row.preset or task.preset!r}?"
            )
