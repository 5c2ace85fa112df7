"""Whether probabilities mean what they say: calibration error, the reliability curve, the Brier score."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 15


class Reliability(NamedTuple):
    """The reliability curve: one entry per bin, [M]; 0 in confidence and accuracy of an empty bin."""

    confidence: np.ndarray
    """Mean confidence of the predictions in a bin."""
    accuracy: np.ndarray
    """Share of them that is right."""
    counts: np.ndarray
    """How many there are."""


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Confidences [n] in 0 … 1 and bool correct [n] by bins of equal width, ((m-1)/M, m/M].

    Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017, section 2. A
    confidence of exactly 0 falls into the first bin.
    """
    confidence = np.clip(np.asarray(confidence, np.float64), 0, 1)
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = np.maximum(count, 1)
    return Reliability(
        np.bincount(index, confidence, bins) / filled,
        np.bincount(index, np.asarray(correct, np.float64), bins) / filled,
        count,
    )


def calibration_error(curve: Reliability) -> float:
    """Expected calibration error, Σ_m n_m/n · |accuracy_m - confidence_m| (Guo et al. 2017, equation 3)."""
    gaps = np.abs(curve.accuracy - curve.confidence)
    return float(curve.counts @ gaps / curve.counts.sum())


def brier(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Brier score of probabilities [n, C] for int targets [n], as scikit-learn has it.

    The mean of Σ_c (p_c - [c = target])², 0 to 2 (Brier 1950); with two classes half of it, which is
    the mean of (p_1 - target)², 0 to 1.
    """
    errors = probabilities.copy()
    errors[np.arange(len(targets)), targets] -= 1
    score = float((errors**2).sum(axis=1).mean())
    return score / 2 if probabilities.shape[1] == 2 else score
