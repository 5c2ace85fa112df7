"""Metrics of language models, from the (Σ value, Σ weight) pairs that losses travel as."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from jaxtune.errors import DataError, NonFiniteError
from jaxtune.tasks.scoring.values import Metrics

Pair = tuple[float, float]
"""(Σ weight·value, Σ weight)."""

LANGUAGE_METRICS = ("loss", "perplexity", "bits_per_token")

_LARGEST_EXPONENT = math.log(sys.float_info.max)


def total(pairs: Iterable[Pair]) -> Pair:
    """The sum of pairs, correctly rounded in any order (``math.fsum``): batches, devices, processes."""
    listed = list(pairs)
    return math.fsum(float(value) for value, _ in listed), math.fsum(float(weight) for _, weight in listed)


def mean(pair: Pair) -> float:
    """Σ value / Σ weight. Raises DataError for a weight of 0, NonFiniteError for a sum that is no number."""
    value, weight = float(pair[0]), float(pair[1])
    if not (math.isfinite(value) and math.isfinite(weight)):
        raise NonFiniteError(
            f"a sum over {weight:g} tokens is {value}: the parameters have diverged. "
            "Train again with a lower --optim.learning-rate, or evaluate an earlier checkpoint."
        )
    if weight <= 0:
        raise DataError("there is no token to compute metrics of; every position is padding or masked out")
    return value / weight


def perplexity(loss: Pair) -> float:
    """exp(Σ nll / Σ tokens), nll in nats. The largest finite number where that would overflow."""
    exponent = mean(loss)
    return math.exp(exponent) if exponent < _LARGEST_EXPONENT else sys.float_info.max


def bits_per_token(loss: Pair) -> float:
    """Σ nll / (Σ tokens · ln 2), nll in nats."""
    return mean(loss) / math.log(2)


def bits_per_byte(loss: Pair, utf8_bytes: float) -> float:
    """Σ nll / (bytes · ln 2): what the text costs per byte of its UTF-8, comparable between tokenizers.

    Args:
        loss: (Σ nll in nats, Σ tokens).
        utf8_bytes: bytes of the text those tokens stand for.
    """
    mean(loss)
    return mean((loss[0], utf8_bytes)) / math.log(2)


def masked_accuracy(correct: Pair) -> float:
    """Share of the counted positions whose most likely token is the right one, from (Σ correct, Σ positions)."""
    return mean(correct)


def language_metrics(loss: Pair, correct: Pair | None = None, utf8_bytes: float | None = None) -> Metrics:
    """loss (mean nll in nats), perplexity, bits_per_token; accuracy and bits_per_byte where given what they need."""
    result: Metrics = {
        "loss": mean(loss),
        "perplexity": perplexity(loss),
        "bits_per_token": bits_per_token(loss),
    }
    if correct is not None:
        result["accuracy"] = masked_accuracy(correct)
    if utf8_bytes is not None:
        result["bits_per_byte"] = bits_per_byte(loss, utf8_bytes)
    return result
