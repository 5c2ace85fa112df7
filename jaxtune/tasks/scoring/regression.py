"""Metrics of numbers, by SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from jaxtune.tasks.scoring.values import Metrics, checked

REGRESSION_METRICS = ("pearson", "spearman", "mse", "mae", "loss")


def regression_metrics(predictions: np.ndarray, targets: np.ndarray) -> Metrics:
    """pearson, spearman, mse, mae and loss (= mse) of predictions [n, 1] (or [n]) and targets [n].

    The correlation is 0 where predictions or targets are constant. Raises DataError without an
    example, NonFiniteError for NaN or infinite predictions.
    """
    predictions, targets = checked(predictions, targets)
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
