"""Metrics of any number of labels per example, by scikit-learn. Undefined ratios are 0, as there."""

from __future__ import annotations

import numpy as np
from scipy import special
from sklearn import metrics as sklearn_metrics

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.ranking import auroc, auroc_per_column, average_precision, mean_of_defined
from jaxtune.tasks.scoring.values import KINDS, Metrics, checked

AVERAGES = ("micro", "macro", "weighted", "samples")
MULTI_LABEL_METRICS = (
    "subset_accuracy",
    "label_accuracy",
    "loss",
    *(f"{kind}_{average}" for average in AVERAGES for kind in KINDS),
    "auroc_micro",
    "auroc_macro",
    "average_precision_micro",
    "average_precision_macro",
)


def multi_label_metrics(logits: np.ndarray, targets: np.ndarray, threshold: float = 0.5) -> Metrics:
    """Metrics of label scores.

    Args:
        logits: float [n, C]; the probability of a label is the sigmoid.
        targets: 0 or 1, [n, C].
        threshold: a label is predicted where its probability is above.

    Returns:
        subset_accuracy, the share of examples with all labels right; label_accuracy, the share of
        right decisions (1 - Hamming loss); loss, the mean binary cross-entropy over examples and
        labels; precision, recall and f1 as ``…_micro``, ``…_macro`` (over all labels),
        ``…_weighted``, ``…_samples`` (per example, then the mean; 0 for an example without labels
        on either side) and ``…_per_class`` [C]; ``support`` [C]; ``auroc_micro`` (over all
        decisions) and ``auroc_macro`` (over the labels some examples have and some not; None
        without any); ``average_precision_micro`` and ``…_macro`` (over all labels, 0 for one that
        no example has).

    Raises DataError without an example, for targets of another shape, or other than 0 and 1;
    NonFiniteError for NaN or infinite logits.
    """
    logits, targets = checked(logits, targets)
    if targets.shape != logits.shape or not np.isin(targets, (0, 1)).all():
        raise DataError(
            f"targets {targets.shape} of several labels, expected 0 or 1 for each of {logits.shape}"
        )
    positive = targets.astype(bool)
    predicted = logits > special.logit(threshold)
    result: Metrics = {
        "subset_accuracy": float((predicted == positive).all(axis=1).mean()),
        "label_accuracy": float((predicted == positive).mean()),
        "loss": float((np.logaddexp(0, logits) - logits * positive).mean()),
    }
    return result | _decisions(predicted, positive) | _order(logits, positive)


def _decisions(predicted: np.ndarray, positive: np.ndarray) -> Metrics:
    # A single column would be read as one class per example; as two columns it is told apart by labels.
    true, said = (_indicator(array) for array in (positive, predicted))
    labels = np.arange(positive.shape[1])
    result: Metrics = {}
    for average in AVERAGES:
        scores = sklearn_metrics.precision_recall_fscore_support(
            true, said, labels=labels, average=average, zero_division=0
        )
        for kind, score in zip(KINDS, scores):
            result[f"{kind}_{average}"] = float(score)
    per_label = sklearn_metrics.precision_recall_fscore_support(
        true, said, labels=labels, average=None, zero_division=0
    )
    for kind, values in zip(KINDS, per_label):
        result[f"{kind}_per_class"] = [float(value) for value in values]
    result["support"] = [int(count) for count in per_label[3]]
    return result


def _indicator(array: np.ndarray) -> np.ndarray:
    matrix = array.astype(np.int64)
    return np.pad(matrix, ((0, 0), (0, 1))) if matrix.shape[1] == 1 else matrix


def _order(logits: np.ndarray, positive: np.ndarray) -> Metrics:
    columns = range(logits.shape[1])
    precisions = [average_precision(logits[:, column], positive[:, column]) for column in columns]
    return {
        "auroc_micro": auroc(logits.ravel(), positive.ravel()),
        "auroc_macro": mean_of_defined(auroc_per_column(logits, positive)),
        "average_precision_micro": average_precision(logits.ravel(), positive.ravel()),
        "average_precision_macro": float(np.mean(precisions)),
    }
