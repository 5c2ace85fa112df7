"""Where things lie in the rows of a batch: positions, and the first and last tokens of examples."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def row_positions(tokens: Int[Array, "B S"], positions: Int[Array, "B S"] | None) -> Int[Array, "B S"]:
    """The given positions, or those counted along the row."""
    if positions is not None:
        return positions
    return jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)


def take(hidden: Float[Array, "B S D"], at: Int[Array, "B N"]) -> Float[Array, "B N D"]:
    """The vectors at the given indices of each row."""
    return jnp.take_along_axis(hidden, at[:, :, None], axis=1)


def first_tokens(hidden: Float[Array, "B S D"], starts: Int[Array, "B N"] | None) -> Float[Array, "B N D"]:
    """The vector of each example's first token; without starts each row is one example."""
    return hidden[:, :1] if starts is None else take(hidden, starts)


def last_tokens(
    hidden: Float[Array, "B S D"], segment_ids: Int[Array, "B S"], starts: Int[Array, "B N"] | None
) -> Float[Array, "B N D"]:
    """The vector of each example's last token, which is the one that has seen all of a causal text."""
    own = own_tokens(segment_ids, starts)
    last = jnp.where(own, jnp.arange(segment_ids.shape[1]), 0).max(axis=-1)
    return take(hidden, last)


def mean_tokens(
    hidden: Float[Array, "B S D"], segment_ids: Int[Array, "B S"], starts: Int[Array, "B N"] | None
) -> Float[Array, "B N D"]:
    """The mean of each example's vectors, summed in float32."""
    own = own_tokens(segment_ids, starts).astype(jnp.float32)
    total = jnp.einsum("bns,bsd->bnd", own, hidden.astype(jnp.float32), precision="highest")
    return (total / own.sum(axis=-1, keepdims=True)).astype(hidden.dtype)


def own_tokens(segment_ids: Int[Array, "B S"], starts: Int[Array, "B N"] | None) -> Bool[Array, "B N S"]:
    """Which tokens of its row belong to each example; without starts each row is one example."""
    if starts is None:
        segments = segment_ids.max(axis=1, keepdims=True)
    else:
        segments = jnp.take_along_axis(segment_ids, starts, axis=1)
    return segment_ids[:, None, :] == segments[:, :, None]


def most_tokens(
    hidden: Float[Array, "B S D"], segment_ids: Int[Array, "B S"], starts: Int[Array, "B N"] | None
) -> Float[Array, "B N D"]:
    """The largest value of each feature over each example's tokens (max-over-time pooling)."""
    own = own_tokens(segment_ids, starts)
    lowest = jnp.finfo(hidden.dtype).min
    return jnp.where(own[..., None], hidden[:, None], lowest).max(axis=2)
