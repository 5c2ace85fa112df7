"""What all metrics share: the type of a result, and checks of the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxtune.errors import DataError, NonFiniteError

AVERAGES = ("micro", "macro", "weighted")
KINDS = ("precision", "recall", "f1")

Metrics = dict[str, float | str | list[float] | list[int] | list[str] | list[list[int]] | None]
"""name → value, ready for JSON: never NaN or infinite, None where a metric is undefined."""


def ratio(numerator: float, denominator: float) -> float:
    """numerator / denominator, and 0 where the denominator is 0."""
    return float(numerator / denominator) if denominator else 0.0


def harmonic_mean(precision: float, recall: float) -> float:
    """F1 = 2·P·R / (P + R), and 0 where both are 0."""
    return ratio(2 * precision * recall, precision + recall)


def checked(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [n, …] as float64 and targets [n, …], both as arrays.

    Raises DataError without an example or for different lengths, NonFiniteError for NaN or infinite
    predictions.
    """
    predictions, targets = np.asarray(predictions, np.float64), np.asarray(targets)
    check_lengths(len(predictions), len(targets))
    bad = np.count_nonzero(~np.isfinite(predictions).reshape(len(targets), -1).all(axis=1))
    if bad:
        raise NonFiniteError(
            f"{bad} of {len(predictions)} predictions are NaN or infinite: the parameters have diverged. "
            "Train again with a lower --optim.learning-rate, or evaluate an earlier checkpoint."
        )
    return predictions, targets


def checked_ids(targets: np.ndarray, classes: int) -> np.ndarray:
    """Targets [n] as int64. Raises DataError for one outside 0 … classes-1."""
    targets = targets.astype(np.int64)
    if targets.min() < 0 or targets.max() >= classes:
        raise DataError(f"targets range from {targets.min()} to {targets.max()}, expected 0 to {classes - 1}")
    return targets


def check_lengths(predictions: int, targets: int) -> None:
    """Raises DataError without an example, or where there is not one prediction per target."""
    if targets == 0:
        raise DataError("there is no example to compute metrics of; the split is empty")
    if predictions != targets:
        raise DataError(f"{predictions} predictions for {targets} targets")


def reference_lists(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """The references of each prediction as a list, where a text alone stands for a list of one.

    Raises DataError without an example, for different lengths, and for an example without a reference.
    """
    check_lengths(len(predictions), len(references))
    lists = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    for index, texts in enumerate(lists):
        if not texts:
            raise DataError(f"example {index} has no reference; an empty text may be one, an empty list not")
    return lists
