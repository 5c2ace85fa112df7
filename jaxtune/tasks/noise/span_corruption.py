"""Span corruption, the pretraining objective of T5: spans of a text are cut out and have to be told.

    text      Thank you for inviting me to your party last week
    input     Thank you <0> me to your party <1>
    target    <0> for inviting <1> last week

after Raffel et al. 2020, section 3.1.4. As in T5's published preprocessing, kept and cut-out spans take turns, a
kept one first, so that a text ends with a cut-out span, and the target with what stood there. All randomness comes from
the generator that is passed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxtune.tasks.language import teacher_forced
from jaxtune.tasks.noise.drawing import shuffled


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """How much is cut out, and what stands in its place.

    Attributes:
        sentinels: ids of ``<extra_id_0>``, ``<extra_id_1>``, …: one per span, at most.
        density: share of the tokens that is cut out.
        mean_length: of the spans, in tokens.
        eos_token_id: ends input and target; none adds nothing.
    """

    sentinels: tuple[int, ...]
    density: float = 0.15
    mean_length: float = 3.0
    eos_token_id: int | None = 1

    def __post_init__(self) -> None:
        if not self.sentinels:
            raise ValueError("there are no sentinels to stand in the place of spans")
        if not 0.0 < self.density < 1.0:
            raise ValueError(f"density={self.density} must lie between 0 and 1")
        if self.mean_length < 1.0:
            raise ValueError(f"mean_length={self.mean_length} must be at least 1")

    def __call__(
        self, tokens: Int[np.ndarray, "n"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "i"], Int[np.ndarray, "t"]]:
        """Input and target of one text, which has no special tokens yet.

        Raises:
            ValueError: a text of fewer than two tokens, of which nothing could be left.
        """
        noise = noise_mask(len(tokens), self.density, self.mean_length, rng, len(self.sentinels))
        return self._ended(self._with_sentinels(tokens, noise)), self._ended(
            self._with_sentinels(tokens, ~noise)
        )

    def lengths(self, length: int) -> tuple[int, int]:
        """Tokens of input and target of a text of ``length`` tokens; chance has no part in them."""
        noisy, spans = noise_counts(length, self.density, self.mean_length, len(self.sentinels))
        end = self.eos_token_id is not None
        return length - noisy + spans + end, noisy + spans + end

    def _with_sentinels(self, tokens: np.ndarray, removed: Bool[np.ndarray, "n"]) -> np.ndarray:
        """The tokens with a sentinel in place of each removed span."""
        first = _starts(removed)
        replaced = np.where(first, np.asarray(self.sentinels)[np.cumsum(first) - 1], tokens)
        return replaced[~removed | first].astype(np.int32)

    def _ended(self, tokens: np.ndarray) -> np.ndarray:
        ends = [] if self.eos_token_id is None else [self.eos_token_id]
        return np.append(tokens, ends).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class SpanNoise:
    """Examples of span corruption, for a decoder that begins with ``start``; see ``data.loader.Dynamic``.

    Attributes:
        around: special tokens of an example before and behind its text, which make room for others.
    """

    corrupt: SpanCorruption
    start: int
    around: tuple[int, int]

    def lengths(self, examples: Any) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each input and each target."""
        found = {int(n): self.corrupt.lengths(int(n) - sum(self.around)) for n in np.unique(examples.lengths)}
        pairs = np.array([found[int(n)] for n in examples.lengths], np.int32).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def __call__(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The input with sentinels; the decoder tells what they stand for."""
        tokens = arrays["tokens"]
        source, target = self.corrupt(tokens[self.around[0] : len(tokens) - self.around[1]], rng)
        return with_target(source, target, self.start)

    def most_labels(self, length: int, slots: int) -> None:
        """None: every token of the target is told."""


def with_target(source: np.ndarray, target: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """A damaged text and what the decoder has to tell of it."""
    return {
        "tokens": source.astype(np.int32),
        "token_types": np.zeros(len(source), np.int32),
        **teacher_forced(target, start),
    }


def noise_counts(length: int, density: float, mean_length: float, most_spans: int) -> tuple[int, int]:
    """How many tokens are cut out, and in how many spans.

    Raises:
        ValueError: ``length`` below 2.
    """
    if length < 2:
        raise ValueError(f"a text of {length} tokens is too short: one is cut out and one must be left")
    noisy = min(max(round(length * density), 1), length - 1)
    return noisy, min(max(round(noisy / mean_length), 1), noisy, length - noisy, most_spans)


def noise_mask(
    length: int, density: float, mean_length: float, rng: np.random.Generator, most_spans: int = 100
) -> Bool[np.ndarray, "n"]:
    """Which tokens are cut out: spans of random lengths, kept and cut out in turn, a kept one first.

    Raises:
        ValueError: ``length`` below 2.
    """
    noisy, spans = noise_counts(length, density, mean_length, most_spans)
    cut, kept = _partition(noisy, spans, rng), _partition(length - noisy, spans, rng)
    lengths = np.stack([kept, cut], axis=1).ravel()
    return np.repeat(np.tile([False, True], spans), lengths)


def _partition(total: int, parts: int, rng: np.random.Generator) -> Int[np.ndarray, "p"]:
    """Lengths of ``parts`` pieces, none empty, that add up to ``total``; every way to cut is as likely."""
    cuts = np.sort(shuffled(total - 1, rng)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def _starts(mask: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """True at the first token of each run of True."""
    return mask & ~np.concatenate([[False], mask[:-1]])
