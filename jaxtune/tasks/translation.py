"""A text in another language: BLEU, chrF and TER of what a beam search writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtune.tasks.base import Piece, Record
from jaxtune.tasks.language import LanguageTask
from jaxtune.tasks.scoring.translation import (
    TRANSLATION_METRICS,
    translation_metrics,
    translation_statistics,
)
from jaxtune.tasks.seq2seq import Seq2Seq


@dataclass(frozen=True)
class Translation(Seq2Seq):
    """See ``Seq2Seq``; scored by sacreBLEU, on detokenised texts."""

    name: ClassVar[str] = "translation"
    metric_names: ClassVar[tuple[str, ...]] = (*LanguageTask.metric_names, *TRANSLATION_METRICS)
    written_metrics: ClassVar[tuple[str, ...]] = TRANSLATION_METRICS

    def written_scores(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
        """BLEU, chrF and TER with their signatures."""
        return dict(translation_metrics(texts, references))

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The sums of the loss, and sacreBLEU's counts."""
        found = super().scores(record, pieces)
        if "text" not in pieces[0].outputs:
            return found
        references = self._references(record, "a row that was read before")
        counts = translation_statistics([pieces[0].outputs["text"]], [references])
        return {**found, **{name: rows[0] for name, rows in counts.items()}}
