from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from jaxtune.errors import DataError, NonFiniteError
from jaxtune.tasks.scoring.language import (
    LANGUAGE_METRICS,
    bits_per_byte,
    language_metrics,
    masked_accuracy,
    perplexity,
    total,
)


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def test_against_the_formulas_over_single_tokens():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 200))
        probabilities, right = rng.uniform(1e-6, 1, n), rng.random(n) < 0.5
        cuts = np.sort(rng.integers(0, n + 1, 3))
        parts = np.split(-np.log(probabilities), cuts)
        loss = total((part.sum(), len(part)) for part in parts)
        size = int(rng.integers(1, 999))
        result = language_metrics(loss, (right.sum(), n), size)
        assert result["perplexity"] == close(np.prod(probabilities ** (-1 / n)))
        assert result["loss"] == close(-np.log(probabilities).mean())
        assert result["bits_per_byte"] == close(-np.log2(probabilities).sum() / size)
        assert result["bits_per_token"] == close(-np.log2(probabilities).mean())
        assert result["accuracy"] == close(right.mean())


def test_a_uniform_guess():
    assert perplexity((10 * math.log(50), 10)) == close(50)
    assert bits_per_byte((8 * math.log(256), 8), 8) == close(8)


def test_the_sum_of_pairs_does_not_depend_on_their_order():
    pairs = [(1e16, 1.0), (1.0, 2.0), (-1e16, 3.0)]
    assert total(pairs) == total(pairs[::-1]) == (1.0, 6.0)
    assert total([]) == (0.0, 0.0)


@pytest.mark.parametrize("loss", [709.0, 709.7827, 710.0, 1e300])
def test_perplexity_does_not_overflow(loss):
    found = perplexity((loss * 2, 2))
    assert math.isfinite(found)
    assert found == (close(math.exp(loss)) if loss < 709.78271 else sys.float_info.max)


def test_no_token_and_no_number():
    with pytest.raises(DataError, match="no token"):
        masked_accuracy((0.0, 0.0))
    with pytest.raises(DataError, match="no token"):
        bits_per_byte((1.0, 0.0), 5)
    for value in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="diverged"):
            perplexity((value, 3.0))


def test_only_what_is_given_is_scored():
    assert tuple(language_metrics((1.0, 2.0))) == LANGUAGE_METRICS
