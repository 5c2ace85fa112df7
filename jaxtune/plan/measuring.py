"""Steps of a compiled program, run and timed on the devices that are here."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from jaxtune.plan.program import Program

WARM = 2
"""Steps before the clock counts: the first ones fill caches and allocate."""


def measure(program: Program, compiled: Any, steps: int) -> float:
    """Median seconds of a step, from random parameters and empty texts."""
    state = program.prepared.random_state()
    batch = {
        name: jax.device_put(jnp.ones(field.shape, field.dtype), field.sharding)
        for name, field in program.batch.items()
    }
    times = []
    for _ in range(WARM + steps):
        start = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM:])
