"""What all noise draws by: uniform numbers, which NumPy keeps the same between versions, unlike ``choice``."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def shuffled(count: int, rng: np.random.Generator) -> Int[np.ndarray, "n"]:
    """0 … ``count`` - 1 in random order."""
    return np.argsort(rng.random(count), kind="stable")
