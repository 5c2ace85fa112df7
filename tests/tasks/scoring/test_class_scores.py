from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as reference

from jaxtune.directions import higher_is_better
from jaxtune.errors import DataError, NonFiniteError
from jaxtune.tasks.scoring.calibration import calibration_error, reliability
from jaxtune.tasks.scoring.classification import (
    MULTIPLE_CHOICE_METRICS,
    classification_metric_names,
    classification_metrics,
    matthews,
    multiple_choice_metrics,
    probability_metrics,
)
from jaxtune.tasks.scoring.ranking import auroc, average_precision
from jaxtune.tasks.scoring.regression import regression_metrics

EXACT = 1e-12


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def close(value):
    return pytest.approx(value, rel=EXACT, abs=EXACT)


def logits_of(predicted, classes):
    return np.where(np.arange(classes) == np.array(predicted)[:, None], 2.0, 0.0).astype(np.float32)


def random_case(seed):
    """Logits [n, C] and targets [n]: few examples, so that classes are often missing, and tied scores."""
    rng = np.random.default_rng(seed)
    classes, n = int(rng.integers(2, 6)), int(rng.integers(1, 40))
    logits = rng.normal(0, 2, (n, classes))
    if seed % 3 == 0:
        logits = np.round(logits)
    return logits, rng.integers(0, classes, n)


