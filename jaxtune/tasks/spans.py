"""Spans of a text: windows over a long one, the tokens of an answer, the loss, and the way back to characters.

As in BERT's run_squad.py (Devlin et al. 2018) and transformers' run_qa.py: a context that is too long is cut into
overlapping windows, each beside the whole question; every window is an example, and the first token of it stands
for "no answer here".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtune.tasks.base import Example, Piece

N_BEST = 20
"""Starts, and ends, that are looked at in a window, and spans that are kept of a question."""


@dataclass(frozen=True)
class Span:
    """Characters ``start`` to ``end`` of a context, and the sum of both logits."""

    start: int
    end: int
    score: float


def cut_windows(
    pairs: Sequence[tuple[str, str]], tokenizer: Any, *, max_length: int, stride: int, max_question: int
) -> list[list[Example] | int]:
    """Each (question, context) as windows of at most ``max_length`` tokens that overlap by ``stride``.

    Where the tokenizer makes no token of one of the texts, its number (0 or 1) stands in place of the windows. A question of more than ``max_question`` tokens loses its end, and its windows are ``truncated``. ``char_starts``
    and ``char_ends`` say where in the context a token stands; they are -1 for the question and special tokens. The
    targets are not set yet.
    """
    if not pairs:
        return []
    questions = _cut_questions([question for question, _ in pairs], tokenizer, max_question)
    encoded = tokenizer(
        [text for text, _ in questions],
        [context for _, context in pairs],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_token_type_ids=True,
        return_attention_mask=False,
        verbose=False,
    )
    windows: list[list[Example]] = [[] for _ in pairs]
    empty: dict[int, int] = {}
    for i, encoding in zip(encoded["overflow_to_sample_mapping"], encoded.encodings):
        offsets = np.asarray(encoding.offsets, np.int32).reshape(-1, 2)
        parts = encoding.sequence_ids
        of_context = np.array([part == 1 for part in parts], bool)
        if not {0, 1} <= set(parts):
            empty[i] = 0 if 0 not in parts else 1
        windows[i].append(
            {
                "tokens": np.asarray(encoding.ids, np.int32),
                "token_types": np.asarray(encoding.type_ids, np.int32),
                "char_starts": np.where(of_context, offsets[:, 0], -1).astype(np.int32),
                "char_ends": np.where(of_context, offsets[:, 1], -1).astype(np.int32),
                "truncated": questions[i][1],
            }
        )
    return [empty.get(i, found) for i, found in enumerate(windows)]


def _cut_questions(texts: Sequence[str], tokenizer: Any, most: int) -> list[tuple[str, bool]]:
    """Beginnings of at most ``most`` tokens, and whether something was cut off."""
    encodings = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False).encodings
    found = []
    for text, encoding in zip(texts, encodings):
        kept, beginning = most, text
        # A beginning may have more tokens than it had inside the text: its last word is another one.
        while len(encoding.ids) > most and kept:
            beginning = text[: encoding.offsets[min(kept, len(encoding.ids)) - 1][1]]
            encoding = tokenizer([beginning], add_special_tokens=False, verbose=False).encodings[0]
            kept -= 1
        found.append((beginning, beginning != text))
    return found


def point_at(windows: Sequence[Example], start: int, end: int) -> list[tuple[int, int] | None]:
    """First and last token of the characters ``start`` to ``end`` in each window; None where they are not all there.

    An answer that begins or ends inside a token gets the whole token. Characters that the tokenizer drops (white
    space, controls) belong to no token, and need none. Raises ValueError where no token is left.
    """
    covering = [
        np.flatnonzero((window["char_ends"] > start) & (window["char_starts"] < end)) for window in windows
    ]
    begins = [w["char_starts"][tokens[0]] for w, tokens in zip(windows, covering) if len(tokens)]
    ends = [w["char_ends"][tokens[-1]] for w, tokens in zip(windows, covering) if len(tokens)]
    if not begins:
        raise ValueError("no token")
    return [
        (int(tokens[0]), int(tokens[-1]))
        if len(tokens)
        and window["char_starts"][tokens[0]] == min(begins)
        and window["char_ends"][tokens[-1]] == max(ends)
        else None
        for window, tokens in zip(windows, covering)
    ]


def span_losses(
    logits: Float[Array, "B S 2"], batch: Mapping[str, Array]
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """Per example the mean of the cross-entropies of start and end, and whether both guesses are right; 0 where none is.

    Each softmax goes over the tokens of its own example, whatever else shares the row. ``batch["targets"]`` [B, N, 2]
    counts from the first token of an example.
    """
    logits = logits.astype(jnp.float32)
    count = batch["starts"].shape[1]
    own: Array = batch["segment_ids"][:, None, :] == jnp.arange(1, count + 1)[None, :, None]
    own = own[..., None]  # [B, N, S, 1]
    scores = jnp.where(own, logits[:, None], jnp.finfo(jnp.float32).min)
    peaks = jax.lax.stop_gradient(scores.max(axis=2))
    sums = jnp.where(own, jnp.exp(scores - peaks[:, :, None]), 0.0).sum(axis=2)
    normalisers = peaks + jnp.log(jnp.where(sums > 0, sums, 1.0))  # [B, N, 2]
    places: Int[Array, "B N 2"] = batch["starts"][..., None] + batch["targets"]
    losses = (normalisers - jnp.take_along_axis(logits, places, axis=1)).mean(axis=-1)
    right = (scores.argmax(axis=2) == places).all(axis=-1)
    there = batch["weights"] > 0
    return jnp.where(there, losses, 0.0), jnp.where(there, right, False).astype(jnp.float32)


def best_spans(pieces: Sequence[Piece], context: str, *, most_tokens: int) -> list[Span]:
    """The best spans of a context over all windows, the best first, each once, of at most ``most_tokens`` tokens.

    Of each window the likeliest starts and ends are combined, and scores are compared across windows, as in
    run_squad.py; unlike there, tokens of the question take no part. Spans of white space alone are left out.
    """
    found: dict[tuple[int, int], float] = {}
    for piece in pieces:
        starts, ends = piece.example["char_starts"], piece.example["char_ends"]
        inside = np.flatnonzero(np.asarray(starts) >= 0)
        for low, high, score in _pairs(np.asarray(piece.outputs["logits"], np.float64)[inside], most_tokens):
            place = _stripped(context, int(starts[inside[low]]), int(ends[inside[high]]))
            if place[0] < place[1]:
                found[place] = max(score, found.get(place, -np.inf))
    spans = [Span(*place, score) for place, score in found.items()]
    return sorted(spans, key=lambda span: (-span.score, span.start, span.end))[:N_BEST]


def _pairs(logits: Float[np.ndarray, "n 2"], most_tokens: int) -> list[tuple[int, int, float]]:
    """(first token, last token, score) of the best spans of one window."""
    if not len(logits):
        return []
    low, high = np.argsort(-logits, axis=0, kind="stable")[:N_BEST].T
    scores = logits[low, 0][:, None] + logits[high, 1]
    distance = high - low[:, None]
    scores = np.where((distance >= 0) & (distance < most_tokens), scores, -np.inf)
    if not np.isfinite(scores).any():  # every likely end lies before every likely start, or too far behind
        low = high = np.array([np.argmax(logits.sum(axis=1))])
        scores = logits.sum(axis=1)[low][:, None]
    order = np.argsort(-scores, axis=None, kind="stable")[:N_BEST]
    chosen = [divmod(int(place), len(high)) for place in order]
    return [(int(low[i]), int(high[j]), float(scores[i, j])) for i, j in chosen if np.isfinite(scores[i, j])]


def _stripped(context: str, start: int, end: int) -> tuple[int, int]:
    """The same place without the white space around it, which some tokenizers count to a word."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
