from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.summaries import SUMMARY_METRICS, summary_metrics, summary_scores

WORDS = ["The", "cat", "cats", "sat.", "sitting", "on", "a", "mat\n", "über", "running", "runs", "3.5", "\n"]


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def text(rng, least=0):
    return " ".join(str(word) for word in rng.choice(WORDS, int(rng.integers(least, 15))))


def f1(shared, said, true):
    return 2 * shared / (said + true) if shared else 0.0


def literal_scores(summary, reference):
    """ROUGE-1, -2 and -L of Lin 2004 without stemming."""
    said, true = (re.findall("[a-z0-9]+", side.lower()) for side in (summary, reference))
    scores = {}
    for n in (1, 2):
        ours, theirs = (
            Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for words in (said, true)
        )
        scores[f"rouge{n}"] = f1((ours & theirs).total(), ours.total(), theirs.total())
    row = [0] * (len(true) + 1)
    for word in said:
        new = [0]
        for i, other in enumerate(true):
            new.append(row[i] + 1 if word == other else max(row[i + 1], new[i]))
        row = new
    return scores | {"rougeL": f1(row[-1], len(said), len(true))}


def test_examples_are_scored_by_the_formulas():
    rng = np.random.default_rng(0)
    summaries, references = ([text(rng) for _ in range(200)] for _ in range(2))
    scores = summary_scores(summaries, references, stem=False)
    for index, (summary, reference) in enumerate(zip(summaries, references)):
        for name, expected in literal_scores(summary, reference).items():
            assert scores[name][index] == close(expected)


@pytest.mark.parametrize("stem", [True, False])
def test_examples_are_scored_as_by_rouge_score(stem):
    rng = np.random.default_rng(1)
    summaries, references = ([text(rng) for _ in range(200)] for _ in range(2))
    scores = summary_scores(summaries, references, stem=stem)
    result = summary_metrics(summaries, references, stem=stem)
    json.dumps(result, allow_nan=False)
    for name in SUMMARY_METRICS:
        scorer = RougeScorer([name], use_stemmer=stem)
        expected = [scorer.score(r, s)[name].fmeasure for s, r in zip(summaries, references)]
        assert scores[name] == close(expected)
        assert result[name] == close(sum(expected) / 200)


def test_by_hand():
    scores = summary_scores(["the cat sat"], ["the big cat sat down"])
    assert scores["rouge1"] == close([2 * 3 / 8])
    assert scores["rouge2"] == close([2 * 1 / 6])
    assert scores["rougeL"] == close([2 * 3 / 8])


def test_rouge_lsum_goes_by_lines():
    # Whole texts share "a b" or "c d" in order, the lines share both.
    scores = summary_scores(["c d\na b"], ["a b\nc d"])
    assert (scores["rougeL"], scores["rougeLsum"]) == (close([0.5]), close([1]))


def test_stemming():
    assert summary_scores(["cats running"], ["cat run"], stem=True)["rouge1"] == close([1])
    assert summary_scores(["cats running"], ["cat run"], stem=False)["rouge1"] == [0]
    assert summary_metrics(["a"], ["a"])["rouge_signature"].endswith("|stem:yes")


def test_the_best_reference_counts():
    scores = summary_scores(["the cat sat"], [["a dog", "the cat sat", "the cat"]])
    assert all(values == close([1]) for values in scores.values())


@pytest.mark.parametrize("summary", ["", "...", "\n"])
def test_an_empty_summary(summary):
    assert all(values == [0] for values in summary_scores([summary], ["the cat"]).values())
    assert all(values == [0] for values in summary_scores(["the cat"], [summary]).values())


def test_what_cannot_be_scored():
    with pytest.raises(DataError, match="no example"):
        summary_metrics([], [])
    with pytest.raises(DataError, match="1 predictions for 2 targets"):
        summary_metrics(["a"], ["a", "b"])
    with pytest.raises(DataError, match="example 0 has no reference"):
        summary_scores(["a"], [[]])
