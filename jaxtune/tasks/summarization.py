"""The gist of a text: ROUGE of what a beam search writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtune.tasks.base import Piece, Record
from jaxtune.tasks.language import LanguageTask
from jaxtune.tasks.scoring.summaries import SUMMARY_METRICS, summary_metrics, summary_scores
from jaxtune.tasks.seq2seq import Seq2Seq


@dataclass(frozen=True)
class Summarization(Seq2Seq):
    """See ``Seq2Seq``; scored by rouge-score."""

    name: ClassVar[str] = "summarization"
    metric_names: ClassVar[tuple[str, ...]] = (*LanguageTask.metric_names, *SUMMARY_METRICS)
    written_metrics: ClassVar[tuple[str, ...]] = SUMMARY_METRICS

    def written_scores(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Mean F-measures of ROUGE-1, -2, -L and -Lsum."""
        return dict(summary_metrics(texts, references))

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The sums of the loss, and the F-measures of this text."""
        found = super().scores(record, pieces)
        if "text" not in pieces[0].outputs:
            return found
        references = self._references(record, "a row that was read before")
        rouge = summary_scores([pieces[0].outputs["text"]], [references])
        return {**found, **{name: values[0] for name, values in rouge.items()}}
