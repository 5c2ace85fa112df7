"""Model FLOP/s, and the share of the machine's peak that they are (MFU).

The count is that of PaLM (Chowdhery et al. 2022, appendix B): six per matrix parameter and token,
plus attention where there is any, over all pairs of tokens also where a mask hides half of them;
recomputation, padding and embedding look-ups do not count as work.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxtune.parallel.accelerators import accelerator_of


def matrix_parameters(params: dict[str, Any]) -> int:
    """Parameters that multiply every token: all kernels of the backbone."""
    flat = flatten_dict(params["backbone"])
    per_example = ("pooler",)
    return sum(
        leaf.size for path, leaf in flat.items() if path[-1] == "kernel" and path[0] not in per_example
    )


def attention_width(params: dict[str, Any]) -> int:
    """Query features (heads times their size) of all attention layers together; 0 without attention."""
    flat = flatten_dict(params["backbone"])
    return sum(leaf.shape[-1] for path, leaf in flat.items() if path[-3:] == ("attention", "query", "kernel"))


def training_flops(
    matrix_params: int, attention_width: int, lengths: np.ndarray, *, frozen: bool = False
) -> float:
    """FLOPs of one forward and backward pass over examples of the given lengths.

    Attention is 12 per query feature and pair of tokens: scores and mixing, forward (4) and backward (8).

    Args:
        frozen: the backbone is not trained, so there is no backward pass through it.
    """
    tokens = float(np.sum(lengths, dtype=np.float64))
    pairs = float(np.sum(np.square(lengths, dtype=np.float64)))
    forward = 2.0 * matrix_params * tokens + 4.0 * attention_width * pairs
    return forward if frozen else 3.0 * forward


def peak_flops(devices: int, dtype: str) -> tuple[float | None, str]:
    """FLOP/s of all devices, and where the number is from: a data sheet, or a measurement on a CPU."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        # Fake devices share the same cores, so the machine's peak does not grow with them.
        return _measured_peak(dtype), f"measured: the fastest of five {dtype} matrix products on this CPU"
    chip = accelerator_of(device.device_kind)
    if chip is None:
        return None, f"the peak of {device.device_kind} is not in jaxtune's table"
    return chip.peak_flops / chip.devices * devices, f"data sheet of {device.device_kind}, dense bfloat16"


def _measured_peak(dtype: str) -> float:
    size = 1024
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
