"""Metrics of a whole corpus from numbers per example that add up: ratios, perplexity, BLEU, chrF, TER."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxtune.reports.significance import SumScores, mean_scores

TRANSLATION = ("bleu", "chrf", "ter")


def corpus_scores(metric: str, numbers: Float[np.ndarray, "n k"]) -> SumScores:
    """The scores of a metric from k numbers per example.

    One number: the metric is their mean. Two: Σ first / Σ second, as an F1 of entities from (2·right, said + true), or
    a loss from (sum, weight); ``perplexity`` is e to that. bleu, chrf and ter: sacreBLEU's statistics, as
    predictions.jsonl has them per sentence.
    """
    if metric in TRANSLATION and numbers.shape[1] > 2 - (metric == "ter"):
        return SumScores(numbers, _translation(metric))
    if numbers.shape[1] == 1:
        return mean_scores(numbers)
    if numbers.shape[1] == 2:
        return SumScores(numbers, _perplexity if metric == "perplexity" else _ratio)
    raise ValueError(f"{numbers.shape[1]} numbers per example of {metric!r}; expected 1 or 2")


@cache
def _metric(name: str) -> Any:
    from sacrebleu.metrics import BLEU, CHRF, TER

    return {"bleu": BLEU, "chrf": CHRF, "ter": TER}[name]()


def _translation(name: str) -> Callable[[np.ndarray], np.ndarray]:
    metric = _metric(name)

    def combine(sums: np.ndarray) -> np.ndarray:
        rows = np.rint(sums).astype(int) if name == "bleu" else sums
        flat = rows.reshape(-1, rows.shape[-1]).tolist()
        scores = [metric._compute_score_from_stats(row).score for row in flat]
        return np.array(scores).reshape(sums.shape[:-1])

    return combine


def _ratio(sums: np.ndarray) -> np.ndarray:
    above, below = sums[..., 0], sums[..., 1]
    return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)


def _perplexity(sums: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(_ratio(sums), 700.0))
