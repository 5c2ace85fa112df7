"""Metrics from what a run said of each example, in a form that can be drawn again (see ``significance``).

The values are those of ``tasks/scoring/``; tests hold the two together. An undefined ratio is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from jaxtune.reports.corpus_scores import corpus_scores
from jaxtune.reports.significance import DirectScores, Scores, SumScores, mean_scores

_AVERAGED = ("micro", "macro", "weighted")


@dataclass(frozen=True, eq=False)
class ExampleScores:
    """What one run said of each example of a split; all columns have n entries.

    Attributes:
        targets: class ids, or numbers.
        outputs: class ids, or numbers.
        labels: class names in the order of their ids; empty for numbers.
        probabilities: of the class that was said; classification only.
        target_probabilities: of the right class; classification only.
        columns: name of a metric → numbers per example [n, k] that ``corpus_scores`` makes the metric of.
    """

    targets: np.ndarray = field(default_factory=lambda: np.zeros(0))
    outputs: np.ndarray = field(default_factory=lambda: np.zeros(0))
    labels: tuple[str, ...] = ()
    probabilities: np.ndarray | None = None
    target_probabilities: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def scores(self, metric: str) -> Scores | None:
        """The scores behind a metric; None for one that cannot be computed from here."""
        if metric in self.columns:
            return corpus_scores(metric, self.columns[metric])
        if not len(self.targets):
            return None
        return self._of_classes(metric) if self.labels else self._of_numbers(metric)

    def _of_classes(self, metric: str) -> Scores | None:
        if metric == "accuracy":
            return mean_scores(self.outputs == self.targets)
        if metric == "loss" and self.target_probabilities is not None:
            tiny = np.finfo(np.float64).tiny
            return mean_scores(-np.log(np.maximum(self.target_probabilities, tiny)))
        combine = _class_metric(metric, len(self.labels))
        if combine is None:
            return None
        classes = np.arange(len(self.labels))
        said, true = (column[:, None] == classes for column in (self.outputs, self.targets))
        return SumScores(np.hstack([said & true, said, true]).astype(np.float64), combine)

    def _of_numbers(self, metric: str) -> Scores | None:
        x, y = (np.asarray(column, np.float64) for column in (self.outputs, self.targets))
        if metric in ("mse", "loss"):
            return mean_scores((x - y) ** 2)
        if metric == "mae":
            return mean_scores(np.abs(x - y))
        if metric == "spearman":
            return DirectScores(x, y, _spearman)
        if metric == "pearson":
            # Centred on the targets' mean for both, lest sums of squares lose digits.
            u, v = x - y.mean(), y - y.mean()
            return SumScores(np.stack([np.ones_like(u), u, v, u * u, v * v, u * v], axis=1), _pearson)
        return None


def _class_metric(metric: str, classes: int) -> Callable[[np.ndarray], np.ndarray] | None:
    """A metric from sums [..., 3C]: right, said and true per class."""
    if metric == "matthews":
        return partial(_matthews, classes=classes)
    kind, _, average = metric.partition("_")
    known = average in _AVERAGED or (not average and classes == 2)
    if kind not in ("precision", "recall", "f1") or not known:
        return None
    return partial(_averaged, classes=classes, kind=kind, average=average)


def _averaged(sums: np.ndarray, classes: int, kind: str, average: str) -> np.ndarray:
    right, said, true = (sums[..., i * classes : (i + 1) * classes] for i in range(3))
    if average == "micro":
        right, said, true = (part.sum(axis=-1, keepdims=True) for part in (right, said, true))
    per_class = {
        "precision": _ratio(right, said),
        "recall": _ratio(right, true),
        "f1": _ratio(2 * right, said + true),
    }[kind]
    if average == "micro":
        return per_class[..., 0]
    if average == "macro":  # over the classes that occur as a target or an output
        return _ratio(per_class.sum(axis=-1), np.count_nonzero(said + true, axis=-1))
    if average == "weighted":
        return _ratio((per_class * true).sum(axis=-1), true.sum(axis=-1))
    return per_class[..., 1]  # of the second of two classes, as GLUE has it


def _matthews(sums: np.ndarray, classes: int) -> np.ndarray:
    right, said, true = (sums[..., i * classes : (i + 1) * classes] for i in range(3))
    total = true.sum(axis=-1)
    scale = (total**2 - (said**2).sum(axis=-1)) * (total**2 - (true**2).sum(axis=-1))
    return _ratio(right.sum(axis=-1) * total - (said * true).sum(axis=-1), np.sqrt(np.maximum(scale, 0)))


def _pearson(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = xx - x * x / n, yy - y * y / n
    # Constant up to rounding counts as constant.
    flat = (spread_x <= 1e-12 * xx) | (spread_y <= 1e-12 * yy)
    product = np.where(flat, 0.0, np.maximum(spread_x, 0) * np.maximum(spread_y, 0))
    return _ratio(xy - x * y / n, np.sqrt(product))


def _spearman(outputs: np.ndarray, targets: np.ndarray) -> float:
    ranks = [stats.rankdata(column) for column in (outputs, targets)]
    centred = [column - column.mean() for column in ranks]
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float(centred[0] @ centred[1] / scale) if scale > 0 else 0.0


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def example_scores(rows: list[dict[str, Any]], labels: tuple[str, ...] = ()) -> ExampleScores:
    """From the lines of predictions.jsonl.

    A line of a classification has ``target``, ``label``, ``score`` and ``probabilities``; one of a regression
    ``target`` and ``value``. A line of any other task may have ``scores``: per metric one number, of which the mean
    is the metric, or the numbers that ``corpus_scores`` makes it of.

    Args:
        labels: class names in id order; none takes those of the probabilities.
    """
    if not rows:
        return ExampleScores()
    columns: dict[str, np.ndarray] = {}
    if _all(rows, "scores", Mapping):
        columns = {name: _numbers([row["scores"][name] for row in rows]) for name in rows[0]["scores"]}
    if _all(rows, "label", str) and _all(rows, "target", str) and _all(rows, "probabilities", Mapping):
        names = labels or tuple(rows[0]["probabilities"])
        ids = {name: i for i, name in enumerate(names)}
        return ExampleScores(
            targets=np.array([ids[row["target"]] for row in rows]),
            outputs=np.array([ids[row["label"]] for row in rows]),
            labels=names,
            probabilities=np.array([row["score"] for row in rows], np.float64),
            target_probabilities=np.array([row["probabilities"][row["target"]] for row in rows], np.float64),
            columns=columns,
        )
    if _all(rows, "value", int | float) and _all(rows, "target", int | float):
        return ExampleScores(
            targets=np.array([row["target"] for row in rows], np.float64),
            outputs=np.array([row["value"] for row in rows], np.float64),
            columns=columns,
        )
    return ExampleScores(columns=columns)


def _all(rows: list[dict[str, Any]], name: str, kind: Any) -> bool:
    return all(isinstance(row.get(name), kind) for row in rows)


def _numbers(values: list[Any]) -> np.ndarray:
    """One number or k numbers per example, as [n, k]."""
    column = np.asarray(values, np.float64)
    return column.reshape(len(values), -1)
