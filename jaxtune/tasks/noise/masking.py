"""Dynamic masking, as BERT and RoBERTa learn: a few tokens of a text, chosen anew in every epoch, have to be told.

After Devlin et al. 2019, section 3.1, and Liu et al. 2019, section 4.1: of the chosen tokens 80 % become
[MASK], 10 % a random word, and 10 % stay as they are. The choice is a function of the generator's uniform numbers alone, as
those are what NumPy keeps the same between versions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxtune.tasks.base import IGNORED
from jaxtune.tasks.noise.drawing import shuffled
from jaxtune.tasks.reading.text_pieces import word_starts

MASKED, RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become [MASK], and a random word; the rest stays."""

_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Masking:
    """Which tokens are chosen, and what stands in their place; see ``data.loader.Dynamic``.

    Attributes:
        share: of the tokens of a text that are words, not special tokens.
        mask_id: id of [MASK].
        vocab_size: ids a random word is drawn from, but for those of
        special: tokens, sorted.
        whole_word: choose words, not tokens.
        around: special tokens that every example has beside those of its text.
    """

    share: float
    mask_id: int
    vocab_size: int
    special: tuple[int, ...]
    whole_word: bool = False
    around: int = 0

    def lengths(self, examples: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Those of the examples: masking moves nothing."""
        return examples.lengths, examples.decoder_lengths

    def __call__(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Tokens with masks, and ``labels``: what stood there at the chosen places, ``IGNORED`` elsewhere.

        Args:
            arrays: tokens, token_types and words [n]; words are -1 where nothing may be chosen.
        """
        tokens, words = arrays["tokens"], arrays["words"]
        chosen = self.choose(words, rng)
        draw, words_drawn = rng.random(len(tokens)), self._random_words(len(tokens), rng)
        shown = np.where(draw < MASKED, self.mask_id, np.where(draw < MASKED + RANDOM, words_drawn, tokens))
        return {
            "tokens": np.where(chosen, shown, tokens).astype(np.int32),
            "token_types": arrays["token_types"],
            "labels": np.where(chosen, tokens, IGNORED).astype(np.int32),
        }

    def quota(self, count: int) -> int:
        """Most tokens chosen of ``count``; never none of a text that has some."""
        return min(count, max(1, round(self.share * count)))

    def most_labels(self, length: int, slots: int) -> int:
        """Most chosen tokens of a row of ``length`` tokens and ``slots`` examples.

        A quota lies above its share by at most 1 - share (a text of one token) or 0.5 (rounding), and of each
        example ``around`` tokens are not to be chosen.
        """
        above = max(1.0 - self.share, 0.5) - self.share * self.around
        examples = min(slots, length // (1 + self.around))
        return max(1, min(length, math.floor(self.share * length + examples * max(above, 0.0) + _ROUNDING)))

    def choose(self, words: Int[np.ndarray, "n"], rng: np.random.Generator) -> Bool[np.ndarray, "n"]:
        """Which tokens are to be told.

        Whole words are taken in random order as long as they fit into the quota, so that there are never more
        tokens than that. Where none fits, as many tokens of one word are chosen as do.
        """
        places = np.flatnonzero(words >= 0)
        chosen = np.zeros(len(words), bool)
        quota = self.quota(len(places))
        if not self.whole_word:
            chosen[places[shuffled(len(places), rng)[:quota]]] = True
            return chosen
        starts = np.flatnonzero(word_starts(words[places])) if len(places) else places
        lengths = np.diff(np.append(starts, len(places)))
        order = shuffled(len(starts), rng)
        left = quota
        for word in order:
            if lengths[word] <= left:
                chosen[places[starts[word] : starts[word] + lengths[word]]] = True
                left -= lengths[word]
        if left == quota and len(order):
            chosen[places[starts[order[0]] :][:quota]] = True
        return chosen

    def _random_words(self, count: int, rng: np.random.Generator) -> Int[np.ndarray, "n"]:
        """Ids of the vocabulary, all as likely, none of them special."""
        found = np.floor(rng.random(count) * (self.vocab_size - len(self.special))).astype(np.int64)
        for special in self.special:  # sorted: each one shifts those from it on
            found += found >= special
        return found
