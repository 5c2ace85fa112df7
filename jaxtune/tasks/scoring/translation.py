"""BLEU, chrF and TER of translations by sacreBLEU, with its signatures (Post 2018), on its scale, 0 to 100.

BLEU: Papineni et al. 2002. chrF: Popović 2015, chrF2 unless words are counted too (chrF++). TER: Snover
et al. 2006; above 100 where a translation needs more edits than its reference has words.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.values import Metrics, reference_lists

TRANSLATION_METRICS = ("bleu", "chrf", "ter")


def translation_metrics(
    translations: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    metrics: Sequence[str] = TRANSLATION_METRICS,
    tokenizer: str = "13a",
    lowercase: bool = False,
    chrf_words: int = 0,
) -> Metrics:
    """Corpus scores of detokenised texts.

    Args:
        translations: [n] texts; an empty one is a translation like any other.
        references: [n] texts, or lists of them where there are several; the numbers may differ.
        metrics: which of bleu, chrf and ter; TER takes the most time.
        tokenizer: sacreBLEU's for BLEU: 13a, zh, ja-mecab, intl, char, none, ….
        lowercase: BLEU and chrF without regard to case (TER never has any, as is sacreBLEU's default).
        chrf_words: longest word n-gram of chrF; 2 gives chrF++.

    Returns:
        bleu, chrf, ter, each with ``…_signature``, which belongs beside a published score;
        bleu_brevity_penalty.

    Raises DataError without an example, for different lengths, or for an unknown metric.
    """
    streams = _streams(reference_lists(translations, references))
    result: Metrics = {}
    for name in metrics:
        metric = _metric(name, tokenizer, lowercase, chrf_words)
        score = metric.corpus_score(list(translations), streams)
        result[name] = float(score.score)
        result[f"{name}_signature"] = str(metric.get_signature())
        if name == "bleu":
            result["bleu_brevity_penalty"] = float(score.bp)
    return result


def translation_scores(
    translations: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    metrics: Sequence[str] = TRANSLATION_METRICS,
    tokenizer: str = "13a",
    lowercase: bool = False,
    chrf_words: int = 0,
) -> dict[str, list[float]]:
    """Scores per example, name → [n], for tests of significance; arguments as in ``translation_metrics``.

    BLEU of a sentence takes n-gram orders up to the longest that has a match (sacreBLEU's effective
    order). The mean of these is not the score of the corpus.
    """
    lists = reference_lists(translations, references)
    result = {}
    for name in metrics:
        metric = _metric(name, tokenizer, lowercase, chrf_words, effective_order=True)
        result[name] = [
            float(metric.sentence_score(text, gold).score) for text, gold in zip(translations, lists)
        ]
    return result


def translation_statistics(
    translations: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, list[list[float]]]:
    """What each sentence adds to the corpus scores of sacreBLEU's defaults: metric → [n, k].

    Args:
        translations: [n] texts.
        references: [n] lists of texts.
    """
    streams = _streams(reference_lists(translations, references))
    # sacreBLEU's own tests of significance are built on this method.
    return {
        name: _default_metric(name)._extract_corpus_statistics(list(translations), streams)
        for name in TRANSLATION_METRICS
    }


@cache
def _default_metric(name: str) -> Any:
    return _metric(name, "13a", False, 0)


def _metric(
    name: str, tokenizer: str, lowercase: bool, chrf_words: int, effective_order: bool = False
) -> Any:
    from sacrebleu.metrics import BLEU, CHRF, TER

    if name == "bleu":
        return BLEU(tokenize=tokenizer, lowercase=lowercase, effective_order=effective_order)
    if name == "chrf":
        return CHRF(word_order=chrf_words, lowercase=lowercase)
    if name == "ter":
        return TER()
    raise DataError(f"there is no metric {name!r} of translations; expected one of {TRANSLATION_METRICS}")


def _streams(lists: list[list[str]]) -> list[list[str | None]]:
    # sacreBLEU has the r-th references of all examples together, and None where an example has fewer.
    most = max(map(len, lists))
    return [[texts[r] if r < len(texts) else None for texts in lists] for r in range(most)]
