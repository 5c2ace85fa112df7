"""Metrics from per-example scores are those that a run reports."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.reports.corpus_scores import corpus_scores
from jaxtune.reports.example_scores import ExampleScores, example_scores
from jaxtune.tasks.scoring.classification import classification_metrics
from jaxtune.tasks.scoring.regression import REGRESSION_METRICS, regression_metrics
from jaxtune.tasks.scoring.translation import translation_metrics, translation_statistics

CLASS_METRICS = ["accuracy", "matthews", "loss"] + [
    f"{kind}_{average}"
    for kind in ("precision", "recall", "f1")
    for average in ("micro", "macro", "weighted")
]


def predictions(logits, targets, names):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return [
        {
            "target": names[t],
            "label": names[int(p.argmax())],
            "score": float(p.max()),
            "probabilities": dict(zip(names, p.tolist())),
        }
        for p, t in zip(odds, targets)
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_of_classes(classes, n, seed, one_class):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes))
    targets = np.zeros(n, int) if one_class else rng.integers(0, classes, n)
    names = tuple("abcde"[:classes])
    found = example_scores(predictions(logits, targets, names))
    wanted = classification_metrics(logits, targets)
    for metric in [*CLASS_METRICS, *(("precision", "recall", "f1") if classes == 2 else ())]:
        assert found.scores(metric).value() == pytest.approx(wanted[metric], abs=1e-9), metric
    assert found.scores("no_such_metric") is None
    assert (found.scores("f1") is None) == (classes > 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from(["plain", "flat", "tied", "far"]))
def test_of_numbers(n, seed, kind):
    rng = np.random.default_rng(seed)
    outputs, targets = rng.normal(size=(2, n))
    outputs = {"plain": outputs, "flat": np.full(n, 3.7), "tied": outputs.round(), "far": outputs + 1e4}[kind]
    if n == 1:
        outputs, targets = np.repeat(outputs, 2), np.repeat(targets, 2)  # a correlation needs two
    found = example_scores([{"target": t, "value": o} for t, o in zip(targets.tolist(), outputs.tolist())])
    wanted = regression_metrics(outputs, targets)
    for metric in REGRESSION_METRICS:
        assert found.scores(metric).value() == pytest.approx(wanted[metric], rel=1e-7, abs=1e-7), metric


def test_draws_give_the_metric_of_the_drawn_examples():
    rng = np.random.default_rng(0)
    examples = ExampleScores(rng.integers(0, 3, 30), rng.integers(0, 3, 30), ("a", "b", "c"))
    indices = rng.integers(0, 30, (20, 30))
    drawn = examples.scores("f1_macro").drawn(indices)
    for chosen, value in zip(indices, drawn):
        part = ExampleScores(examples.targets[chosen], examples.outputs[chosen], ("a", "b", "c"))
        assert part.scores("f1_macro").value() == pytest.approx(value)


def test_scores_that_a_task_writes_itself():
    rows = [
        {"target": "x", "scores": {"em": 1, "entity_f1": [2, 4], "perplexity": [3.0, 2]}},
        {"scores": {"em": 0, "entity_f1": [0, 1], "perplexity": [1.0, 6]}},
    ]
    found = example_scores(rows)
    assert found.scores("em").value() == 0.5
    assert found.scores("entity_f1").value() == pytest.approx(0.4)
    assert found.scores("perplexity").value() == pytest.approx(np.exp(0.5))
    with pytest.raises(ValueError, match="3 numbers per example"):
        example_scores([{"scores": {"x": [1, 2, 3]}}]).scores("x")
    assert found.scores("accuracy") is None
    assert example_scores([]).scores("accuracy") is None
    assert example_scores([{"target": ["x"], "label": ["y"]}]).scores("accuracy") is None


def test_translations_are_scored_as_a_corpus():
    said = ["the cat sat on a mat .", "it is raining hard today", "", "hello there my friend"] * 5
    true = [["the cat sat on the mat ."], ["today it rains hard"], ["nothing"], ["hello there my friend"]] * 5
    rows = translation_statistics(said, true)
    wanted = translation_metrics(said, true)
    for metric in ("bleu", "chrf", "ter"):
        scores = corpus_scores(metric, np.array(rows[metric], float))
        assert scores.value() == pytest.approx(wanted[metric]), metric
        chosen = np.array([[0, 0, 3, 1], [1, 2, 3, 0]])
        for indices, value in zip(
            chosen, corpus_scores(metric, np.array(rows[metric][:4], float)).drawn(chosen)
        ):
            part = translation_metrics([said[i] for i in indices], [true[i] for i in indices])
            assert value == pytest.approx(part[metric]), metric
