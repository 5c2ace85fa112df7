"""Splash attention on TPU: block-sparse flash attention as a Pallas kernel that comes with JAX.

Scores are never written to memory (Dao et al. 2022), and blocks that a causal mask or a window hides
are not computed at all. The kernel: ``jax.experimental.pallas.ops.tpu.splash_attention``,
https://github.com/jax-ml/jax/tree/main/jax/experimental/pallas/ops/tpu/splash_attention.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxtune.models.attention import ATTENTION_OUTPUT, Attention, AttentionSpec
from jaxtune.models.kernels.calls import Call, call_of
from jaxtune.models.kernels.over_mesh import Layout, layout_of, spread_kv_heads

LANES = 128
"""Tokens in the smallest block; shorter rows would be mostly padding."""
MOST_IN_BLOCK = 512
DTYPES = ("float32", "bfloat16")


def make_splash(
    mesh: Mesh | None = None, interpret: bool = False, windows: tuple[int, ...] = ()
) -> Attention:
    """``splash_attention`` for one mesh.

    Args:
        mesh: the devices it runs on; none for one device, or within ``pmap``.
        interpret: run the kernel step by step in plain XLA, for tests on other platforms.
        windows: all windows that the layers of the model have, where they differ (see ``refuses``).
    """
    return functools.partial(splash_attention, mesh=mesh, interpret=interpret, windows=windows)


def refuses(call: Call, mesh: Mesh | None = None, windows: tuple[int, ...] = ()) -> str | None:
    """Why splash attention does not take a call, or none if it does.

    Args:
        windows: numbers that a traced window may have. The kernel's mask is fixed when it is
            compiled, so there is one kernel for each, and the running program takes one of them.
    """
    if call.bias:
        return "it takes no additive bias"
    if call.dropout:
        return "it has no dropout on the probabilities"
    if call.moved:
        return "its mask is fixed at compile time, and these queries begin at an offset (a cache)"
    if call.window == "traced" and not windows:
        return "its mask is fixed at compile time, and this window is traced (layers under scan)"
    if call.window is not None and call.queries > call.keys:
        return f"with a window, {call.queries} queries of {call.keys} keys would see nothing at all"
    if min(call.queries, call.keys) < LANES:
        return f"its blocks have {LANES} tokens, and there are {min(call.queries, call.keys)}"
    if call.dtype not in DTYPES:
        return f"it computes in {' or '.join(DTYPES)}, not {call.dtype}"
    if call.dtype == "float32" and call.precision != "default":
        return f"its gradients have the default matmul precision, not {call.precision}"
    return layout_of(mesh).refuses(call.rows, call.heads)


def splash_attention(
    query: Float[Array, "B S H C"],
    key: Float[Array, "B T K C"],
    value: Float[Array, "B T K C"],
    spec: AttentionSpec,
    precision: str = "default",
    *,
    mesh: Mesh | None = None,
    interpret: bool = False,
    windows: tuple[int, ...] = (),
) -> Float[Array, "B S H C"]:
    """What ``plain_attention`` computes, for all queries that see a key.

    Padding queries see padding here, where in plain attention they see nobody; both are finite, and
    nobody sees what comes of them. Lengths that are no multiples of 128 are padded.

    Args:
        precision: of the matrix products; float32 has ``default`` only.
        mesh, interpret, windows: see ``make_splash``.

    Raises:
        ValueError: the call asks for what the kernel does not have, see ``refuses``.
    """
    reason = refuses(call_of(query, key, spec, precision), mesh, windows)
    if reason is not None:
        raise ValueError(f"splash attention cannot be used here: {reason}; use plain_attention")
    if spec.window is None or isinstance(spec.window, int):
        return _attend(query, key, value, spec, layout_of(mesh), interpret)
    numbers = sorted({min(window, key.shape[1]) for window in windows})
    specs = [dataclasses.replace(spec, window=number) for number in numbers]
    branches = [
        functools.partial(_attend, spec=one, layout=layout_of(mesh), interpret=interpret) for one in specs
    ]
    at = jnp.argmax(jnp.asarray(numbers) == jnp.minimum(spec.window, key.shape[1]))
    return jax.lax.switch(at, branches, query, key, value)


def _attend(
    query: Array, key: Array, value: Array, spec: AttentionSpec, layout: Layout, interpret: bool
) -> Array:
    length, heads, size = query.shape[1:]
    scale = size**-0.5 if spec.scale is None else spec.scale
    segments = _segments(query.shape[1], key.shape[1], key.shape[0], spec, layout)
    query = _padded(query * jnp.asarray(scale, query.dtype), layout)
    key, value = (spread_kv_heads(_padded(x, layout), heads, layout.head_shards) for x in (key, value))
    kernel, kernel_spec = _kernel(query.shape[1], key.shape[1], spec, layout, interpret)
    segment_specs = None if segments is None else (layout.query_tokens, layout.key_tokens)
    in_specs = (kernel_spec, layout.queries, layout.keys, layout.keys, segment_specs)
    return layout.run(_local, in_specs, kernel, query, key, value, segments)[:, :length]


def _local(kernel: Any, query: Array, key: Array, value: Array, segments: Any) -> Array:
    """One device's rows, heads and queries, with the keys of whole rows."""
    ids = None if segments is None else kernels.SegmentIds(*segments)
    swapped = (x.swapaxes(1, 2) for x in (query, key, value))
    return jax.vmap(kernel)(*swapped, ids).swapaxes(1, 2)


