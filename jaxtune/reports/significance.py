"""Is a difference between two systems on the same examples more than chance?

Paired bootstrap: draw the examples again with replacement and look how the difference of the scores moves
(Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16; Koehn, Statistical Significance
Tests for Machine Translation Evaluation, EMNLP 2004).

Approximate randomisation: exchange the two systems' outputs on random examples and look how often the difference
gets as large as it is; if the systems were the same, an exchange would change nothing (Noreen, Computer-Intensive
Methods for Testing Hypotheses, 1989; Riezler & Maxwell, 2005). With few examples all exchanges are counted.

Both are two-sided. A p-value of draws is (hits + 1) / (draws + 1): the data itself is one of them, and no finite
number of draws shows a probability of 0 (Davison & Hinkley, Bootstrap Methods and their Application, 1997, 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 10_000
_CHUNK = 2**22
"""Entries of a matrix of draws that are held at once."""
_TIE = 1e-12
"""Differences this close are the same difference in another order of summation."""


class Scores(Protocol):
    """What one system got on n examples, and how a metric of some of them is computed."""

    @property
    def count(self) -> int:
        """Number of examples n."""

    def value(self) -> float:
        """The metric of all examples."""

    def drawn(self, indices: Int[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        """The metric of each drawing of examples."""

    def exchanged(self, other: Scores, masks: Bool[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        """The metric with the outputs of ``other`` where a mask is True."""


@dataclass(frozen=True, eq=False)
class SumScores:
    """A metric that is a function of sums over the examples: a mean, F1, a correlation.

    All draws are one product of matrices.

    Attributes:
        statistics: float [n, k], what each example adds to the sums.
        combine: sums [..., k] → metric [...].
    """

    statistics: Float[np.ndarray, "n k"]
    combine: Callable[[np.ndarray], np.ndarray]

    @property
    def count(self) -> int:
        """Number of examples n."""
        return len(self.statistics)

    def value(self) -> float:
        """The metric of all examples."""
        return float(self.combine(self.statistics.sum(axis=0)))

    def drawn(self, indices: Int[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        """The metric of each drawing of examples."""
        rows, n = len(indices), self.count
        flat = indices + n * np.arange(rows)[:, None]
        counts = np.bincount(flat.ravel(), minlength=rows * n).reshape(rows, n)
        return self.combine(counts.astype(np.float64) @ self.statistics)

    def exchanged(self, other: Scores, masks: Bool[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        """The metric with the outputs of ``other`` where a mask is True."""
        if not isinstance(other, SumScores) or other.statistics.shape != self.statistics.shape:
            raise ValueError("two systems with different kinds of scores cannot be exchanged")
        change = masks.astype(np.float64) @ (other.statistics - self.statistics)
        return self.combine(self.statistics.sum(axis=0) + change)


@dataclass(frozen=True, eq=False)
class DirectScores:
    """Any metric of outputs and targets, as a rank correlation: computed anew for every draw.

    Attributes:
        outputs: [n, ...], what the system says of each example.
        targets: [n, ...].
        metric: (outputs, targets) of some examples → number.
    """

    outputs: np.ndarray
    targets: np.ndarray
    metric: Callable[[np.ndarray, np.ndarray], float]

    @property
    def count(self) -> int:
        """Number of examples n."""
        return len(self.outputs)

    def value(self) -> float:
        """The metric of all examples."""
        return float(self.metric(self.outputs, self.targets))

    def drawn(self, indices: Int[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        """The metric of each drawing of examples."""
        return np.array([self.metric(self.outputs[chosen], self.targets[chosen]) for chosen in indices])

    def exchanged(self, other: Scores, masks: Bool[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        """The metric with the outputs of ``other`` where a mask is True."""
        if not isinstance(other, DirectScores):
            raise ValueError("two systems with different kinds of scores cannot be exchanged")
        wide = (-1,) + (1,) * (self.outputs.ndim - 1)
        mixed = (np.where(mask.reshape(wide), other.outputs, self.outputs) for mask in masks)
        return np.array([self.metric(outputs, self.targets) for outputs in mixed])


def mean_scores(values: Sequence[float] | np.ndarray) -> SumScores:
    """Scores whose metric is the mean of a number per example, as accuracy."""
    column = np.asarray(values, np.float64).reshape(-1, 1)
    n = len(column)
    return SumScores(column, lambda sums: sums[..., 0] / n)


@dataclass(frozen=True)
class Bootstrap:
    """Of the difference ours - theirs.

    Attributes:
        difference: as measured.
        low: lower end of the percentile interval.
        high: upper end.
        p_value: two-sided: how often the difference, moved to mean 0, is as far from 0 as the measured one.
        wins: share of the draws in which ours is above theirs (Koehn's statistic).
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: float


@dataclass(frozen=True)
class Randomisation:
    """Of the difference ours - theirs.

    Attributes:
        difference: as measured.
        p_value: two-sided.
        exact: all 2^n exchanges were counted.
    """

    difference: float
    p_value: float
    exact: bool


def paired_bootstrap(
    ours: Sequence[Scores],
    theirs: Sequence[Scores],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """Compare the mean metric of two groups of runs on the same examples.

    Every draw of examples is the same for all runs, so what it shows is the chance in the choice of test examples;
    the chance in the seeds is averaged over, not drawn.

    Args:
        ours: one or more runs (seeds) of one system.
        theirs: one or more runs of the other.
        resamples: number of draws.

    Raises:
        ValueError: no run, no example, or different numbers of examples.
    """
    n = _check(ours, theirs, resamples)
    difference = _mean(ours) - _mean(theirs)
    rng = np.random.default_rng(seed)
    found = np.concatenate(
        [
            sum(s.drawn(indices) for s in ours) / len(ours)
            - sum(s.drawn(indices) for s in theirs) / len(theirs)
            for size in _chunks(resamples, n)
            for indices in [rng.integers(0, n, (size, n))]
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    # Moved to the hypothesis "no difference" (Efron & Tibshirani, 16.4).
    hits = np.count_nonzero(np.abs(found - found.mean()) >= abs(difference) - _TIE)
    return Bootstrap(
        difference=difference,
        low=float(low),
        high=float(high),
        p_value=(hits + 1) / (resamples + 1),
        wins=float(np.mean(found > 0)),
    )


def approximate_randomisation(
    ours: Sequence[Scores], theirs: Sequence[Scores], *, resamples: int = RESAMPLES, seed: int = 0
) -> Randomisation:
    """Compare two groups of runs by exchanging their outputs, example by example.

    Run i of one group is exchanged with run i of the other, on the same examples for all pairs. A group of a single
    run is paired with every run of the other.

    Args:
        ours: runs (seeds) of one system.
        theirs: as many runs of the other, or one of them is a single run.

    Raises:
        ValueError: no run, no example, different numbers of examples, or groups that do not pair.
    """
    n = _check(ours, theirs, resamples)
    pairs = _pairs(ours, theirs)
    difference = sum(a.value() - b.value() for a, b in pairs) / len(pairs)
    exact = n < 63 and 2**n <= resamples
    rng = np.random.default_rng(seed)
    hits = total = 0
    for size in _chunks(2**n if exact else resamples, n):
        masks = _all_masks(total, size, n) if exact else rng.random((size, n)) < 0.5
        found = sum(a.exchanged(b, masks) - b.exchanged(a, masks) for a, b in pairs) / len(pairs)
        hits += int(np.count_nonzero(np.abs(found) >= abs(difference) - _TIE))
        total += size
    # The exchange of nothing is among all of them, so an exact p-value is never 0.
    p_value = hits / total if exact else (hits + 1) / (total + 1)
    return Randomisation(difference, p_value, exact)


def _pairs(ours: Sequence[Scores], theirs: Sequence[Scores]) -> list[tuple[Scores, Scores]]:
    if len(ours) != len(theirs) and 1 not in (len(ours), len(theirs)):
        raise ValueError(f"{len(ours)} runs cannot be paired with {len(theirs)}")
    size = max(len(ours), len(theirs))
    return [(ours[i % len(ours)], theirs[i % len(theirs)]) for i in range(size)]


def _mean(runs: Sequence[Scores]) -> float:
    return sum(run.value() for run in runs) / len(runs)


def _check(ours: Sequence[Scores], theirs: Sequence[Scores], resamples: int) -> int:
    """Number of examples n, the same in all runs."""
    counts = {scores.count for scores in (*ours, *theirs)}
    if not ours or not theirs or 0 in counts:
        raise ValueError("two groups of runs with examples are needed")
    if len(counts) > 1:
        raise ValueError(f"runs on different numbers of examples cannot be paired: {sorted(counts)}")
    if resamples < 1:
        raise ValueError(f"{resamples} resamples; expected at least 1")
    return counts.pop()


def _chunks(total: int, n: int) -> Iterator[int]:
    size = max(1, _CHUNK // n)
    for first in range(0, total, size):
        yield min(size, total - first)


def _all_masks(first: int, size: int, n: int) -> Bool[np.ndarray, "R n"]:
    """Masks number ``first`` and following: the binary digits of their numbers."""
    numbers = np.arange(first, first + size, dtype=np.int64)[:, None]
    return (numbers >> np.arange(n)) % 2 == 1
