"""Beam search, token for token that of transformers, and its diverse form (Vijayakumar et al. 2018).

A prompt has G groups of M beams, G = 1 for the plain search; N = G·M. Each group is a search of
its own, in which words that earlier groups took at the same step cost ``diversity_penalty``.

Running beams and finished ones are kept apart. A step looks at the 2·M best continuations (more
with more than one end-of-sequence token), so that M go on even if all beams could end; of those
that end only the M best count.
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
from jaxtyping import Array, Bool, Float, Int

from jaxtune.generation.batches import Batch, bucket, place
from jaxtune.generation.logits import Numbers, Rules, constrain, numbers_of, rules_of
from jaxtune.generation.settings import GenerationSettings
from jaxtune.generation.stepping import mesh_of, read_beams, read_prompts, real_slots, split_rows
from jaxtune.models.cache import Cache

_OUT = -1.0e9
"""Score of what must not be chosen: finite, as in transformers, so that ranks among such stay defined."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What of a beam search shapes its program."""

    groups: int
    beams: int
    """Of one group."""
    early_stopping: bool | str
    favours_long: bool
    """The length penalty is positive: a beam may still win by getting longer."""

    @property
    def looks_ahead(self) -> bool:
        return self.early_stopping == "never" and self.favours_long


class Given(NamedTuple):
    """What stays the same from the first token to the last.

    Attributes:
        norms: length^length_penalty for length 0, 1, 2 …
        diversity: what a word costs that an earlier group took.
    """

    first: Int[Array, "B"]
    numbers: Numbers
    norms: Float[Array, "L"]
    diversity: Float[Array, ""]


@flax.struct.dataclass
class Group:
    """One group of beams of every prompt; in ``State`` with an axis G in second place.

    Attributes:
        running, running_scores: beams that go on (prompt and new tokens), and their log probabilities.
        finished, finished_scores, is_finished: the best that have ended, by penalised score; places
            that are not filled yet have ``is_finished`` false.
        improvable: whether a running beam may still beat the worst finished one; never true again.
        all_ended: no continuation was left (the limit is reached).
    """

    running: Int[Array, "B M T"]
    running_scores: Float[Array, "B M"]
    finished: Int[Array, "B M T"]
    finished_scores: Float[Array, "B M"]
    is_finished: Bool[Array, "B M"]
    improvable: Bool[Array, "B 1"]
    all_ended: Bool[Array, "B"]


@flax.struct.dataclass
class State:
    """What the loop carries. The layers of the cache are [B, N, T, K, C]."""

    cache: Cache
    groups: Group
    step: Int[Array, ""]


class Programs(NamedTuple):
    """The two compiled functions of a model, its rules, a shape and a number of new tokens."""

    prefill: Callable[..., tuple[State, Given]]
    decode: Callable[..., State]


@functools.lru_cache(maxsize=64)
def programs(
    model: Any, rules: Rules, shape: Shape, room: int, start: int | None, mesh: Mesh | None
) -> Programs:
    """The programs; jit keeps one of each per shape of the prompts."""

    def prefill(
        params: Any,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        numbers: Numbers,
        norms: Float[Array, "L"],
        diversity: Float[Array, ""],
    ) -> tuple[State, Given]:
        prompted = read_prompts(model, params, tokens, segment_ids, room, start, mesh)
        count = shape.groups * shape.beams

        def for_each_beam(x: Array) -> Array:
            return jnp.repeat(x[:, None], count, axis=1)

        cache = dataclasses.replace(prompted.cache, layers=jax.tree.map(for_each_beam, prompted.cache.layers))
        history = jnp.pad(prompted.history, ((0, 0), (0, room)), constant_values=rules.pad)
        state = State(split_rows(cache, mesh), _fresh(history, shape), jnp.zeros((), jnp.int32))
        given = Given(prompted.first, numbers, norms, diversity)
        return _advance(for_each_beam(prompted.logits), state, given, rules, shape, room), given

    def decode(params: Any, state: State, given: Given) -> State:
        def one_more(state: State) -> State:
            running = state.groups.running
            at = running.shape[-1] - room + state.step - 1
            latest = jnp.take(running, at, axis=-1).reshape(running.shape[0], -1)
            logits, cache = read_beams(model, params, latest, at - given.first, state.cache)
            state = dataclasses.replace(state, cache=split_rows(cache, mesh))
            return _advance(logits, state, given, rules, shape, room)

        return jax.lax.while_loop(lambda state: _goes_on(state.groups, shape), one_more, state)

    return Programs(jax.jit(prefill), jax.jit(decode, donate_argnames="state"))


