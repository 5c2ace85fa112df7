"""Text infilling, the pretraining objective of BART: spans of words become one mask each, the text has to be told whole.

After Lewis et al. 2020, section 3: 30 % of the words are masked, in spans whose lengths follow Poisson(3), zero among
them (a mask where nothing was); sentences may be shuffled beside that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxtune.tasks.noise.drawing import shuffled
from jaxtune.tasks.noise.span_corruption import with_target
from jaxtune.tasks.reading.text_pieces import word_starts


@dataclasses.dataclass(frozen=True)
class Infilling:
    """How a text is damaged for a decoder that begins with ``start``; see ``data.loader.Dynamic``.

    Attributes:
        around: special tokens of an example before and behind its text.
        permute: also shuffle the sentences.
        share: of the words that are masked.
        mean_length: of the spans, in words.
    """

    mask_id: int
    start: int
    around: tuple[int, int]
    permute: bool = False
    share: float = 0.3
    mean_length: float = 3.0

    def __post_init__(self) -> None:
        # With more masked than kept, there would not be a kept word between any two masks.
        if not 0.0 < self.share <= 0.5:
            raise ValueError(f"share={self.share} must lie above 0 and not above 0.5")

    def lengths(self, examples: Any) -> tuple[np.ndarray, np.ndarray]:
        """Most tokens of each input, and those of each target: a text never grows by being damaged."""
        return examples.lengths, examples.lengths

    def __call__(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The damaged text; the decoder tells the text as it was, special tokens and all."""
        tokens, words = arrays["tokens"], arrays["words"]
        first, last = self.around[0], len(tokens) - self.around[1]
        body, words = tokens[first:last], words[first:last]
        if self.permute:
            order = _shuffled_sentences(arrays["sentences"][first:last], rng)
            body, words = body[order], words[order]
        source = np.concatenate([tokens[:first], self.fill(body, words, rng), tokens[last:]])
        return with_target(source, tokens, self.start)

    def most_labels(self, length: int, slots: int) -> None:
        """None: every token of the target is told."""

    def fill(
        self, tokens: Int[np.ndarray, "n"], words: Int[np.ndarray, "n"], rng: np.random.Generator
    ) -> Int[np.ndarray, "m"]:
        """The tokens with a mask in place of each span of words; at least one word is kept between two masks."""
        edges = np.append(np.flatnonzero(word_starts(words)), len(tokens))
        count = len(edges) - 1
        spans = self._spans(max(1, round(self.share * count)), rng)
        kept = count - int(spans.sum())
        # Each mask stands before one of the kept words, or behind the last, no two in the same place.
        before = np.sort(shuffled(kept + 1, rng)[: len(spans)])
        starts = before + np.concatenate([[0], np.cumsum(spans)[:-1]])
        parts, at = [], 0
        for start, length in zip(starts, spans):
            parts += [tokens[edges[at] : edges[start]], [self.mask_id]]
            at = start + length
        return np.concatenate([*parts, tokens[edges[at] :]]).astype(np.int32)

    def _spans(self, masked: int, rng: np.random.Generator) -> Int[np.ndarray, "s"]:
        """Lengths of spans with a sum of ``masked`` words, in random order; the last one drawn is cut to fit.

        Of the empty ones only as many are kept as masks are saved by the others, so that no text grows.
        """
        lengths: list[int] = []
        while (left := masked - sum(lengths)) > 0:
            lengths.append(min(_poisson(self.mean_length, rng.random()), left))
        full = [length for length in lengths if length]
        empty = min(len(lengths) - len(full), masked - len(full))
        spans = np.array([*full, *[0] * empty], np.int64)
        return spans[shuffled(len(spans), rng)]


def _poisson(mean: float, uniform: float) -> int:
    """The Poisson-distributed number at a place from 0 to 1 of its distribution."""
    number, share = 0, math.exp(-mean)
    below = share
    while uniform >= below and share > 0.0:
        number += 1
        share *= mean / number
        below += share
    return number


def _shuffled_sentences(sentences: Int[np.ndarray, "n"], rng: np.random.Generator) -> Int[np.ndarray, "n"]:
    """Places of the tokens with their sentences in random order."""
    numbers, of_token = np.unique(sentences, return_inverse=True)
    return np.argsort(rng.random(len(numbers))[of_token], kind="stable")
