"""A model as generation sees it: read the prompts, then one token after the other, whatever its kind."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxtune.models.cache import Cache

ROW_AXIS = "data"
"""Mesh axis that the rows of a batch are split over."""


class Prompted(NamedTuple):
    """What reading the prompts gives.

    Attributes:
        logits: of the first new token.
        history: tokens the decoder has read: the prompts with padding on the left, or its start token.
        first: slot of each row's first real token in the history.
    """

    logits: Float[Array, "B V"]
    cache: Cache
    history: Int[Array, "B P"]
    first: Int[Array, "B"]


def is_seq2seq(model: Any) -> bool:
    """Whether prompts go to an encoder."""
    return hasattr(model, "start")


def read_prompts(
    model: Any,
    params: Any,
    tokens: Int[Array, "B S"],
    segment_ids: Int[Array, "B S"],
    room: int,
    start: int | None,
    mesh: Mesh | None,
) -> Prompted:
    """Prefill: a cache with ``room`` slots for new tokens, and the logits of the first of them.

    Args:
        tokens: prompts, padded on the left for a decoder, on the right for an encoder.
        start: the decoder's first token, for an encoder-decoder.
    """
    rows = tokens.shape[0]
    variables = {"params": params}
    if is_seq2seq(model):
        cache = model.apply(variables, tokens, segment_ids, 1 + room, method="start")
        assert start is not None  # check_model saw to it
        history = jnp.full((rows, 1), start, jnp.int32)
        given: tuple[Any, ...] = (history, jnp.ones_like(history))
        first = jnp.zeros(rows, jnp.int32)
    else:
        cache = model.family.empty_cache(
            model.config, rows, tokens.shape[1] + room, model.policy.compute_dtype
        )
        positions = jnp.maximum(jnp.cumsum(segment_ids, axis=1) - 1, 0)
        history, given = tokens, (tokens, segment_ids, positions)
        first = tokens.shape[1] - segment_ids.sum(axis=1)
    cache = split_rows(cache, mesh)
    logits, cache = model.apply(variables, *given, cache, last=True, method="extend")
    return Prompted(_words(model, logits), split_rows(cache, mesh), history, first)


def read_tokens(
    model: Any, params: Any, tokens: Int[Array, "B"], positions: Int[Array, "B"], cache: Cache
) -> tuple[Float[Array, "B V"], Cache]:
    """One more token of every row: logits of the one after it."""
    given = _one_each(model, tokens, positions)
    logits, cache = model.apply({"params": params}, *given, cache, method="extend")
    return _words(model, logits), cache


def read_beams(
    model: Any, params: Any, tokens: Int[Array, "B N"], positions: Int[Array, "B"], cache: Cache
) -> tuple[Float[Array, "B N V"], Cache]:
    """One more token of every beam.

    The layers of the cache are [B, N, T, K, C]. What the beams of a prompt share (which slots are
    filled, and the cross-attention's keys and values) is there once per prompt.
    """

    def extend(beam_tokens: Array, layers: Any) -> tuple[Array, Any, Cache]:
        given = _one_each(model, beam_tokens, positions)
        own = dataclasses.replace(cache, layers=layers)
        logits, extended = model.apply({"params": params}, *given, own, method="extend")
        return _words(model, logits), extended.layers, dataclasses.replace(extended, layers=())

    logits, layers, shared = jax.vmap(extend, in_axes=(1, 1), out_axes=(1, 1, None))(tokens, cache.layers)
    return logits, dataclasses.replace(shared, layers=layers)


def _one_each(model: Any, tokens: Int[Array, "B"], positions: Int[Array, "B"]) -> tuple[Any, ...]:
    column = tokens[:, None]
    if is_seq2seq(model):  # decoders of these count their positions by the cache
        return column, jnp.ones_like(column)
    return column, jnp.ones_like(column), positions[:, None]


def _words(model: Any, logits: Float[Array, "B 1 P"]) -> Float[Array, "B P"]:
    """Float32 logits of the last token; the padded end of the vocabulary is impossible."""
    last = logits[:, -1].astype(jnp.float32)
    return jnp.where(jnp.arange(last.shape[-1]) < model.config.vocab_size, last, -jnp.inf)


def real_slots(first: Int[Array, "B"], cursor: Int[Array, ""] | int, length: int) -> Bool[Array, "B T"]:
    """The slots of a history that hold a token."""
    slots = jnp.arange(length)
    return (slots >= first[:, None]) & (slots < cursor)


def split_rows(cache: Cache, mesh: Mesh | None) -> Cache:
    """Rows of a cache over the mesh's ``data`` axis; its other axes follow the model's own sharding."""
    if mesh is None:
        return cache

    def constrain(leaf: Array) -> Array:
        if not leaf.ndim:
            return leaf
        spec = P(ROW_AXIS, *[P.UNCONSTRAINED] * (leaf.ndim - 1))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(constrain, cache)


def mesh_of(params: Any) -> Mesh | None:
    """The mesh the parameters lie on, if it splits rows."""
    for leaf in jax.tree.leaves(params)[:1]:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and ROW_AXIS in sharding.mesh.axis_names:
            return sharding.mesh if isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1 else None
    return None
