"""Attention as one replaceable callable ``(q, k, v, spec)``.

The spec says what may be seen; a model never builds a [B, 1, S, S] mask itself, so that a kernel
which works from segment ids can take the place of ``plain_attention`` without a change in a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from jaxtune.models.layers import DropoutKey, dropout

ATTENTION_OUTPUT = "attention_output"
"""Name of what attention gives out, by which a remat policy may keep it (see ``layer_stack``)."""

# Finite, so that a padding query, which sees nothing, gets a uniform row and not a NaN.
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """What one attention call may see, and how its scores are treated.

    Attributes:
        query_segments, key_segments: [B, S] and [B, T]; a query sees the keys of its own segment;
            0 is padding, which nobody sees.
        causal: a query sees keys at its own index or before.
        window: a query sees keys whose index is less than this far away (may be traced, under scan).
        offset: index of the first query among the keys, where the keys before it come from a cache.
        bias: [H or 1, S, T] or [B, H or 1, S, T], added to the scaled scores.
        soft_cap: scores become ``cap * tanh(scores / cap)`` (Gemma 2).
        scale: factor of the scores; none is 1/sqrt(head dimension).
        dropout_rate, dropout_key, dropout_site: dropout on the probabilities.
    """

    query_segments: Int[Array, "B S"] | None = None
    key_segments: Int[Array, "B T"] | None = None
    causal: bool = False
    window: Int[Array, ""] | int | None = None
    offset: Int[Array, ""] | int = 0
    bias: Float[Array, ...] | None = None
    soft_cap: float | None = None
    scale: float | None = None
    dropout_rate: float = 0.0
    dropout_key: DropoutKey | None = None
    dropout_site: Any = 0


Attention = Callable[
    [Float[Array, "B S H C"], Float[Array, "B T K C"], Float[Array, "B T K C"], AttentionSpec, str],
    Float[Array, "B S H C"],
]
"""Called with query, key, value, spec and the precision of matrix products. C is the size of a head. K key/value heads serve H query heads, H/K neighbours each."""


def plain_attention(
    query: Float[Array, "B S H C"],
    key: Float[Array, "B T K C"],
    value: Float[Array, "B T K C"],
    spec: AttentionSpec,
    precision: str = "default",
) -> Float[Array, "B S H C"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) in plain XLA, softmax in float32.

    With fewer key/value heads than query heads it is grouped-query attention (Ainslie et al. 2023).
    """
    scale = query.shape[-1] ** -0.5 if spec.scale is None else spec.scale
    scores = _scores(query * jnp.asarray(scale, query.dtype), key, precision)
    if spec.soft_cap is not None:
        scores = spec.soft_cap * jnp.tanh(scores / spec.soft_cap)
    if spec.bias is not None:
        scores = scores + spec.bias
    mask = visible(query.shape[1], key.shape[1], spec)
    if mask is not None:
        scores = jnp.where(mask, scores, _MASKED)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    probabilities = dropout(probabilities, spec.dropout_rate, spec.dropout_key, spec.dropout_site)
    return checkpoint_name(_mix_values(probabilities, value, precision), ATTENTION_OUTPUT)


def _scores(query: Array, key: Array, precision: str) -> Float[Array, "B H S T"]:
    batch, length, heads, size = query.shape
    kv_heads = key.shape[2]
    if heads == kv_heads:
        return jnp.einsum(
            "bshc,bthc->bhst", query, key, precision=precision, preferred_element_type=jnp.float32
        )
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, size)
    scores = jnp.einsum(
        "bskgc,btkc->bkgst", grouped, key, precision=precision, preferred_element_type=jnp.float32
    )
    return scores.reshape(batch, heads, length, key.shape[1])


def _mix_values(probabilities: Array, value: Array, precision: str) -> Float[Array, "B S H C"]:
    batch, heads, queries, keys = probabilities.shape
    kv_heads = value.shape[2]
    if heads == kv_heads:
        return jnp.einsum("bhst,bthc->bshc", probabilities, value, precision=precision)
    grouped = probabilities.reshape(batch, kv_heads, heads // kv_heads, queries, keys)
    mixed = jnp.einsum("bkgst,btkc->bskgc", grouped, value, precision=precision)
    return mixed.reshape(batch, queries, heads, value.shape[3])


def split_heads(x: Float[Array, "B S D"], size: int) -> Float[Array, "B S H C"]:
    """The last axis as heads of ``size``."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def merge_heads(x: Float[Array, "B S H C"]) -> Float[Array, "B S D"]:
    """The inverse of ``split_heads``."""
    return x.reshape(*x.shape[:-2], -1)


def visible(queries: int, keys: int, spec: AttentionSpec) -> Bool[Array, "#B 1 #S #T"] | None:
    """Which key each query may see; none where all see all."""
    parts: list[Array] = []
    if spec.key_segments is not None:
        key_segments = spec.key_segments[:, None, None, :]
        if spec.query_segments is not None:
            parts.append(spec.query_segments[:, None, :, None] == key_segments)
        parts.append(key_segments != 0)
    distance = spec.offset + jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]
    if spec.causal:
        parts.append((distance >= 0)[None, None])
    if spec.window is not None:
        parts.append((jnp.abs(distance) < spec.window)[None, None])
    if not parts:
        return None
    mask = parts[0]
    for part in parts[1:]:
        mask = mask & part
    return mask
