"""How well scores order examples, whatever the threshold: area under the ROC curve, average precision."""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sklearn_metrics


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve of scores [n] for positive bool [n], as scikit-learn has it.

    It is the probability that a positive example scores above a negative one, ties counting half.
    None where all examples are positive, or none is: there is no pair to compare.
    """
    positive = np.asarray(positive, bool)
    if positive.all() or not positive.any():
        return None
    return float(sklearn_metrics.roc_auc_score(positive, scores))


def auroc_per_column(scores: np.ndarray, positive: np.ndarray) -> list[float | None]:
    """``auroc`` of each column of scores [n, C] and positive [n, C]."""
    return [auroc(scores[:, column], positive[:, column]) for column in range(scores.shape[1])]


def mean_of_defined(values: list[float | None]) -> float | None:
    """Mean over what is not None; None where nothing is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Σ (R_k - R_{k-1})·P_k over the thresholds of scores [n], as scikit-learn has it; 0 without a positive."""
    positive = np.asarray(positive, bool)
    return float(sklearn_metrics.average_precision_score(positive, scores)) if positive.any() else 0.0