def _fresh(history: Int[Array, "B T"], shape: Shape) -> Group:
    """Groups before the first step: one beam each, since all beams are still the same."""
    rows, size = history.shape[0], (history.shape[0], shape.groups, shape.beams)
    same = jnp.broadcast_to(history[:, None, None], (*size, history.shape[1]))
    return Group(
        running=same,
        running_scores=jnp.broadcast_to(jnp.where(jnp.arange(shape.beams) > 0, _OUT, 0.0), size),
        finished=same,
        finished_scores=jnp.full(size, _OUT),
        is_finished=jnp.zeros(size, bool),
        improvable=jnp.ones((rows, shape.groups, 1), bool),
        all_ended=jnp.zeros((rows, shape.groups), bool),
    )


def _goes_on(groups: Group, shape: Shape) -> Bool[Array, ""]:
    """Whether any group of any prompt still has something to find."""
    full = groups.is_finished.all(-1) & (shape.early_stopping is True)
    return (groups.improvable[..., 0] & ~full & ~groups.all_ended).any()


def _advance(
    logits: Float[Array, "B N V"], state: State, given: Given, rules: Rules, shape: Shape, room: int
) -> State:
    """One more token on every beam, and the cache in the order of the beams that go on."""
    rows, vocabulary = logits.shape[0], logits.shape[-1]
    log_probs = jax.nn.log_softmax(logits).reshape(rows, shape.groups, shape.beams, vocabulary)
    length = state.groups.running.shape[-1]
    cursor = length - room + state.step
    real = jnp.repeat(real_slots(given.first, cursor, length), shape.beams, axis=0)
    taken = jnp.zeros((rows, vocabulary))
    groups, parents = [], []
    for g in range(shape.groups):
        group = jax.tree.map(lambda x, g=g: x[:, g], state.groups)
        scores = log_probs[:, g] - given.diversity * taken[:, None]
        flat, history = scores.reshape(-1, vocabulary), group.running.reshape(-1, length)
        flat = constrain(flat, history, real, cursor, state.step, rules, given.numbers)
        group, chosen = _advance_group(
            flat.reshape(scores.shape), group, state.step, cursor, given, rules, shape
        )
        latest = jnp.take(group.running, cursor, axis=-1)
        taken = taken.at[jnp.arange(rows)[:, None], latest].add(1.0)
        groups.append(group)
        parents.append(chosen + g * shape.beams)
    order = jnp.concatenate(parents, axis=1)
    layers = jax.tree.map(lambda x: _pick(x, order), state.cache.layers)
    return State(
        cache=dataclasses.replace(state.cache, layers=layers),
        groups=jax.tree.map(lambda *each: jnp.stack(each, axis=1), *groups),
        step=state.step + 1,
    )


def _advance_group(
    log_probs: Float[Array, "B M V"],
    group: Group,
    step: Int[Array, ""],
    cursor: Int[Array, ""],
    given: Given,
    rules: Rules,
    shape: Shape,
) -> tuple[Group, Int[Array, "B M"]]:
    """The group one token later, and which beam each running one comes from."""
    rows, beams, vocabulary = log_probs.shape
    summed = (log_probs + group.running_scores[:, :, None]).reshape(rows, -1)
    looked_at = min(max(2, 1 + len(rules.eos)) * beams, summed.shape[1])
    scores, index = jax.lax.top_k(summed, looked_at)
    parents, tokens = index // vocabulary, index % vocabulary
    candidates = jax.lax.dynamic_update_slice(
        _pick(group.running, parents), tokens[:, :, None].astype(jnp.int32), (0, 0, cursor)
    )
    ended = jnp.broadcast_to(step + 1 >= given.numbers.limit, tokens.shape)
    if rules.eos:
        ended |= jnp.isin(tokens, jnp.asarray(rules.eos))
    going_on = scores + ended * _OUT
    best = jax.lax.top_k(going_on, beams)[1]
    group = dataclasses.replace(
        group, running=_pick(candidates, best), running_scores=_pick(going_on, best), all_ended=ended.all(-1)
    )
    group = _keep_finished(group, candidates, scores, ended, given.norms[step + 1], shape)
    return _judge(group, step + 1, given, shape), _pick(parents, best)


