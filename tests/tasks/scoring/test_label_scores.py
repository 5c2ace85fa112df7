from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as reference

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.multi_label import AVERAGES, MULTI_LABEL_METRICS, multi_label_metrics


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def random_case(seed):
    """Logits and targets [n, C]; one case in ten has few examples, with labels that none of them has."""
    rng = np.random.default_rng(seed)
    n, labels = int(rng.integers(2, 5 if seed % 10 == 0 else 40)), int(rng.integers(2, 6))
    logits, targets = rng.normal(size=(n, labels)), (rng.random((n, labels)) < 0.3).astype(int)
    if seed % 10:
        targets[:2] = [[1], [0]]
    return logits.round(1) if seed % 2 else logits, targets


@pytest.mark.parametrize("seeds", [range(start, start + 55) for start in range(0, 220, 55)])
def test_labels_are_scored_as_by_scikit_learn(seeds):
    for seed in seeds:
        logits, targets = random_case(seed)
        predicted, probabilities = (logits > 0).astype(int), special.expit(logits)
        result = multi_label_metrics(logits, targets)
        json.dumps(result, allow_nan=False)
        assert set(MULTI_LABEL_METRICS) <= set(result)
        assert result["subset_accuracy"] == close(reference.accuracy_score(targets, predicted))
        assert result["label_accuracy"] == close(1 - reference.hamming_loss(targets, predicted))
        chosen = np.where(targets, probabilities, 1 - probabilities)
        assert result["loss"] == close(-np.log(chosen).mean())
        for average in (*AVERAGES, None):
            scores = reference.precision_recall_fscore_support(
                targets, predicted, average=average, zero_division=0
            )
            for kind, expected in zip(("precision", "recall", "f1"), scores):
                assert result[f"{kind}_{average or 'per_class'}"] == close(expected)
        assert result["support"] == targets.sum(axis=0).tolist()
        if seed % 10 == 0:
            continue
        for average in ("micro", "macro"):
            area = reference.roc_auc_score(targets, probabilities, average=average)
            precision = reference.average_precision_score(targets, probabilities, average=average)
            assert result[f"auroc_{average}"] == close(area)
            assert result[f"average_precision_{average}"] == close(precision)


def test_a_label_that_no_example_has():
    logits, targets = np.array([[1.0, -1.0], [-1.0, -1.0]]), np.array([[1, 0], [0, 0]])
    result = multi_label_metrics(logits, targets)
    assert result["auroc_macro"] == 1
    assert result["average_precision_macro"] == 0.5
    assert (result["f1_macro"], result["f1_micro"], result["f1_samples"]) == (0.5, 1, 0.5)


@pytest.mark.parametrize("value", [0, 1])
def test_all_decisions_alike(value):
    logits, targets = np.full((3, 2), 2.0 * value - 1), np.full((3, 2), value)
    result = multi_label_metrics(logits, targets)
    assert result["subset_accuracy"] == 1
    assert result["f1_micro"] == result["f1_samples"] == value
    assert result["auroc_micro"] is result["auroc_macro"] is None


def test_a_single_label_is_no_class():
    logits, targets = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([[1], [0], [0], [1]])
    result = multi_label_metrics(logits, targets)
    assert result["precision_macro"] == result["f1_micro"] == result["f1_macro"] == 0.5
    assert result["f1_samples"] == 0.25
    assert result["f1_per_class"] == [0.5]


def test_the_threshold_is_a_probability():
    logits, targets = np.array([[0.5, 2.0]]), np.array([[0, 1]])
    assert multi_label_metrics(logits, targets)["subset_accuracy"] == 0
    assert multi_label_metrics(logits, targets, threshold=0.7)["subset_accuracy"] == 1


@pytest.mark.parametrize("targets", [np.array([[0, 2]]), np.array([[0]]), np.array([0])])
def test_targets_that_cannot_be(targets):
    with pytest.raises(DataError, match="expected 0 or 1"):
        multi_label_metrics(np.zeros((1, 2)), targets)
