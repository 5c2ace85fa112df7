"""Tests of significance: they find what is there, and only so often what is not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxtune.reports.significance import (
    DirectScores,
    SumScores,
    approximate_randomisation,
    mean_scores,
    paired_bootstrap,
)


def correlation(outputs, targets):
    return float(np.corrcoef(outputs, targets)[0, 1])


def as_sums(x, y):
    def combine(sums):
        n, sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        return (sxy - sx * sy / n) / np.sqrt((sxx - sx**2 / n) * (syy - sy**2 / n))

    return SumScores(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1), combine)


def test_sums_and_direct_computation_agree_on_every_draw():
    rng = np.random.default_rng(0)
    y, a, b = rng.normal(size=(3, 40))
    for test in (paired_bootstrap, approximate_randomisation):
        sums = test([as_sums(a, y)], [as_sums(b, y)], resamples=300, seed=3)
        direct = test(
            [DirectScores(a, y, correlation)], [DirectScores(b, y, correlation)], resamples=300, seed=3
        )
        for name, value in vars(sums).items():
            assert value == pytest.approx(getattr(direct, name), abs=1e-10), (test, name)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=7))
def test_few_examples_are_enumerated(pairs):
    a, b = np.array(pairs, float).T
    found = approximate_randomisation([mean_scores(a)], [mean_scores(b)], resamples=200)
    differences = [
        sum(s * d for s, d in zip(signs, a - b)) for signs in itertools.product((1, -1), repeat=len(a))
    ]
    expected = np.mean([abs(d) >= abs((a - b).sum()) - 1e-9 for d in differences])
    assert found.exact
    assert found.p_value == pytest.approx(expected)
    assert found.difference == pytest.approx((a - b).mean())


def test_draws_come_close_to_the_enumeration():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.6, size=12), rng.normal(size=12)
    exact = approximate_randomisation([mean_scores(a)], [mean_scores(b)], resamples=4096)
    drawn = approximate_randomisation([mean_scores(a)], [mean_scores(b)], resamples=4095)
    assert exact.exact
    assert not drawn.exact
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.03)
    assert drawn.p_value * 4096 == pytest.approx(round(drawn.p_value * 4096))  # (hits + 1) / (draws + 1)


@pytest.mark.parametrize("test", [paired_bootstrap, approximate_randomisation])
def test_without_a_difference_p_values_are_uniform(test):
    rng = np.random.default_rng(5)
    found = []
    for seed in range(300):
        difficulty = rng.normal(size=120)
        a, b = difficulty + rng.normal(size=(2, 120))
        found.append(test([mean_scores(a)], [mean_scores(b)], resamples=199, seed=seed).p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) < 0.1


@pytest.mark.parametrize("test", [paired_bootstrap, approximate_randomisation])
def test_a_difference_is_found_whatever_its_direction(test):
    rng = np.random.default_rng(6)
    right = rng.random((2, 600)) < [[0.85], [0.7]]
    up = test([mean_scores(right[0])], [mean_scores(right[1])], resamples=999)
    down = test([mean_scores(right[1])], [mean_scores(right[0])], resamples=999)
    assert up.p_value <= 0.002
    assert down.p_value <= 0.002
    assert up.p_value >= 1 / 1000  # never 0
    assert up.difference == -down.difference > 0.1


def test_the_interval_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(7)
    a, b = rng.normal(0.2, size=500), rng.normal(size=500)
    found = paired_bootstrap([mean_scores(a)], [mean_scores(b)], resamples=4000)
    error = (a - b).std() / np.sqrt(500)
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.1 * error)
    assert found.wins == pytest.approx(stats.norm.cdf(found.difference / error), abs=0.02)


def test_equal_systems_and_a_seed():
    a = mean_scores([1.0, 0, 1, 1, 0] * 20)
    assert paired_bootstrap([a], [a], resamples=50).p_value == 1
    assert approximate_randomisation([a], [a], resamples=50).p_value == 1
    b = mean_scores([1.0, 1, 0, 1, 0] * 20)
    assert paired_bootstrap([a], [b], resamples=50, seed=1) == paired_bootstrap(
        [a], [b], resamples=50, seed=1
    )


def test_groups_of_runs():
    rng = np.random.default_rng(8)
    runs = [mean_scores(row) for row in rng.random((3, 50))]
    single = mean_scores(rng.random(50))
    for test in (paired_bootstrap, approximate_randomisation):
        found = test(runs, [single], resamples=100)
        expected = np.mean([run.value() for run in runs]) - single.value()
        assert found.difference == pytest.approx(expected)
    same = mean_scores(np.mean([run.statistics for run in runs], axis=0))
    assert paired_bootstrap(runs, [single], resamples=100).p_value == pytest.approx(
        paired_bootstrap([same], [single], resamples=100).p_value
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([], [[1.0]], "two groups of runs"),
        ([[]], [[]], "two groups of runs"),
        ([[1.0, 0]], [[1.0]], "different numbers of examples"),
    ],
)
@pytest.mark.parametrize("test", [paired_bootstrap, approximate_randomisation])
def test_what_cannot_be_compared(test, ours, theirs, said):
    with pytest.raises(ValueError, match=said):
        test([mean_scores(x) for x in ours], [mean_scores(x) for x in theirs])


def test_groups_that_do_not_pair():
    one = mean_scores([1.0, 0.0])
    with pytest.raises(ValueError, match="3 runs cannot be paired with 2"):
        approximate_randomisation([one] * 3, [one] * 2)
    with pytest.raises(ValueError, match="0 resamples"):
        paired_bootstrap([one], [one], resamples=0)
    with pytest.raises(ValueError, match="different kinds"):
        one.exchanged(DirectScores(np.zeros(2), np.zeros(2), correlation), np.zeros((1, 2), bool))
