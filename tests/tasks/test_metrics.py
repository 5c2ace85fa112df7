from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from jaxtune.errors import DataError, NonFiniteError
from jaxtune.tasks.metrics import classification_metrics, higher_is_better, matthews, regression_metrics


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def logits_of(predicted, classes):
    return np.where(np.arange(classes) == np.array(predicted)[:, None], 2.0, 0.0).astype(np.float32)


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
    assert result["matthews"] == pytest.approx(matthews_corrcoef(targets, predicted))
    right, wrong = -np.log(np.e**2 / (np.e**2 + 2)), -np.log(1 / (np.e**2 + 2))
    assert result["loss"] == pytest.approx((4 * right + 2 * wrong) / 6)
    assert "f1" not in result
    json.dumps(result, allow_nan=False)


def test_two_classes_also_give_the_scores_of_class_1():
    result = classification_metrics(logits_of([1, 1, 0, 0], 2), np.array([1, 0, 0, 1]))
    assert (result["precision"], result["recall"], result["f1"]) == (0.5, 0.5, 0.5)


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
    for _ in range(20):
        confusion = rng.integers(0, 9, (4, 4))
        true, predicted = np.repeat(np.indices((4, 4)).reshape(2, -1), confusion.ravel(), axis=1)
        assert matthews(confusion) == pytest.approx(matthews_corrcoef(true, predicted))


@pytest.mark.parametrize("constant", [np.full(4, 0.1), np.array([0.1, 0.1 + 1e-12, 0.1, 0.1]), np.zeros(4)])
def test_the_correlation_with_a_constant_is_zero(constant):
    other = np.arange(4.0)
    for predictions, targets in ((constant[:, None], other), (other[:, None], constant)):
        result = regression_metrics(predictions, targets)
        assert result["pearson"] == result["spearman"] == 0
    assert regression_metrics(np.array([[1.0]]), np.array([3.0]))["mse"] == 4


@pytest.mark.parametrize("function", [classification_metrics, regression_metrics])
def test_no_example_and_no_number(function):
    with pytest.raises(DataError, match="no example"):
        function(np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(NonFiniteError, match="1 of 2 predictions are NaN"):
        function(np.array([[0.0, 1.0], [np.nan, 1.0]]), np.array([0, 1]))


def test_a_target_outside_the_classes():
    with pytest.raises(DataError, match="expected 0 to 1"):
        classification_metrics(np.zeros((2, 2)), np.array([0, 2]))


def test_direction():
    assert higher_is_better("accuracy")
    assert not higher_is_better("loss")