def _keep_finished(
    group: Group,
    candidates: Int[Array, "B C T"],
    scores: Float[Array, "B C"],
    ended: Bool[Array, "B C"],
    norm: Float[Array, ""],
    shape: Shape,
) -> Group:
    """The best of what had finished and what has finished now."""
    counts = ended & (jnp.arange(ended.shape[1]) < shape.beams)
    full = group.is_finished.all(-1, keepdims=True) & (shape.early_stopping is True)
    scores = scores / norm + full * _OUT
    scores = scores + ~group.improvable * _OUT
    scores = scores + ~counts * _OUT
    merged = jnp.concatenate([group.finished_scores, scores], axis=1)
    best_scores, best = jax.lax.top_k(merged, shape.beams)
    return dataclasses.replace(
        group,
        finished=_pick(jnp.concatenate([group.finished, candidates], axis=1), best),
        finished_scores=best_scores,
        is_finished=_pick(jnp.concatenate([group.is_finished, counts], axis=1), best),
    )


def _judge(group: Group, length: Int[Array, ""], given: Given, shape: Shape) -> Group:
    """Whether the best running beam may still beat the worst finished one."""
    reach = given.numbers.limit if shape.looks_ahead else length
    hoped_for = group.running_scores[:, :1] / given.norms[reach]
    worst = jnp.where(group.is_finished, group.finished_scores.min(-1, keepdims=True), _OUT)
    improvable = group.improvable & (hoped_for > worst).any(-1, keepdims=True)
    return dataclasses.replace(group, improvable=improvable)


def _pick(x: Array, index: Int[Array, "B C"]) -> Array:
    """Entries of the second axis, of every row its own."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)


def beam_batch(
    model: Any, params: Any, batch: Batch, settings: GenerationSettings
) -> tuple[Int[np.ndarray, "B R N"], Float[np.ndarray, "B R"]]:
    """The ``num_return_sequences`` best new texts of every row, the best first, and their scores.

    Padding follows the end-of-sequence token. A score is log probability / length^length_penalty.
    """
    mesh = mesh_of(params)
    room = bucket(settings.max_new_tokens)
    shape = Shape(
        groups=settings.num_beam_groups,
        beams=settings.num_beams // settings.num_beam_groups,
        early_stopping=settings.early_stopping,
        favours_long=settings.length_penalty > 0,
    )
    run = programs(model, rules_of(settings), shape, room, settings.decoder_start_token_id, mesh)
    # In double precision, as Python computes it in transformers; rounded once.
    norms = np.arange(1, room + 1, dtype=np.float64) ** settings.length_penalty
    norms = np.concatenate([[1.0], norms]).astype(np.float32)
    tokens, segments = (place(a, mesh) for a in (batch.tokens, batch.segment_ids))
    state, given = run.prefill(
        params, tokens, segments, numbers_of(settings), norms, np.float32(settings.diversity_penalty)
    )
    groups = run.decode(params, state, given).groups
    rows, count = len(batch.tokens), settings.num_beams
    texts = np.asarray(groups.finished).reshape(rows, count, -1)[:, :, -room:]
    scores = np.asarray(groups.finished_scores).reshape(rows, count)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : settings.num_return_sequences]
    texts = np.take_along_axis(texts, best[:, :, None], axis=1)[:, :, : settings.max_new_tokens]
    return texts, np.take_along_axis(scores, best, axis=1)
