"""Which precision a run computes in, chosen by looking at the machine, with the reason said."""

from __future__ import annotations

import dataclasses
import time
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtune.config import Experiment
from jaxtune.models.layers import Policy
from jaxtune.persistence.provenance import cpu_flags

Resolved = Literal["float32", "bfloat16"]

WORTH_IT = 1.25
"""bfloat16 must be this many times faster on a CPU before it is taken: timings are noisy, and it costs digits."""


def resolve_precision(asked: str) -> tuple[Resolved, str]:
    """The compute type for ``auto``, ``float32`` or ``bfloat16``, and why."""
    if asked in ("float32", "bfloat16"):
        return asked, "as configured"  # type: ignore[return-value]
    device = jax.devices()[0]
    if device.platform == "tpu":
        return "bfloat16", f"{device.device_kind} multiplies bfloat16 natively"
    if device.platform == "gpu":
        return _on_gpu(device)
    return _on_cpu()


def with_precision(experiment: Experiment) -> tuple[Experiment, str]:
    """The experiment with its precision settled, and why it is that."""
    precision, reason = resolve_precision(experiment.model.precision)
    model = dataclasses.replace(experiment.model, precision=precision)
    return dataclasses.replace(experiment, model=model), reason


def make_policy(precision: str, matmul_precision: str) -> Policy:
    """Parameters and outputs in float32, the network in ``precision``."""
    return Policy(compute_dtype=jnp.dtype(precision), matmul_precision=matmul_precision)


def _on_gpu(device: jax.Device) -> tuple[Resolved, str]:
    capability = str(getattr(device, "compute_capability", "0"))
    if float(capability) >= 8.0:
        return (
            "bfloat16",
            f"{device.device_kind} (compute capability {capability}) multiplies bfloat16 natively",
        )
    return "float32", f"{device.device_kind} (compute capability {capability}) has no native bfloat16"


def _on_cpu() -> tuple[Resolved, str]:
    if not set(cpu_flags()) & {"avx512_bf16", "amx_bf16"}:
        return "float32", "this CPU has no bfloat16 instructions (AVX512-BF16, AMX) and would emulate them"
    # The instructions alone do not make a step faster: what lies between the matrix products may
    # be emulated all the same, and compilers differ. So one small block is timed.
    times = {name: _time_block(name) for name in ("float32", "bfloat16")}
    ratio = times["float32"] / times["bfloat16"]
    measured = f"a timed feed-forward block ran {ratio:.2f}× as fast in bfloat16 on this CPU"
    return ("bfloat16" if ratio >= WORTH_IT else "float32"), measured


def _time_block(dtype: str) -> float:
    """Best seconds of three for the gradient of one small feed-forward block."""

    def block(weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
        up, down = weights
        y = jax.nn.gelu(x @ up.astype(x.dtype), approximate=False) @ down.astype(x.dtype)
        y = jax.nn.standardize((x + y).astype(jnp.float32)).astype(x.dtype)
        return jnp.square(y.astype(jnp.float32)).sum()

    keys = jax.random.split(jax.random.key(0), 3)
    weights = (jax.random.normal(keys[0], (256, 1024)), jax.random.normal(keys[1], (1024, 256)))
    x = jax.random.normal(keys[2], (512, 256)).astype(dtype)
    gradient = jax.jit(jax.grad(block))
    jax.block_until_ready(gradient(weights, x))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready([gradient(weights, x) for _ in range(4)])
        best = min(best, time.perf_counter() - start)
    return best
