"""What language models have in common: loss over words, perplexity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from jaxtune.tasks.base import Outputs, Record, Sums, Unlabelled
from jaxtune.tasks.losses import example_sums, token_sums
from jaxtune.tasks.scoring.language import LANGUAGE_METRICS, language_metrics, mean, perplexity, total


class LanguageTask(Unlabelled):
    """The parts of a task that learns to tell words."""

    label_smoothing: float = 0.0
    per_token: ClassVar[frozenset[str]] = frozenset()
    dynamic: Any = None
    default_metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...]] = (*LANGUAGE_METRICS, "accuracy")

    def loss(self, logits: Float[Array, "B S P"], batch: Mapping[str, Array]) -> Sums:
        """Cross-entropy and accuracy over the labelled words."""
        return token_sums(logits, batch, self.label_smoothing)

    def outputs(self, logits: Float[Array, "B S P"], batch: Mapping[str, Array]) -> dict[str, Array]:
        """Of each example the sum of its losses, how many words were told right, and how many there are."""
        return dict(example_sums(logits, batch))

    def score(self, outputs: Outputs, examples: Any) -> dict[str, Any]:
        """Loss per token (plain cross-entropy), perplexity, and the share of tokens told right."""
        count = total((float(n), 0.0) for n in np.ravel(outputs["count"]))[0]
        loss = total((float(x), 0.0) for x in np.ravel(outputs["loss_sum"]))[0]
        right = total((float(x), 0.0) for x in np.ravel(outputs["right"]))[0]
        return {**language_metrics((loss, count), (right, count)), "tokens": int(count)}

    def answer(self, outputs: Outputs) -> dict[str, Any]:
        """Loss per token of one text, and its perplexity."""
        pair = (float(outputs["loss_sum"]), max(float(outputs["count"]), 1.0))
        return {"loss": mean(pair), "perplexity": perplexity(pair)}

    def truth(self, record: Record, target: Any) -> None:
        """Nothing: the text itself is what is to be told."""
