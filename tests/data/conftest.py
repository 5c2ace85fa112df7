"""What the tests of the data room share."""

from __future__ import annotations

import numpy as np
import pytest

# HISTOGRAM[n]: how many of the 10,555 sentences have n tokens (MiniLM's tokenizer, special tokens included).
HISTOGRAM = """
0 0 0 0 7 21 57 82 113 140 167 198 217 235 247 240 279 270 346 339 336 308 347 376 369 335 378
366 381 353 302 311 307 271 264 252 287 229 187 187 170 180 136 129 118 108 93 74 61 57 49 37 56
45 30 28 13 18 9 9 6 2 8 5 4 1 1 1 1 0 0 0 1 0 0 0 0 0 0 1
"""


@pytest.fixture(scope="session")
def movie_lengths():
    """``movie_lengths(count)``: so many token counts drawn from the sentences' own, int32."""
    counts = [int(count) for count in HISTOGRAM.split()]
    lengths = np.repeat(np.arange(len(counts)), counts).astype(np.int32)

    def draw(count: int = 8444) -> np.ndarray:
        return np.random.default_rng(0).choice(lengths, count)

    return draw
