from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from jaxtune.tasks.scoring.regression import regression_metrics


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def test_numbers_are_scored_as_by_scipy_and_scikit_learn():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(3, 40))
        targets = rng.normal(size=n).round(1)
        predictions = targets + rng.normal(size=n)
        result = regression_metrics(predictions[:, None], targets)
        assert result["pearson"] == close(np.corrcoef(predictions, targets)[0, 1])
        ranks = stats.rankdata(predictions), stats.rankdata(targets)
        assert result["spearman"] == close(np.corrcoef(*ranks)[0, 1])
        assert result["mse"] == result["loss"] == close(reference.mean_squared_error(targets, predictions))
        assert result["mae"] == close(np.abs(targets - predictions).mean())


@pytest.mark.parametrize("constant", [np.full(4, 0.1), np.array([0.1, 0.1 + 1e-12, 0.1, 0.1]), np.zeros(4)])
def test_the_correlation_with_a_constant_is_zero(constant):
    other = np.arange(4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for predictions, targets in ((constant[:, None], other), (other[:, None], constant)):
            result = regression_metrics(predictions, targets)
            assert result["pearson"] == result["spearman"] == 0
        assert regression_metrics(np.array([[1.0]]), np.array([3.0]))["mse"] == 4
