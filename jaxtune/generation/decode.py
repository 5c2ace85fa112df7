"""Greedy decoding and sampling: one compiled prefill, one compiled loop, however the loop is cut.

The loop runs until a step that is an argument: once to the end, or a few tokens at a time where
somebody reads along. Both run the same program, so both give the same tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxtune.generation.batches import Batch, bucket, place
from jaxtune.generation.logits import Numbers, Rules, constrain, numbers_of, rules_of, warp
from jaxtune.generation.settings import GenerationSettings
from jaxtune.generation.stepping import mesh_of, read_prompts, read_tokens, real_slots, split_rows
from jaxtune.models.cache import Cache

Watch = Callable[[Int[np.ndarray, "B N"], Bool[np.ndarray, "B"]], Bool[np.ndarray, "B"]]
"""(tokens so far, which rows have ended) → which rows shall end."""


class Given(NamedTuple):
    """What stays the same from the first token to the last."""

    first: Int[Array, "B"]
    keys: Any
    numbers: Numbers


@flax.struct.dataclass
class State:
    """What the loop carries; its buffers are reused from call to call.

    Attributes:
        history: the prompts, then what was generated.
        done: rows that have ended; they get padding.
        step: tokens generated.
    """

    cache: Cache
    history: Int[Array, "B T"]
    done: Bool[Array, "B"]
    step: Int[Array, ""]


class Programs(NamedTuple):
    """The two compiled functions of a model, a set of rules and a number of new tokens."""

    prefill: Callable[..., tuple[State, Given]]
    decode: Callable[..., State]


@functools.lru_cache(maxsize=64)
def programs(model: Any, rules: Rules, room: int, start: int | None, mesh: Mesh | None) -> Programs:
    """The programs; jit keeps one of each per shape of the prompts."""

    def prefill(
        params: Any,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        draws: UInt32[Array, "B 2"],
        seed: UInt32[Array, ""],
        numbers: Numbers,
    ) -> tuple[State, Given]:
        prompted = read_prompts(model, params, tokens, segment_ids, room, start, mesh)
        given = Given(prompted.first, _keys(seed, draws), numbers)
        history = jnp.pad(prompted.history, ((0, 0), (0, room)), constant_values=rules.pad)
        done = jnp.zeros(tokens.shape[0], bool)
        state = State(prompted.cache, history, done, jnp.zeros((), jnp.int32))
        return _append(prompted.logits, state, given, rules, room), given

    def decode(
        params: Any, state: State, given: Given, until: Int[Array, ""], stopped: Bool[Array, "B"]
    ) -> State:
        def unfinished(state: State) -> Bool[Array, ""]:
            return (state.step < until) & ~state.done.all()

        def one_more(state: State) -> State:
            at = state.history.shape[1] - room + state.step - 1
            latest = jnp.take(state.history, at, axis=1)
            logits, cache = read_tokens(model, params, latest, at - given.first, state.cache)
            state = dataclasses.replace(state, cache=split_rows(cache, mesh))
            return _append(logits, state, given, rules, room)

        state = dataclasses.replace(state, done=state.done | stopped)
        return jax.lax.while_loop(unfinished, one_more, state)

    return Programs(jax.jit(prefill), jax.jit(decode, donate_argnames="state"))


def _append(logits: Float[Array, "B V"], state: State, given: Given, rules: Rules, room: int) -> State:
    """The state with the next token of every row."""
    cursor = state.history.shape[1] - room + state.step
    real = real_slots(given.first, cursor, state.history.shape[1])
    scores = constrain(logits, state.history, real, cursor, state.step, rules, given.numbers)
    if rules.sample:
        keys = jax.vmap(jax.random.fold_in, (0, None))(given.keys, state.step)
        tokens = jax.vmap(jax.random.categorical)(keys, warp(scores, rules, given.numbers))
    else:
        tokens = scores.argmax(-1)
    tokens = jnp.where(state.done, rules.pad, tokens.astype(jnp.int32))
    ended = jnp.isin(tokens, jnp.asarray(rules.eos, jnp.int32)) if rules.eos else False
    history = jax.lax.dynamic_update_slice(state.history, tokens[:, None], (0, cursor))
    return dataclasses.replace(state, history=history, done=state.done | ended, step=state.step + 1)


def _keys(seed: UInt32[Array, ""], draws: UInt32[Array, "B 2"]) -> Any:
    """A key per row, of the seed and the row's own two words alone."""
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(lambda d: jax.random.fold_in(jax.random.fold_in(key, d[0]), d[1]))(draws)


def decode_batch(
    model: Any,
    params: Any,
    batch: Batch,
    settings: GenerationSettings,
    watch: Watch | None = None,
    every: int = 1,
) -> Int[np.ndarray, "B N"]:
    """New tokens of every row of a batch; a row ends with its end-of-sequence token, padding follows.

    Args:
        watch: called with what there is after every ``every`` tokens.
    """
    mesh = mesh_of(params)
    room = bucket(settings.max_new_tokens)
    run = programs(model, rules_of(settings), room, settings.decoder_start_token_id, mesh)
    tokens, segments, draws = (place(a, mesh) for a in (batch.tokens, batch.segment_ids, batch.draws))
    state, given = run.prefill(
        params, tokens, segments, draws, np.uint32(settings.seed), numbers_of(settings)
    )
    stopped = np.zeros(len(batch.tokens), bool)
    until = 1 if watch is not None else settings.max_new_tokens
    while True:
        if watch is not None:
            step, done = jax.device_get((state.step, state.done))
            stopped = stopped | watch(_new_tokens(state, room, int(step)), done)
            if step >= settings.max_new_tokens or (done | stopped).all():
                break
            until = min(int(step) + every, settings.max_new_tokens)
        state = run.decode(params, state, given, np.int32(until), place(stopped, mesh))
        if watch is None:
            break
    return _new_tokens(state, room, int(state.step))


def _new_tokens(state: State, room: int, step: int) -> Int[np.ndarray, "B N"]:
    history = np.asarray(state.history)
    at = history.shape[1] - room
    return history[:, at : at + step]
