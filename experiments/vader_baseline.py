#!/usr/bin/env python3
"""What the rule-based vaderSentiment says of the test rows of an experiment, as a record for a table.

    pip install "jaxtune[baselines]"
    python experiments/vader_baseline.py --config config.yaml --output runs/vader-movie

The rows and labels are those that a run of the same configuration is tested on. VADER's compound score (-1 to 1) is
the prediction of a regression, and its sign the class; a score of exactly 0, where no word is in the lexicon, goes to
the more frequent class of the training split.

C.J. Hutto & E.E. Gilbert: VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, ICWSM 2014.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping

import numpy as np

from jaxtune.cli.programs import record_main
from jaxtune.config import Experiment, to_dict
from jaxtune.data.pipeline import Rows, Splits
from jaxtune.errors import ConfigError, DataError
from jaxtune.hub.start import describe_start
from jaxtune.reports.example_scores import ExampleScores
from jaxtune.reports.records import RunRecord, rows_fingerprint
from jaxtune.tasks.registry import make_task

CLASS_METRICS = ("accuracy", "matthews", "f1", "f1_macro", "f1_weighted", "precision_macro", "recall_macro")
NUMBER_METRICS = ("pearson", "spearman")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return record_main(__doc__, _evaluate_vader, shown=("f1_macro", "pearson"), argv=argv)


def _evaluate_vader(experiment: Experiment, name: str) -> RunRecord:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ConfigError("vaderSentiment is not installed: pip install vaderSentiment") from None
    return evaluate(experiment, name, SentimentIntensityAnalyzer().polarity_scores)


def evaluate(
    experiment: Experiment, name: str, polarity_scores: Callable[[str], Mapping[str, float]]
) -> RunRecord:
    """The record of VADER on the test split (validation without one) of an experiment."""
    task = make_task(experiment)
    rows = Rows(experiment.data, task.columns_read)
    splits = rows.tokenize(task, describe_start(experiment.model, rows.texts).tokenizer)
    split = splits["test" if "test" in splits else "validation"]
    texts = [str(split.records[i].get(experiment.data.text)) for i in range(len(split.examples))]
    compound = np.array([polarity_scores(text)["compound"] for text in texts])
    targets = np.asarray(split.examples.targets)
    labels = tuple(split.labels)
    if labels:
        examples = ExampleScores(targets.astype(int), classes_of(compound, splits), labels)
    else:
        examples = ExampleScores(targets.astype(float), compound)
    truths = [splits.task.truth(split.records[i], target) for i, target in enumerate(targets)]
    found = {metric: examples.scores(metric) for metric in (CLASS_METRICS if labels else NUMBER_METRICS)}
    return RunRecord(
        name=name,
        config={"program": "vaderSentiment", "task": experiment.task, "data": to_dict(experiment)["data"]},
        split=split.name,
        metrics={split.name: {metric: s.value() for metric, s in found.items() if s is not None}},
        rows={split.name: rows_fingerprint([{"text": t, "target": y} for t, y in zip(texts, truths)])},
        examples=examples,
        made={"versions": {"vaderSentiment": importlib.metadata.version("vaderSentiment")}},
    )


def classes_of(compound: np.ndarray, splits: Splits) -> np.ndarray:
    """Class ids [n] of compound scores [n]; the labels are to be "negative" and "positive"."""
    labels = tuple(splits["train"].labels)
    if sorted(labels) != ["negative", "positive"]:
        raise DataError(f"VADER tells negative from positive; this task has the labels {', '.join(labels)}")
    positive = labels.index("positive")
    frequent = int(np.bincount(splits["train"].examples.targets.astype(int), minlength=2).argmax())
    return np.where(compound == 0, frequent, np.where(compound > 0, positive, 1 - positive))


if __name__ == "__main__":
    sys.exit(main())