def _segments(
    queries: int, keys: int, rows: int, spec: AttentionSpec, layout: Layout
) -> tuple[Array, Array] | None:
    """Segments of queries and keys, padded; none where the mask alone says who sees whom."""
    if spec.key_segments is None:
        # Behind the last key lies padding that a causal query before it does not see anyway.
        if keys == _room(keys, layout) or (spec.causal and queries == keys):
            return None
        query_segments, key_segments = jnp.ones((rows, queries)), jnp.ones((rows, keys))
    elif spec.query_segments is None:
        query_segments, key_segments = jnp.ones((rows, queries)), spec.key_segments != 0
    else:
        query_segments, key_segments = spec.query_segments, spec.key_segments
    first, second = (_padded(ids.astype(jnp.int32), layout) for ids in (query_segments, key_segments))
    return first, second


def _room(length: int, layout: Layout) -> int:
    """The length with padding: whole blocks on every device."""
    step = LANES * layout.sequence_shards
    return -(-length // step) * step


def _padded(x: Array, layout: Layout) -> Array:
    """Zeros behind the tokens (axis 1), up to whole blocks."""
    missing = _room(x.shape[1], layout) - x.shape[1]
    if not missing:
        return x
    return jnp.pad(x, [(0, missing) if axis == 1 else (0, 0) for axis in range(x.ndim)])


def _kernel(queries: int, keys: int, spec: AttentionSpec, layout: Layout, interpret: bool) -> tuple[Any, Any]:
    """The kernel of these lengths, and how it is laid out over the mesh."""
    window = None if spec.window is None or spec.window >= keys else int(spec.window)
    shards = layout.sequence_shards
    mask: masks.Mask
    if window is not None:
        mask = masks.LocalMask((queries, keys), (window - 1, 0 if spec.causal else window - 1), 0)
    elif spec.causal:
        mask = masks.CausalMask((queries, keys))
    else:
        # Without positions in it, each device's part of the mask is the same.
        mask, queries, shards = masks.FullMask((queries // shards, keys)), queries // shards, 1
    kernel = kernels.make_splash_mha(
        # One mask serves all heads, however many a device has.
        masks.MultiHeadMask([mask]),
        block_sizes=_blocks(queries // shards, keys),
        head_shards=1,
        q_seq_shards=shards,
        attn_logits_soft_cap=spec.soft_cap,
        residual_checkpoint_name=ATTENTION_OUTPUT,
        interpret=interpret,
    )
    if layout.mesh is None:
        return kernel, None
    axis = layout.sequence_axis if shards > 1 else None
    return kernel, kernel.manual_sharding_spec(NamedSharding(layout.mesh, P(None, axis)))


def _blocks(queries: int, keys: int) -> kernels.BlockSizes:
    """The largest blocks up to 512 tokens that divide the lengths."""
    q, kv = _block(queries), _block(keys)
    return kernels.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )


def _block(length: int) -> int:
    return max(size for size in range(LANES, MOST_IN_BLOCK + 1, LANES) if length % size == 0)
