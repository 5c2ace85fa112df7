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
from jaxtyping import Array, Bool, Float, Int

from jaxtune.models.layers import DropoutKey, dropout

# Finite, so that a padding query, which sees nothing, gets a uniform row and not a NaN.
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """What one attention call may see, and how its scores are treated.

    Attributes:
        query_segments, key_segments: [B, S] and [B, T]; a query sees the keys of its own segment;
            0 is padding, which nobody sees.
        causal: a query sees keys at its own index or before.
        window: a query sees keys whose index is less than this far away.
        bias: [H or 1, S, T] or [B, H or 1, S, T], added to the scaled scores.
        soft_cap: scores become ``cap * tanh(scores / cap)`` (Gemma 2).
        scale: factor of the scores; none is 1/sqrt(head dimension).
        dropout_rate, dropout_key, dropout_site: dropout on the probabilities.
    """

    query_segments: Int[Array, "B S"] | None = None
    key_segments: Int[Array, "B T"] | None = None
    causal: bool = False
    window: int | None = None
    bias: Float[Array, ...] | None = None
    soft_cap: float | None = None
    scale: float | None = None
    dropout_rate: float = 0.0
    dropout_key: DropoutKey | None = None
    dropout_site: Any = 0


Attention = Callable[
    [Float[Array, "B S H K"], Float[Array, "B T H K"], Float[Array, "B T H K"], AttentionSpec],
    Float[Array, "B S H K"],
]


def plain_attention(
    query: Float[Array, "B S H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    spec: AttentionSpec,
    precision: str = "default",
) -> Float[Array, "B S H K"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) in plain XLA, softmax in float32."""
    scale = query.shape[-1] ** -0.5 if spec.scale is None else spec.scale
    scores = jnp.einsum(
        "bshk,bthk->bhst", query * scale, key, precision=precision, preferred_element_type=jnp.float32
    )
    if spec.soft_cap is not None:
        scores = spec.soft_cap * jnp.tanh(scores / spec.soft_cap)
    if spec.bias is not None:
        scores = scores + spec.bias
    mask = visible(query.shape[1], key.shape[1], spec)
    if mask is not None:
        scores = jnp.where(mask, scores, _MASKED)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    probabilities = dropout(probabilities, spec.dropout_rate, spec.dropout_key, spec.dropout_site)
    return jnp.einsum("bhst,bthk->bshk", probabilities, value, precision=precision)


def visible(queries: int, keys: int, spec: AttentionSpec) -> Bool[Array, "#B 1 #S #T"] | None:
    """Which key each query may see; none where all see all."""
    parts: list[Array] = []
    if spec.key_segments is not None:
        key_segments = spec.key_segments[:, None, None, :]
        if spec.query_segments is not None:
            parts.append(spec.query_segments[:, None, :, None] == key_segments)
        parts.append(key_segments != 0)
    distance = jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]
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