def literal_calibration_error(probabilities, targets, bins=15):
    """Guo et al. 2017, section 2, example by example: bins (m-1)/M < p ≤ m/M."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    error = 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:]):
        chosen = (confidence > low) & (confidence <= high)
        if chosen.any():
            error += chosen.mean() * abs(right[chosen].mean() - confidence[chosen].mean())
    return error


@pytest.mark.parametrize("seeds", [range(start, start + 50) for start in range(0, 200, 50)])
def test_classes_are_scored_as_by_scikit_learn(seeds):
    for seed in seeds:
        logits, targets = random_case(seed)
        classes, predicted = np.arange(logits.shape[1]), logits.argmax(axis=1)
        probabilities = special.softmax(logits, axis=1)
        one_hot = (targets[:, None] == classes).astype(float)
        result = classification_metrics(logits, targets)
        json.dumps(result, allow_nan=False)
        assert result["accuracy"] == close(reference.accuracy_score(targets, predicted))
        assert result["loss"] == close(reference.log_loss(targets, probabilities, labels=classes))
        for kind in ("precision", "recall", "f1"):
            score = getattr(reference, f"{kind}_score")
            for average in ("micro", "macro", "weighted"):
                expected = score(targets, predicted, average=average, zero_division=0)
                assert result[f"{kind}_{average}"] == close(expected)
            expected = score(targets, predicted, average=None, labels=classes, zero_division=0)
            assert result[f"{kind}_per_class"] == close(expected.tolist())
            if len(classes) == 2:
                assert result[kind] == close(expected[1])
        assert result["brier"] == close(
            ((probabilities - one_hot) ** 2).sum() / len(targets) / (1 + (len(classes) == 2))
        )
        assert result["calibration_error"] == close(literal_calibration_error(probabilities, targets))
        if len(set(targets)) > 1 and len(set(predicted)) > 1:
            assert result["matthews"] == close(reference.matthews_corrcoef(targets, predicted))


def test_auroc_is_that_of_scikit_learn():
    for seed in range(200):
        logits, targets = random_case(seed)
        rows = min(logits.shape)
        logits, targets[:rows] = logits[:, : max(2, rows)], np.arange(rows)
        targets %= logits.shape[1]
        if len(targets) < 2:
            continue
        probabilities = special.softmax(logits, axis=1)
        given = probabilities[:, 1] if logits.shape[1] == 2 else probabilities
        expected = reference.roc_auc_score(targets, given, multi_class="ovr", average="macro")
        assert probability_metrics(logits, targets)["auroc"] == close(expected)


def test_area_and_average_precision_by_counting():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 30))
        scores, positive = rng.integers(0, 6, n) / 5, rng.random(n) < 0.4
        pairs = [(p > q) + (p == q) / 2 for p in scores[positive] for q in scores[~positive]]
        assert auroc(scores, positive) == (close(np.mean(pairs)) if pairs else None)
        area, recall = 0.0, 0.0
        for threshold in sorted(set(scores), reverse=True) if positive.any() else []:
            chosen = scores >= threshold
            found = (chosen & positive).sum()
            area += (found / positive.sum() - recall) * found / chosen.sum()
            recall = found / positive.sum()
        assert average_precision(scores, positive) == close(area)


def test_binary_brier_is_that_of_scikit_learn():
    for seed in range(200):
        logits, targets = random_case(seed)
        logits, targets = logits[:, :2], targets % 2
        probability = special.softmax(logits, axis=1)[:, 1]
        expected = reference.brier_score_loss(targets, probability, pos_label=1)
        assert probability_metrics(logits, targets)["brier"] == close(expected)


@pytest.mark.parametrize("of", [0, 1])
def test_only_one_class(of):
    targets = np.full(3, of)
    right = classification_metrics(logits_of(targets, 2), targets)
    assert right["auroc"] is None
    assert (right["accuracy"], right["matthews"], right["f1_macro"]) == (1, 0, 1)
    assert right["f1"] == of
    wrong = classification_metrics(logits_of(1 - targets, 2), targets)
    assert (wrong["accuracy"], wrong["f1_macro"], wrong["f1"], wrong["auroc"]) == (0, 0, 0, None)


def test_auroc_leaves_out_a_class_that_does_not_occur():
    logits, targets = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    probabilities = special.softmax(logits, axis=1)
    expected = np.mean([reference.roc_auc_score(targets == c, probabilities[:, c]) for c in (0, 1)])
    assert classification_metrics(logits, targets)["auroc"] == close(expected)


def test_auroc_of_two_classes_does_not_saturate():
    logits = np.array([[0, 50.0], [0, 60.0], [0, 70.0], [0, 80.0]])
    assert classification_metrics(logits, np.array([0, 0, 1, 1]))["auroc"] == 1


def test_the_reliability_curve():
    curve = reliability(
        np.array([0.0, 0.2, 0.21, 0.9, 1.0]), np.array([False, True, False, True, True]), bins=5
    )
    assert curve.counts.tolist() == [2, 1, 0, 0, 2]
    assert curve.confidence == close([0.1, 0.21, 0, 0, 0.95])
    assert curve.accuracy == close([0.5, 0, 0, 0, 1])
    assert calibration_error(curve) == close(2 / 5 * 0.4 + 1 / 5 * 0.21 + 2 / 5 * 0.05)
    result = classification_metrics(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 3)
    assert sum(result["reliability_count"]) == 40
    assert len(result["reliability_confidence"]) == len(result["reliability_accuracy"]) == 15


def test_three_classes():
    targets, predicted = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]
    result = classification_metrics(logits_of(predicted, 3), np.array(targets))
    assert result["accuracy"] == result["f1_micro"] == pytest.approx(4 / 6)
    assert result["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert result["support"] == [2, 1, 3]
    assert result["precision_per_class"] == pytest.approx([1 / 2, 1 / 2, 1])
    assert result["recall_per_class"] == pytest.approx([1 / 2, 1, 2 / 3])
    assert result["f1_macro"] == pytest.approx(np.mean(result["f1_per_class"]))
    assert result["f1_weighted"] == pytest.approx(np.average(result["f1_per_class"], weights=[2, 1, 3]))
    right, wrong = -np.log(np.e**2 / (np.e**2 + 2)), -np.log(1 / (np.e**2 + 2))
    assert result["loss"] == pytest.approx((4 * right + 2 * wrong) / 6)
    assert "f1" not in result


@pytest.mark.parametrize("classes", [2, 3])
def test_the_names_are_the_scalars(classes):
    result = classification_metrics(logits_of([0, 1, 0], classes), np.array([0, 1, 1]))
    scalars = {name for name, value in result.items() if isinstance(value, float)}
    assert scalars == set(classification_metric_names(classes))


@pytest.mark.parametrize("predicted", [[0, 0, 0], [1, 0, 1]])
@pytest.mark.parametrize("targets", [[0, 0, 0], [1, 1, 0]])
def test_absent_classes_and_constant_predictions(predicted, targets):
    result = classification_metrics(logits_of(predicted, 3), np.array(targets))
    json.dumps(result, allow_nan=False)
    assert result["support"][2] == 0
    assert result["f1_per_class"][2] == 0
    assert result["accuracy"] == pytest.approx(np.mean(np.array(predicted) == targets))
    assert len(result["confusion"]) == 3


def test_a_perfect_prediction_is_not_spoilt_by_a_class_that_does_not_occur():
    assert classification_metrics(logits_of([0, 1], 3), np.array([0, 1]))["f1_macro"] == 1


def test_matthews_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(200):
        confusion = rng.integers(0, 9, (4, 4))
        true, predicted = np.repeat(np.indices((4, 4)).reshape(2, -1), confusion.ravel(), axis=1)
        assert matthews(confusion) == close(reference.matthews_corrcoef(true, predicted))


@pytest.mark.parametrize("function", [classification_metrics, regression_metrics, multiple_choice_metrics])
def test_no_example_and_no_number(function):
    with pytest.raises(DataError, match="no example"):
        function(np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(NonFiniteError, match="1 of 2 predictions are NaN"):
        function(np.array([[0.0, 1.0], [np.nan, 1.0]]), np.array([0, 1]))


@pytest.mark.parametrize("function", [classification_metrics, multiple_choice_metrics])
def test_a_target_outside_the_classes(function):
    with pytest.raises(DataError, match="expected 0 to 1"):
        function(np.zeros((2, 2)), np.array([0, 2]))


def test_multiple_choice():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 20))
        choices = rng.integers(2, 6, n)
        targets = rng.integers(0, choices)
        scores = rng.normal(size=(n, 5))
        rows = [row[:k] for row, k in zip(scores, choices)]
        scores[np.arange(5) >= choices[:, None]] = rng.choice([np.nan, np.inf, 99.0])
        result = multiple_choice_metrics(scores, targets, choices)
        assert set(result) == set(MULTIPLE_CHOICE_METRICS)
        assert result["accuracy"] == close(np.mean([row.argmax() == t for row, t in zip(rows, targets)]))
        losses = [-np.log(np.exp(row[t]) / np.exp(row).sum()) for row, t in zip(rows, targets)]
        assert result["loss"] == close(np.mean(losses))


def test_multiple_choice_refuses_a_target_beyond_the_choices():
    with pytest.raises(DataError, match="question 1 is 2, beyond its choices"):
        multiple_choice_metrics(np.zeros((2, 3)), np.array([2, 2]), np.array([3, 2]))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", True),
        ("bleu", True),
        ("auroc", True),
        ("loss", False),
        ("ter", False),
        ("perplexity", False),
    ],
)
def test_direction(metric, expected):
    assert higher_is_better(metric) is expected
