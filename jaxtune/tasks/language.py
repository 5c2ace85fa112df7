"""What language models have in common: loss over words, perplexity."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Array, Float, Int

from jaxtune.hub.description import Description
from jaxtune.tasks.base import Data, Outputs, Piece, Plain, Record, Sums, Unlabelled
from jaxtune.tasks.losses import example_sums, token_sums
from jaxtune.tasks.scoring.language import LANGUAGE_METRICS, language_metrics, mean, perplexity, total


class LanguageTask(Plain, Unlabelled):
    """The parts of a task that learns to tell words. It is a dataclass with these two fields.

    Attributes:
        vocab_size: words that smoothing spreads over; none before ``for_model``.
    """

    label_smoothing: float = 0.0
    vocab_size: int | None = None
    default_metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...]] = (*LANGUAGE_METRICS, "accuracy")

    def for_model(self, model: Description) -> Self:
        """See ``Task.for_model``."""
        known: Any = self
        return dataclasses.replace(known, vocab_size=model.config.vocab_size)

    def loss(self, logits: Float[Array, "B S P"], batch: Mapping[str, Array]) -> Sums:
        """Cross-entropy and accuracy over the labelled words."""
        return token_sums(logits, batch, self.label_smoothing, self.vocab_size)

    def outputs(self, logits: Float[Array, "B S P"], batch: Mapping[str, Array]) -> dict[str, Array]:
        """Of each example the sum of its losses, how many words were told right, and how many there are."""
        return dict(example_sums(logits, batch))

    def score(self, outputs: Outputs, data: Data) -> dict[str, Any]:
        """Loss per token (plain cross-entropy), perplexity, and the share of tokens told right."""
        count = total((float(n), 0.0) for n in np.ravel(outputs["count"]))[0]
        loss = total((float(x), 0.0) for x in np.ravel(outputs["loss_sum"]))[0]
        right = total((float(x), 0.0) for x in np.ravel(outputs["right"]))[0]
        return {**language_metrics((loss, count), (right, count)), "tokens": int(count)}

    def answer(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Loss per token of one text, and its perplexity."""
        loss, count = _summed(pieces, "loss_sum")
        pair = (loss, max(count, 1.0))
        return {"loss": mean(pair), "perplexity": perplexity(pair)}

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Sums of losses and of words told right, each with the number of words."""
        loss, right = _summed(pieces, "loss_sum"), _summed(pieces, "right")
        return {"loss": loss, "perplexity": loss, "accuracy": right}

    def truth(self, record: Record, target: Any) -> None:
        """Nothing: the text itself is what is to be told."""


def teacher_forced(target: Int[np.ndarray, "m"], start: int) -> dict[str, Int[np.ndarray, "m"]]:
    """What a decoder reads and tells: the target shifted right by one, behind the start token, and the target."""
    return {
        "decoder_tokens": np.concatenate([[start], target[:-1]]).astype(np.int32),
        "labels": target.astype(np.int32),
    }


def _summed(pieces: Sequence[Piece], name: str) -> tuple[float, float]:
    """An output over all pieces, and their labelled words."""
    return tuple(sum(float(piece.outputs[of]) for piece in pieces) for of in (name, "count"))  # type: ignore[return-value]
