"""Masked words end to end: a tiny BERT without such a head learns texts that go by a rule, and goes on after a stop."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

import jaxtune
from tests.tiny import PLAIN, experiment


def counting(rng, length):
    """Words in order, round and round: every masked one is certain."""
    start = rng.integers(len(PLAIN))
    return " ".join(PLAIN[(start + i) % len(PLAIN)] for i in range(length))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(0)
    rows = [{"text": counting(rng, int(n))} for n in rng.integers(6, 60, 120)]
    (path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(folder, **changes):
    train = {"epochs": 10, "batch_size": 16, "log_every": 20, "eval_every": 40, "eval_at_start": True}
    data = {"train": f"jsonl:{folder / 'reviews.jsonl'}", "max_length": 40, "holdout": (0.2, 0.1)}
    return experiment(folder, task="masked_lm", train={**train, **changes}, data=data)


def test_it_learns_what_comes_between(folder, caplog):
    with caplog.at_level(logging.INFO):
        run = jaxtune.train(asked(folder))
    validation = [row for row in run.metrics if row["split"] == "validation"]
    assert validation[0]["step"] == 0
    assert run.results["step"] > 0, "the start is no checkpoint"
    result = run.results["splits"]["test"]
    assert result["perplexity"] < 0.5 * validation[0]["perplexity"]
    assert result["perplexity"] == pytest.approx(np.exp(result["loss"]))
    assert result["accuracy"] > 2 * validation[0]["accuracy"]
    lines = Path(run.path, "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    sums = np.array([row["scores"]["loss"] for row in rows])
    assert sums[:, 0].sum() / sums[:, 1].sum() == pytest.approx(result["loss"], rel=1e-6)
    assert run.evaluate("test") == pytest.approx(result), "an evaluation masks alike every time"
    best = jaxtune.load_pretrained(f"{run.path}/best", head="auto")
    assert best.head == "mlm"
    said = [record.getMessage() for record in caplog.records]
    assert any("lacks head/dense/kernel" in line and "newly initialised" in line for line in said)
