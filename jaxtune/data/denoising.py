"""Span corruption, the pretraining objective of T5: spans of a text are cut out and have to be told.

    text      Thank you for inviting me to your party last week .
    input     Thank you <0> me to your party <1> week .
    target    <0> for inviting <1> last <2>

after Raffel et al. 2020, section 3.1.4. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Int


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """How much is cut out, and what stands in its place.

    Attributes:
        first_sentinel: id of ``<extra_id_0>``; that of the n-th span is ``first_sentinel - n``.
        density: share of the tokens that is cut out.
        mean_length: of the spans, in tokens.
        eos_token_id: ends input and target; none adds nothing.
        sentinels: how many there are.
    """

    first_sentinel: int
    density: float = 0.15
    mean_length: float = 3.0
    eos_token_id: int | None = 1
    sentinels: int = 100

    def __post_init__(self) -> None:
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
        noise = noise_mask(len(tokens), self.density, self.mean_length, rng, most_spans=self.sentinels - 1)
        spans = int(_starts(noise).sum())
        source = self._with_sentinels(tokens, noise)
        # The target ends with one more sentinel, so that a model learns when it has told all.
        target = np.append(self._with_sentinels(tokens, ~noise), self.first_sentinel - spans)
        return self._ended(source), self._ended(target)

    def _with_sentinels(self, tokens: np.ndarray, removed: Bool[np.ndarray, "n"]) -> np.ndarray:
        """The tokens with a sentinel in place of each removed span."""
        first = _starts(removed)
        replaced = np.where(first, self.first_sentinel - (np.cumsum(first) - 1), tokens)
        return replaced[~removed | first].astype(np.int32)

    def _ended(self, tokens: np.ndarray) -> np.ndarray:
        ends = [] if self.eos_token_id is None else [self.eos_token_id]
        return np.append(tokens, ends).astype(np.int32)


def noise_mask(
    length: int, density: float, mean_length: float, rng: np.random.Generator, most_spans: int = 99
) -> Bool[np.ndarray, "n"]:
    """Which tokens are cut out: spans of random lengths, kept and cut out in turn, a kept one first.

    Raises:
        ValueError: ``length`` below 2.
    """
    if length < 2:
        raise ValueError(f"a text of {length} tokens is too short: one is cut out and one must be left")
    noisy = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(noisy / mean_length), 1), noisy, length - noisy, most_spans)
    cut, kept = _partition(noisy, spans, rng), _partition(length - noisy, spans, rng)
    lengths = np.stack([kept, cut], axis=1).ravel()
    return np.repeat(np.tile([False, True], spans), lengths)


def _partition(total: int, parts: int, rng: np.random.Generator) -> Int[np.ndarray, "p"]:
    """Lengths of ``parts`` pieces, none empty, that add up to ``total``; every way to cut is as likely."""
    cuts = np.sort(rng.choice(np.arange(1, total), size=parts - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [total]]))


def _starts(mask: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """True at the first token of each run of True."""
    return mask & ~np.concatenate([[False], mask[:-1]])
