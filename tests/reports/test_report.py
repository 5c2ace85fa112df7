from __future__ import annotations

import re

import numpy as np

from jaxtune.reports.report import ReportFacts, build_report, mistakes
from jaxtune.tasks.scoring.classification import classification_metrics
from jaxtune.tasks.scoring.regression import regression_metrics

CONFIG = {
    "task": "classification",
    "model": {"source": "org/encoder", "dropout": None},
    "data": {"train": "csv:reviews.csv", "text": "review"},
    "optim": {"learning_rate": 5e-5},
}
ROWS = [
    *({"split": "train", "step": step, "loss": 1 / step, "learning_rate": 1e-5} for step in (1, 2, 3)),
    {"split": "validation", "step": 3, "loss": 0.5, "accuracy": 0.5},
]
TEST = classification_metrics(np.array([[1.0, 0], [0, 1], [1, 0], [0, 2]]), np.array([0, 1, 1, 1]))
PREDICTIONS = [
    {"text": "fine | <b>film</b>", "target": "good", "label": "bad", "score": 0.7},
    {"text": "awful\nfilm", "target": "bad", "label": "good", "score": 0.9},
    {"text": "right", "target": "bad", "label": "bad", "score": 0.99},
    {"text": "unlabelled", "target": None, "label": "bad", "score": 0.99},
]


def classification(**changes):
    facts = {
        "name": "reviews",
        "run": "my runs/reviews",
        "config": CONFIG,
        "labels": ("bad", "good"),
        "rows": ROWS,
        "training": {"steps": 3, "best step": 2},
        "data": {
            "train": {
                "rows": 1000,
                "labels": {"bad": 400, "good": 600},
                "skipped": ["reviews.csv:7: text is null"],
            },
            "test": {"rows": 4, "truncated_share": 0.25},
        },
        "results": {"validation": {"accuracy": 0.5}, "test": TEST},
        "predictions": PREDICTIONS,
        "lengths": {"train": [3, 5, 9], "test": [4]},
        "provenance": {"versions": {"jax": "0.10.2"}, "commit": "abc"},
    }
    return build_report(ReportFacts(**(facts | changes)))


def test_a_report_of_a_classification():
    files = classification()
    drawn = ("learning_curve", "confusion_matrix", "reliability", "lengths")
    assert set(files) == {"report.md", *(f"{name}.{kind}" for name in drawn for kind in ("png", "svg"))}
    text = files["report.md"].decode()
    assert text.startswith("# reviews\n\nClassification of `csv:reviews.csv`, fine-tuned from `org/encoder`.")
    assert "**accuracy on the test split: 0.7500**" in text
    assert re.search(r"\| accuracy +\| +0\.5000 \| 0\.7500 \|", text)
    assert re.search(r"\| good +\| +1\.0000 \| 0\.6667 \| 0\.8000 \| +3 \|", text)
    assert "### Skipped rows (1)\n\n- train: reviews.csv:7: text is null\n" in text
    assert re.search(r"\| rows +\| 1,000 +\| +4 \|", text)
    assert "bad: 400, good: 600" in text
    assert "jaxtune predict 'my runs/reviews' --text" in text
    assert re.search(r"\| `optim\.learning_rate` +\| `5e-05` +\|", text)
    assert "model.dropout" not in text
    assert re.search(r"\| versions jax \| 0\.10\.2 +\|", text)
    shown = set(re.findall(r"\]\((\w+\.png)\)", text))
    assert shown == {name for name in files if name.endswith(".png")}


def test_the_most_confident_mistake_comes_first_and_stays_one_line():
    text = classification()["report.md"].decode()
    assert text.index("awful film") < text.index("fine \\| &lt;b>film&lt;/b>")
    assert [row["score"] for row in mistakes(PREDICTIONS)] == [0.9, 0.7]


def test_a_report_of_a_regression():
    predictions = [{"text": "a", "target": 1.0, "value": 1.5}, {"text": "b", "target": 1.0, "value": -2.0}]
    metrics = regression_metrics(np.array([[1.5], [-2.0]]), np.array([1.0, 1.0]))
    files = classification(labels=(), metric="pearson", results={"test": metrics}, predictions=predictions)
    assert set(files) == {
        "report.md",
        *(f"{n}.{k}" for n in ("learning_curve", "lengths") for k in ("png", "svg")),
    }
    text = files["report.md"].decode()
    assert "**pearson on the test split: 0.0000**" in text
    assert re.search(r"Largest errors.*-2\.0000 \| b.*1\.5000 \| a", text, re.DOTALL)
    assert "Per class" not in text


def test_a_report_of_hardly_anything():
    text = build_report(ReportFacts("empty", "runs/empty", {}))["report.md"].decode()
    assert text.startswith("# empty")
    assert "Use it" in text


def test_skipped_rows_beyond_the_limit_are_counted():
    files = classification(data={"train": {"skipped": [f"x:{i}: bad" for i in range(1234)]}})
    text = files["report.md"].decode()
    assert "### Skipped rows (1,234)" in text
    assert "- and 1,034 more" in text
