"""ROUGE of summaries by rouge-score, Google's port of ROUGE-1.5.5 (Lin 2004), on its scale, 0 to 1.

Words are runs of a-z and 0-9 after lower-casing; letters with accents and other scripts separate words,
so scores of texts in such languages are not comparable with those of other tools.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxtune.tasks.scoring.values import Metrics, reference_lists

SUMMARY_METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def summary_scores(
    summaries: Sequence[str], references: Sequence[str | Sequence[str]], *, stem: bool = True
) -> dict[str, list[float]]:
    """F-measures per example, name → [n].

    Args:
        summaries: [n] texts; an empty one scores 0.
        references: [n] texts, or lists of them where there are several: the best one counts, for
            each name on its own.
        stem: Porter's stemmer on words of more than three letters, as is usual in the literature.

    rouge1 and rouge2 count words and pairs of words; rougeL is the longest common subsequence of the
    whole texts, rougeLsum its union over sentences, one per line ("\\n"). Raises DataError without an
    example or for different lengths.
    """
    from rouge_score.rouge_scorer import RougeScorer

    lists = reference_lists(summaries, references)
    scorer = RougeScorer(list(SUMMARY_METRICS), use_stemmer=stem)
    scores = [scorer.score_multi(gold, text) for text, gold in zip(summaries, lists)]
    return {name: [float(score[name].fmeasure) for score in scores] for name in SUMMARY_METRICS}


def summary_metrics(
    summaries: Sequence[str], references: Sequence[str | Sequence[str]], *, stem: bool = True
) -> Metrics:
    """Means over the examples of ``summary_scores``, and ``rouge_signature``: version and stemming."""
    from importlib.metadata import version

    scores = summary_scores(summaries, references, stem=stem)
    result: Metrics = {name: float(np.mean(values)) for name, values in scores.items()}
    result["rouge_signature"] = f"rouge-score:{version('rouge-score')}|stem:{'yes' if stem else 'no'}"
    return result
