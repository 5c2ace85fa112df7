"""The page docs/adding-a-task.md: its code is taken as it stands, registered, and trained."""

import dataclasses
import json
import random
import re
import sys
import types
import typing
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxtune
from jaxtune import config
from jaxtune.errors import DataError
from jaxtune.tasks import registry
from jaxtune.training.train import train
from tests import tiny

PAGE = Path(__file__).parents[2] / "docs/adding-a-task.md"


@pytest.fixture(scope="module")
def ordinal():
    """The module on the page, registered as the page says."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (line,) = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) <= 150
    module = types.ModuleType("jaxtune.tasks.ordinal")
    names = typing.Literal[(*typing.get_args(config.TaskName), "ordinal")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, str(PAGE), "exec"), module.__dict__)
        entry = eval("{" + line + "}", {"Ordinal": module.Ordinal})
        patch.setattr(registry, "TASKS", {**registry.TASKS, **entry})
        patch.setattr(sys.modules[config.Experiment.__module__], "TaskName", names)
        yield module


def write_ratings(path, rows=400):
    """Texts in which the number of good words among four gives the stars away: one to five."""
    rng = random.Random(0)
    lines = []
    for _ in range(rows):
        stars = rng.randint(1, 5)
        words = rng.choices(tiny.GOOD, k=stars - 1) + rng.choices(tiny.BAD, k=5 - stars)
        words += rng.choices(tiny.PLAIN, k=3)
        rng.shuffle(words)
        lines.append(json.dumps({"text": " ".join(words), "stars": stars}) + "\n")
    path.write_text("".join(lines))
    return path


def test_it_trains_is_opened_again_and_predicts(ordinal, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(tmp_path / "cache"))
    data = write_ratings(tmp_path / "ratings.jsonl")
    experiment = tiny.experiment(
        tmp_path, task="ordinal", data={"train": f"jsonl:{data}", "label": "stars"}, train={"epochs": 8}
    )
    run = train(experiment, quiet=True)
    result = run.results["splits"]["test"]
    assert run.results["metric"] == "mae"
    assert result["mae"] < 0.6  # always 3 stars would be 1.2
    opened = jaxtune.open_run(run.path)
    assert opened.evaluate("test") == pytest.approx(result)
    bad, good = opened.predict(["dull cold grim bland film", "warm funny lovely bright film"])
    assert bad["rating"] in ("below 2", "2")
    assert good["rating"] in ("4", "5")
    assert list(good["probabilities"]) == ["2", "3", "4", "5"]
    lines = [json.loads(line) for line in (tmp_path / "runs/run/predictions.jsonl").read_text().splitlines()]
    assert {line["target"] for line in lines} <= set("12345")
    settings = json.loads((tmp_path / "runs/run/best/config.json").read_text())
    assert settings["problem_type"] == "multi_label_classification"


def test_its_loss_and_metrics_by_hand(ordinal):
    task = ordinal.Ordinal(None, "stars", ("2", "3"))
    logits = np.array([[[2.0, -1.0], [0.5, 0.5], [9.0, 9.0]]], np.float32)
    targets = np.array([[[1, 0], [1, 1], [0, 0]]], np.int32)
    total, weight = task.loss(
        jnp.asarray(logits), {"targets": targets, "weights": np.array([[1.0, 1.0, 0.0]])}
    )["loss"]
    by_hand = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0)) + 2 * np.log1p(np.exp(-0.5))
    assert float(total) == pytest.approx(by_hand, rel=1e-6)
    assert float(weight) == 2
    found = task.metrics(logits[0], targets[0])
    assert found["mae"] == pytest.approx(2 / 3)
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_its_bad_rows_are_told_by_place(ordinal):
    task = ordinal.Ordinal(None, "stars").resolve_labels([3, "1", None, 2.5, 2])
    assert task.labels == ("2", "3")
    with pytest.raises(DataError, match=r"reviews\.csv:7.*'stars' holds 2\.5; expected a whole number"):
        task._target({"stars": 2.5}, "reviews.csv:7")
    with pytest.raises(DataError, match="expected at least two"):
        dataclasses.replace(task, labels=()).resolve_labels([4, 4])
