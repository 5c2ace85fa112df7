"""Metrics of one class per example, by scikit-learn, and of multiple choice.

Undefined ratios are 0, as in scikit-learn: precision of a class never predicted, Matthews of a
constant prediction. AUROC is None where only one class occurs; nothing here is NaN.
"""

from __future__ import annotations

import numpy as np
from scipy import special
from sklearn import metrics as sklearn_metrics

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.calibration import brier, calibration_error, reliability
from jaxtune.tasks.scoring.ranking import auroc, auroc_per_column, mean_of_defined
from jaxtune.tasks.scoring.values import AVERAGES, KINDS, Metrics, checked, checked_ids

PROBABILITY_METRICS = ("auroc", "calibration_error", "brier")
MULTIPLE_CHOICE_METRICS = ("accuracy", "loss")


def classification_metric_names(num_labels: int) -> tuple[str, ...]:
    """Names of the scalar metrics of a classification into ``num_labels`` classes."""
    names = [f"{kind}_{average}" for average in AVERAGES for kind in KINDS]
    binary = KINDS if num_labels == 2 else ()
    return ("accuracy", "loss", "matthews", *names, *binary, *PROBABILITY_METRICS)


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
        ``support`` [C], the targets per class; ``confusion`` [C, C], row = target, column =
        prediction; and what ``probability_metrics`` gives.

    Raises DataError without an example or for a target outside 0 … C-1, NonFiniteError for NaN
    or infinite logits.
    """
    logits, targets = checked(logits, targets)
    targets = checked_ids(targets, logits.shape[1])
    classes = np.arange(logits.shape[1])
    predicted = logits.argmax(axis=1)
    confusion = sklearn_metrics.confusion_matrix(targets, predicted, labels=classes)
    result: Metrics = {
        "accuracy": float(sklearn_metrics.accuracy_score(targets, predicted)),
        "loss": _cross_entropy(logits, targets),
        "matthews": matthews(confusion),
    }
    # Micro averages over all labels equal the accuracy when every class has its label here.
    for average in AVERAGES:
        scores = sklearn_metrics.precision_recall_fscore_support(
            targets, predicted, average=average, zero_division=0
        )
        for kind, score in zip(KINDS, scores):
            result[f"{kind}_{average}"] = float(score)
    per_class = sklearn_metrics.precision_recall_fscore_support(
        targets, predicted, labels=classes, average=None, zero_division=0
    )
    for kind, values in zip(KINDS, per_class):
        result[f"{kind}_per_class"] = [float(value) for value in values]
        if len(classes) == 2:
            result[kind] = float(values[1])
    result["support"] = [int(count) for count in per_class[3]]
    result["confusion"] = [[int(count) for count in row] for row in confusion]
    return result | probability_metrics(logits, targets)


def matthews(confusion: np.ndarray) -> float:
    """Matthews correlation (R_K for several classes) of a confusion matrix [C, C]; 0 where undefined.

    Computed from the matrix because scikit-learn's function warns when only one class occurs.
    """
    matrix = np.asarray(confusion, np.float64)
    total, right = matrix.sum(), np.trace(matrix)
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    scale = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float((right * total - true @ predicted) / np.sqrt(scale)) if scale > 0 else 0.0


def probability_metrics(logits: np.ndarray, targets: np.ndarray) -> Metrics:
    """Metrics of the softmax of finite logits [n, C] for int targets [n].

    Returns:
        auroc: with two classes that of class 1; with more the mean over one class against the rest
        (scikit-learn's ``multi_class="ovr", average="macro"``), over the classes that occur but are
        not all there is, None without any. calibration_error, with 15 bins, and brier: see
        ``calibration``. The reliability curve as ``reliability_confidence``,
        ``reliability_accuracy`` and ``reliability_count``, [15] each.
    """
    probabilities = special.softmax(logits, axis=1)
    curve = reliability(probabilities.max(axis=1), logits.argmax(axis=1) == targets)
    return {
        "auroc": _class_auroc(logits, probabilities, targets),
        "calibration_error": calibration_error(curve),
        "brier": brier(probabilities, targets),
        "reliability_confidence": curve.confidence.tolist(),
        "reliability_accuracy": curve.accuracy.tolist(),
        "reliability_count": curve.counts.tolist(),
    }


def _class_auroc(logits: np.ndarray, probabilities: np.ndarray, targets: np.ndarray) -> float | None:
    if logits.shape[1] == 2:
        # The margin orders as the probability does, and does not saturate at 1.
        return auroc(logits[:, 1] - logits[:, 0], targets == 1)
    one_hot = targets[:, None] == np.arange(logits.shape[1])
    return mean_of_defined(auroc_per_column(probabilities, one_hot))


def _cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-special.log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean())


def multiple_choice_metrics(
    scores: np.ndarray, targets: np.ndarray, choices: np.ndarray | None = None
) -> Metrics:
    """accuracy and loss (mean cross-entropy) of one right choice among several.

    Args:
        scores: float [n, K].
        targets: int [n], the place of the right choice.
        choices: int [n], how many choices each question has; the columns after them are not looked at.

    The first of equal scores is the prediction. Raises DataError and NonFiniteError as
    ``classification_metrics`` does, also for a target beyond the choices of its question.
    """
    scores = np.asarray(scores, np.float64)
    absent = np.zeros(scores.shape, bool)
    if choices is not None:
        absent = np.arange(scores.shape[1]) >= np.asarray(choices)[:, None]
    _, targets = checked(np.where(absent, 0.0, scores), targets)
    targets = checked_ids(targets, scores.shape[1])
    beyond = np.flatnonzero(absent[np.arange(len(targets)), targets])
    if len(beyond):
        raise DataError(f"the target of question {beyond[0]} is {targets[beyond[0]]}, beyond its choices")
    scores = np.where(absent, -np.inf, scores)
    return {
        "accuracy": float((scores.argmax(axis=1) == targets).mean()),
        "loss": _cross_entropy(scores, targets),
    }
