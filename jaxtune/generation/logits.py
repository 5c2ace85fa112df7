"""What changes the scores of the next token, as pure functions of arrays.

Order and meaning are those of transformers' logits processors. Where padding and history meet, only
real tokens count: those of the prompt (of a decoder), the decoder's start, and what was generated.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxtune.generation.settings import GenerationSettings

_NEVER = -jnp.inf


@dataclasses.dataclass(frozen=True)
class Rules:
    """What of the settings shapes a compiled program; two settings with equal rules share one."""

    sample: bool = False
    temperature: bool = False
    top_k: int = 0
    top_p: bool = False
    min_p: bool = False
    repetition: bool = False
    ngram: int = 0
    min_new: bool = False
    suppress: tuple[int, ...] = ()
    forced_first: int | None = None
    forced_last: int | None = None
    eos: tuple[int, ...] = ()
    pad: int = 0


class Numbers(NamedTuple):
    """What of the settings a compiled program takes as arguments."""

    temperature: Float[Array, ""] | float
    top_p: Float[Array, ""] | float
    min_p: Float[Array, ""] | float
    repetition: Float[Array, ""] | float
    min_new: Int[Array, ""] | int
    limit: Int[Array, ""] | int
    """New tokens at most."""


def rules_of(s: GenerationSettings) -> Rules:
    """The static part of the settings."""
    return Rules(
        sample=s.sample,
        temperature=s.sample and s.temperature not in (None, 1),
        top_k=(s.top_k or 0) if s.sample else 0,
        top_p=s.sample and s.top_p is not None and s.top_p < 1,
        min_p=s.sample and bool(s.min_p),
        repetition=s.repetition_penalty != 1,
        ngram=s.no_repeat_ngram_size,
        min_new=s.min_new_tokens > 0 and bool(s.eos_token_ids),
        suppress=s.suppress_token_ids,
        forced_first=s.forced_bos_token_id,
        forced_last=s.forced_eos_token_id,
        eos=s.eos_token_ids,
        pad=s.pad_token_id,
    )


def numbers_of(s: GenerationSettings) -> Numbers:
    """The other part."""
    return Numbers(
        temperature=float(s.temperature or 1.0),
        top_p=float(1.0 if s.top_p is None else s.top_p),
        min_p=float(s.min_p or 0.0),
        repetition=float(s.repetition_penalty),
        min_new=s.min_new_tokens,
        limit=s.max_new_tokens,
    )


def constrain(
    scores: Float[Array, "B V"],
    history: Int[Array, "B T"],
    real: Bool[Array, "B T"],
    cursor: Int[Array, ""] | int,
    step: Int[Array, ""] | int,
    rules: Rules,
    numbers: Numbers,
) -> Float[Array, "B V"]:
    """All that holds for every search: penalties, bans and forced tokens.

    Args:
        history: tokens so far in slots before ``cursor``; later slots hold anything.
        real: slots before ``cursor`` that are not padding.
        step: tokens generated so far.
    """
    if rules.repetition:
        scores = penalise_repetition(scores, history, real, numbers.repetition)
    if rules.ngram:
        scores = ban_repeated_ngrams(scores, history, real, cursor, rules.ngram)
    if rules.suppress:
        scores = ban(scores, rules.suppress)
    if rules.min_new:
        scores = jnp.where(step < numbers.min_new, ban(scores, rules.eos), scores)
    if rules.forced_first is not None:
        scores = jnp.where(step == 0, only(scores, rules.forced_first), scores)
    if rules.forced_last is not None:
        scores = jnp.where(step == numbers.limit - 1, only(scores, rules.forced_last), scores)
    return scores


def warp(scores: Float[Array, "B V"], rules: Rules, numbers: Numbers) -> Float[Array, "B V"]:
    """The logits of the distribution to draw from."""
    if rules.temperature:
        scores = scores / numbers.temperature
    if rules.top_k:
        scores = keep_top_k(scores, rules.top_k)
    if rules.top_p:
        scores = keep_top_p(scores, numbers.top_p)
    if rules.min_p:
        scores = keep_min_p(scores, numbers.min_p)
    return scores


def penalise_repetition(
    scores: Float[Array, "B V"],
    history: Int[Array, "B T"],
    real: Bool[Array, "B T"],
    penalty: Float[Array, ""] | float,
) -> Float[Array, "B V"]:
    """Scores of tokens seen before are divided by the penalty, negative ones multiplied (Keskar et al. 2019)."""
    seen = _marked(scores, history, real)
    return jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def ban_repeated_ngrams(
    scores: Float[Array, "B V"],
    history: Int[Array, "B T"],
    real: Bool[Array, "B T"],
    cursor: Int[Array, ""] | int,
    size: int,
) -> Float[Array, "B V"]:
    """No token that would complete a sequence of ``size`` tokens seen before."""
    windows = history.shape[1] - size + 1
    if windows < 1:
        return scores
    begins = jnp.arange(windows)
    # Both the window and the last tokens must be real from their first slot on; padding lies left.
    matches = real[:, :windows] & (begins + size <= cursor)
    for i in range(size - 1):
        at = cursor - (size - 1) + i
        latest = jnp.take(history, at, axis=1, mode="clip")
        known = jnp.take(real, at, axis=1, mode="clip") & (at >= 0)
        matches &= (history[:, i : i + windows] == latest[:, None]) & known[:, None]
    return jnp.where(_marked(scores, history[:, size - 1 :], matches), _NEVER, scores)


def ban(scores: Float[Array, "B V"], tokens: tuple[int, ...]) -> Float[Array, "B V"]:
    """These tokens never."""
    return jnp.asarray(scores).at[:, jnp.asarray(tokens)].set(_NEVER)


def only(scores: Float[Array, "B V"], token: int) -> Float[Array, "B V"]:
    """This token and no other."""
    return jnp.full_like(scores, _NEVER).at[:, token].set(0.0)


def keep_top_k(scores: Float[Array, "B V"], k: int) -> Float[Array, "B V"]:
    """The k most likely tokens, and those as likely as the last of them."""
    least = jax.lax.top_k(scores, min(k, scores.shape[-1]))[0][:, -1:]
    return jnp.where(scores < least, _NEVER, scores)


def keep_top_p(scores: Float[Array, "B V"], p: Float[Array, ""] | float) -> Float[Array, "B V"]:
    """The smallest set of tokens whose probabilities sum to p or more (Holtzman et al. 2020)."""
    order = jnp.argsort(-scores, axis=-1, stable=True)
    probabilities = jax.nn.softmax(jnp.take_along_axis(scores, order, -1), axis=-1)
    # What lies before a token, not up to it: the likeliest is always kept.
    before = jnp.pad(jnp.cumsum(probabilities, axis=-1)[:, :-1], ((0, 0), (1, 0)))
    keep = before < p
    places = jnp.argsort(order, axis=-1)
    return jnp.where(jnp.take_along_axis(keep, places, -1), scores, _NEVER)


def keep_min_p(scores: Float[Array, "B V"], p: Float[Array, ""] | float) -> Float[Array, "B V"]:
    """Tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = jax.nn.softmax(scores, axis=-1)
    return jnp.where(probabilities < p * probabilities.max(-1, keepdims=True), _NEVER, scores)


def _marked(scores: Array, tokens: Int[Array, "B T"], which: Bool[Array, "B T"]) -> Bool[Array, "B V"]:
    """The vocabulary entries that are among the tokens marked in ``which``."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    return jnp.zeros(scores.shape, bool).at[rows, tokens].max(which, mode="drop")
