"""Metrics of gathered predictions, by scikit-learn and SciPy: exact, on the host, once per evaluation.

Undefined ratios are 0, as in scikit-learn: precision of a class never predicted, Matthews of a
constant prediction, and likewise the correlation with a constant. Nothing here returns NaN.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats
from sklearn import metrics as sklearn_metrics

from jaxtune.errors import DataError, NonFiniteError

AVERAGES = ("micro", "macro", "weighted")
_LOWER_IS_BETTER = frozenset({"loss", "mse", "mae"})

Metrics = dict[str, float | list[float] | list[int] | list[list[int]]]


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of this metric is the better one."""
    return metric not in _LOWER_IS_BETTER


def classification_metric_names(num_labels: int) -> tuple[str, ...]:
    """Names of the scalar metrics of a classification into ``num_labels`` classes."""
    names = [f"{kind}_{average}" for average in AVERAGES for kind in ("precision", "recall", "f1")]
    binary = ["precision", "recall", "f1"] if num_labels == 2 else []
    return ("accuracy", "loss", "matthews", *names, *binary)


def classification_metrics(logits: np.ndarray, targets: np.ndarray) -> Metrics:
    """Metrics of class scores.

    Args:
        logits: float [n, C].
        targets: int [n], ids in 0 … C-1.

    Returns:
        accuracy; loss, the mean cross-entropy, without class weights or label smoothing and so
        comparable between runs; matthews; precision, recall and f1 as ``…_micro``, ``…_macro``,
        ``…_weighted`` (macro: over the classes that occur as a target or a prediction) and
        ``…_per_class`` [C]; with two classes also ``precision``, ``recall`` and ``f1`` of class 1;
        ``support`` [C], the targets per class; ``confusion`` [C, C], row = target, column = prediction.

    Raises DataError without an example or for a target outside 0 … C-1, NonFiniteError for NaN
    or infinite logits.
    """
    logits, targets = _checked(logits, targets)
    classes = np.arange(logits.shape[1])
    targets = targets.astype(np.int64)
    if targets.min() < 0 or targets.max() >= len(classes):
        raise DataError(
            f"targets range from {targets.min()} to {targets.max()}, expected 0 to {len(classes) - 1}"
        )
    predicted = logits.argmax(axis=1)
    log_probabilities = special.log_softmax(logits, axis=1)
    confusion = sklearn_metrics.confusion_matrix(targets, predicted, labels=classes)
    result: Metrics = {
        "accuracy": float(sklearn_metrics.accuracy_score(targets, predicted)),
        "loss": float(-log_probabilities[np.arange(len(targets)), targets].mean()),
        "matthews": matthews(confusion),
    }
    # Micro averages over all labels equal the accuracy when every class has its label here.
    for average in AVERAGES:
        scores = sklearn_metrics.precision_recall_fscore_support(
            targets, predicted, average=average, zero_division=0
        )
        for kind, score in zip(("precision", "recall", "f1"), scores):
            result[f"{kind}_{average}"] = float(score)
    per_class = sklearn_metrics.precision_recall_fscore_support(
        targets, predicted, labels=classes, average=None, zero_division=0
    )
    for kind, values in zip(("precision", "recall", "f1"), per_class):
        result[f"{kind}_per_class"] = [float(value) for value in values]
        if len(classes) == 2:
            result[kind] = float(values[1])
    result["support"] = [int(count) for count in per_class[3]]
    result["confusion"] = [[int(count) for count in row] for row in confusion]
    return result


def matthews(confusion: np.ndarray) -> float:
    """Matthews correlation (R_K for several classes) of a confusion matrix [C, C]; 0 where undefined.

    Computed from the matrix because scikit-learn's function warns when only one class occurs.
    """
    matrix = np.asarray(confusion, np.float64)
    total, right = matrix.sum(), np.trace(matrix)
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    scale = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float((right * total - true @ predicted) / np.sqrt(scale)) if scale > 0 else 0.0


REGRESSION_METRICS = ("pearson", "spearman", "mse", "mae", "loss")


def regression_metrics(predictions: np.ndarray, targets: np.ndarray) -> Metrics:
    """pearson, spearman, mse, mae and loss (= mse) of predictions [n, 1] (or [n]) and targets [n].

    The correlation is 0 where predictions or targets are constant. Raises DataError without an
    example, NonFiniteError for NaN or infinite predictions.
    """
    predictions, targets = _checked(predictions, targets)
    values = predictions.reshape(len(targets), -1)[:, 0]
    mse = float(sklearn_metrics.mean_squared_error(targets, values))
    return {
        "pearson": _correlation(stats.pearsonr, values, targets),
        "spearman": _correlation(stats.spearmanr, values, targets),
        "mse": mse,
        "mae": float(sklearn_metrics.mean_absolute_error(targets, values)),
        "loss": mse,
    }


def _correlation(function: object, values: np.ndarray, targets: np.ndarray) -> float:
    # Constant up to rounding counts as constant: SciPy would warn and return noise.
    for side in (values, targets):
        if np.ptp(side) <= 1e-9 * np.abs(side).max():
            return 0.0
    return float(function(values, targets).statistic)  # type: ignore[operator]


def _checked(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predictions, targets = np.asarray(predictions, np.float64), np.asarray(targets)
    if len(targets) == 0:
        raise DataError("there is no example to compute metrics of; the split is empty")
    if len(predictions) != len(targets):
        raise DataError(f"{len(predictions)} predictions for {len(targets)} targets")
    bad = np.count_nonzero(~np.isfinite(predictions).reshape(len(targets), -1).all(axis=1))
    if bad:
        raise NonFiniteError(
            f"{bad} of {len(predictions)} predictions are NaN or infinite: the parameters have diverged. "
            "Train again with a lower --optim.learning-rate, or evaluate an earlier checkpoint."
        )
    return predictions, targets
