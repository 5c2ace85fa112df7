"""The compact record of a finished run: what a table needs of it, in one JSON file that can be kept for good.

It holds the configuration, fingerprints of the data, all metrics, and what the run said of each example of the last
split (no texts), so that a table and its tests of significance can be computed again without the run. A program
that is no training run takes part in a table by writing such a file, ``record.json``, in a folder of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxtune import files
from jaxtune.config import load_yaml, to_dict
from jaxtune.errors import RunError
from jaxtune.reports.example_scores import ExampleScores, example_scores
from jaxtune.reports.significance import Scores

FORMAT = 1
"""Written into every record; a file with a larger number comes from a newer jaxtune."""
RECORD = "record.json"
RESULTS = "results.json"
"""The file that a run writes last."""
DIGITS = 6
"""Significant digits of the numbers kept per example."""
AGREES = 1e-3
"""How far a metric may be from the one computed anew from its examples, by rounding."""

_PLACES = ("output", "resume", "overwrite")
"""Fields of a configuration that say where a run lies, not what it is."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One finished run.

    Attributes:
        name: of the run.
        config: its configuration as nested dicts; what else a program wants to say of itself.
        split: the split that ``examples`` are of.
        metrics: split → metrics.
        fingerprints: split → content hash of its tokens and targets.
        rows: split → content hash that does not depend on the tokenizer; of ``split`` at least.
        examples: what the run said of each example.
        made: when, with which versions, on which machine.
    """

    name: str
    config: Mapping[str, Any]
    split: str
    metrics: Mapping[str, Mapping[str, Any]]
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    examples: ExampleScores = field(default_factory=ExampleScores)
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """The seed it was trained with, if it was."""
        train = self.config.get("train")
        return train.get("seed") if isinstance(train, Mapping) else None

    def metric(self, name: str) -> float:
        """A metric of the split.

        Raises:
            RunError: there is no such number, or it is not what the examples say.
        """
        found = self.metrics.get(self.split, {})
        value = found.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            known = ", ".join(key for key, one in found.items() if isinstance(one, int | float))
            raise RunError(
                f"{self.name} has no metric {name!r} of the {self.split} split; it has: {known or 'none'}"
            )
        scores = self.examples.scores(name)
        if name not in self.examples.columns and scores is not None and not _agree(scores.value(), value):
            raise RunError(
                f"{self.name}: its {name} is {value:.6g}, but its examples give {scores.value():.6g}; "
                "the record was changed or mixed up. Make it anew from the run."
            )
        return float(value)

    def scores(self, name: str) -> Scores | None:
        """The scores behind a metric; None where the examples do not give it.

        A task may write a score per example whose mean is not the metric, as BLEU of a sentence: that tells nothing
        of the difference between two values of the metric.
        """
        scores = self.examples.scores(name)
        return scores if scores is not None and _agree(scores.value(), self.metric(name)) else None


def read_run(path: str) -> RunRecord:
    """The record of a finished run directory, or of a folder that holds a ``record.json``.

    Raises:
        RunError: there is none, or a file of it cannot be read.
    """
    if files.exists(files.join(path, RECORD)):
        return load_record(files.join(path, RECORD))
    if not files.exists(files.join(path, RESULTS)):
        raise RunError(f"{path} is no finished run: it has no {RESULTS}")
    results = _json(files.join(path, RESULTS))
    config_path = files.join(path, "config.yaml")
    config = to_dict(load_yaml(files.read_text(config_path), config_path))
    provenance = _json(files.join(path, "provenance.json"))
    predictions = _lines(files.join(path, "predictions.jsonl"))
    splits = results.get("splits") or {}
    if not splits:
        raise RunError(f"{path} was evaluated on no split; a table needs a validation or test split")
    split = next(reversed(splits))
    return RunRecord(
        name=config["name"],
        config={key: value for key, value in config.items() if key not in _PLACES},
        split=split,
        metrics=splits,
        fingerprints=provenance.get("data", {}),
        rows={**provenance.get("rows", {}), split: rows_fingerprint(predictions)},
        examples=example_scores(predictions),
        made=_made(provenance)
        | {key: results[key] for key in ("step", "steps", "stopped") if key in results},
    )


def rows_fingerprint(rows: list[dict[str, Any]]) -> str:
    """Digest of the texts and targets of predictions, in order: equal ones are of the same examples."""
    digest = hashlib.sha256()
    for row in rows:
        known = [row.get(name) for name in ("text", "text_pair", "target")]
        digest.update(json.dumps(known, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()[:32]


def dump_record(record: RunRecord) -> str:
    """The record as JSON, one line per part, numbers per example rounded to six digits."""
    e = record.examples
    examples: dict[str, Any] = {"labels": list(e.labels)} if e.labels else {}
    for name in ("targets", "outputs", "probabilities", "target_probabilities"):
        column = getattr(e, name)
        if column is not None and len(column):
            examples[name] = _rounded(column)
    if e.columns:
        examples["columns"] = {name: _rounded(column) for name, column in e.columns.items()}
    parts = {
        "format": FORMAT,
        "name": record.name,
        "split": record.split,
        "config": record.config,
        "fingerprints": record.fingerprints,
        "rows": record.rows,
        "metrics": record.metrics,
        "made": record.made,
        "examples": examples,
    }
    compact = {
        key: json.dumps(value, separators=(",", ":"), ensure_ascii=False) for key, value in parts.items()
    }
    return "{\n" + ",\n".join(f'"{key}":{value}' for key, value in compact.items()) + "\n}\n"


def load_record(path: str) -> RunRecord:
    """A record from its file.

    Raises:
        RunError: not a record, a damaged one, or one of a newer jaxtune.
    """
    raw = _json(path)
    version = raw.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise RunError(f"{path} is of format {version}, of a newer jaxtune; this one reads up to {FORMAT}")
    try:
        given = dict(raw["examples"])
        columns = {
            name: np.asarray(column, np.float64).reshape(len(column), -1)
            for name, column in given.pop("columns", {}).items()
        }
        labels = tuple(given.pop("labels", ()))
        arrays = {name: np.asarray(column) for name, column in given.items()}
        lengths = {len(column) for column in (*arrays.values(), *columns.values())}
        if len(lengths) > 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")
        names = ("name", "config", "split", "metrics", "fingerprints", "rows", "made")
        return RunRecord(
            examples=ExampleScores(labels=labels, columns=columns, **arrays),
            **{name: raw[name] for name in names},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is not a whole record of a run ({error!r}); make it anew from the run"
        ) from error


def _agree(value: float, recorded: float) -> bool:
    return abs(value - recorded) <= AGREES * max(1.0, abs(recorded))


def _rounded(column: np.ndarray) -> list[Any]:
    if column.ndim > 1:
        return [_rounded(row) for row in column] if column.shape[1] > 1 else _rounded(column[:, 0])
    if column.dtype.kind in "iub":
        return [int(value) for value in column]
    # Counts stay whole: they are sums of the corpus, and shorter.
    return [int(value) if float(value).is_integer() else float(f"{value:.{DIGITS}g}") for value in column]


def _made(provenance: Mapping[str, Any]) -> dict[str, Any]:
    machine = provenance.get("machine") or {}
    return {
        "time": provenance.get("time"),
        "versions": provenance.get("versions", {}),
        "jaxtune_git": provenance.get("jaxtune_git"),
        "machine": {key: machine[key] for key in ("cpu", "platform", "device", "devices") if key in machine},
    }


def _json(path: str) -> dict[str, Any]:
    try:
        content = json.loads(files.read_text(path))
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file; is the run finished?") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _lines(path: str) -> list[dict[str, Any]]:
    try:
        # Not splitlines(): other characters than \n end a line there.
        return [json.loads(line) for line in files.read_text(path).split("\n") if line]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
