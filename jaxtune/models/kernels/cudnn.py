"""cuDNN's flash attention on NVIDIA GPUs, through ``jax.nn.dot_product_attention``.

https://docs.jax.dev/en/latest/_autosummary/jax.nn.dot_product_attention.html says what it takes, and
https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html on which GPU.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import ATTENTION_OUTPUT, Attention, AttentionSpec
from jaxtune.models.kernels.calls import Call, call_of
from jaxtune.models.kernels.over_mesh import layout_of, spread_kv_heads

DTYPES = ("bfloat16", "float16")
LEAST_CAPABILITY = 8.0
"""Ampere."""
HOPPER = 9.0
Implementation = Literal["cudnn", "xla"]


def make_cudnn(mesh: Mesh | None = None, implementation: Implementation = "cudnn") -> Attention:
    """``cudnn_attention`` for one mesh.

    Args:
        mesh: the devices it runs on; none for one device, or within ``pmap``.
        implementation: ``xla`` computes the same on any platform, for tests.
    """
    return functools.partial(cudnn_attention, mesh=mesh, implementation=implementation)


def refuses(
    call: Call, mesh: Mesh | None = None, *, packed: bool = True, capability: float | None = None
) -> str | None:
    """Why cuDNN does not take a call, or none if it does.

    Args:
        packed: rows may hold several examples, or begin with padding.
        capability: compute capability of the GPU; none takes the least that has it.
    """
    capability = LEAST_CAPABILITY if capability is None else capability
    most = 256 if capability >= HOPPER else 128
    layout = layout_of(mesh)
    if call.bias:
        return "it would round an additive bias to the type of the queries"
    if call.dropout:
        return "its dropout would not be ours, whose bits do not depend on the device"
    if call.soft_cap:
        return "it has no soft-cap of the scores"
    if call.moved:
        return "its masks begin at the first key, and these queries begin at an offset (a cache)"
    if call.window is not None and (call.window == "traced" or not call.causal):
        return "it takes a window only of a fixed size, and only in causal attention"
    if call.segments and packed:
        return "it knows how long a row is, but not where examples begin within a packed row"
    if call.dtype not in DTYPES:
        return f"it computes in {' or '.join(DTYPES)}, not {call.dtype}"
    if capability < LEAST_CAPABILITY:
        return f"it needs compute capability {LEAST_CAPABILITY}, and this GPU has {capability}"
    if call.head_size % 8 or call.head_size > most:
        return f"its heads have a multiple of 8 and at most {most} numbers, not {call.head_size}"
    if layout.sequence_axis is not None:
        return "its causal mask begins at the first query, which a part of a row does not have"
    return layout.refuses(call.rows, call.heads)


def cudnn_attention(
    query: Float[Array, "B S H C"],
    key: Float[Array, "B T K C"],
    value: Float[Array, "B T K C"],
    spec: AttentionSpec,
    precision: str = "default",
    *,
    mesh: Mesh | None = None,
    implementation: Implementation = "cudnn",
) -> Float[Array, "B S H C"]:
    """What ``plain_attention`` computes, for rows that hold one example from their first token on.

    Args:
        spec: of its segment ids only the number that are not 0 counts.
        precision: not used, 16-bit products have one.
        mesh, implementation: see ``make_cudnn``.

    Raises:
        ValueError: the call asks for what cuDNN does not have, see ``refuses``.
    """
    call = call_of(query, key, spec, precision)
    if implementation == "cudnn" and (reason := refuses(call, mesh, packed=False, capability=HOPPER)):
        raise ValueError(f"cuDNN's attention cannot be used here: {reason}; use plain_attention")
    layout = layout_of(mesh)
    key, value = (spread_kv_heads(x, query.shape[2], layout.head_shards) for x in (key, value))
    local = functools.partial(_local, spec.causal, _reach(spec), spec.scale, implementation)
    lengths = P(layout.row_axes)
    in_specs = (layout.queries, layout.keys, layout.keys, lengths, lengths)
    ends = (_lengths(spec.query_segments, spec), _lengths(spec.key_segments, spec))
    return checkpoint_name(layout.run(local, in_specs, query, key, value, *ends), ATTENTION_OUTPUT)


def _local(
    causal: bool,
    window: tuple[int, int] | None,
    scale: float | None,
    implementation: Implementation,
    query: Array,
    key: Array,
    value: Array,
    query_lengths: Array | None,
    key_lengths: Array | None,
) -> Array:
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        scale=scale,
        is_causal=causal,
        query_seq_lengths=query_lengths,
        key_value_seq_lengths=key_lengths,
        local_window_size=window,
        implementation=implementation,
    )


def _reach(spec: AttentionSpec) -> tuple[int, int] | None:
    """Tokens seen before and after the query's own, from a window that counts its own too."""
    if spec.window is None:
        return None
    reach = int(spec.window) - 1
    return (reach, 0 if spec.causal else reach)


def _lengths(segments: Int[Array, "B S"] | None, spec: AttentionSpec) -> Int[Array, "B"] | None:
    """Tokens of each row that are no padding; none where all of them count."""
    if segments is None or spec.key_segments is None:
        return None
    return (segments != 0).sum(axis=1).astype(jnp.int32)
