"""Any number of labels per text: the loss against torch's, what labels may look like, and a run."""

from __future__ import annotations

import json
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtune
from jaxtune.config import DataConfig, Experiment, TrainConfig
from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.base import Piece
from jaxtune.tasks.multi_label import read_labels
from jaxtune.tasks.registry import make_task
from tests.goldens.make_multi_label_goldens import CASES, GOLDEN
from tests.tiny import PLAIN, experiment

NAMES = ("funny", "sad", "slow")


def task(labels=NAMES, class_weights=None, label_smoothing=0.0, **data):
    train = TrainConfig(class_weights=class_weights, label_smoothing=label_smoothing)
    return make_task(Experiment(task="multi_label", data=DataConfig(labels=labels, **data), train=train))


def tokenize(task, tokenizer, *labels, **options):
    records = [{"text": "good film", "label": label} for label in labels]
    return task.tokenize(records, tokenizer, lambda i: f"films.jsonl:{i + 1}", **options)


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_those_of_torch(name):
    golden = np.load(GOLDEN)
    logits, targets = golden[f"{name}/logits"], golden[f"{name}/targets"]
    weights = golden[f"{name}/pos_weight"]
    labels = tuple(f"label {i}" for i in range(logits.shape[1]))
    model_task = task(labels, tuple(weights.tolist()) if weights.size else None)
    shape = (-1, 2, logits.shape[1])
    # Half of the slots are absent, and hold what must reach neither the loss nor the gradient.
    padded = np.full((2 * len(logits), logits.shape[1]), np.nan, np.float32)
    padded[::2] = logits
    truth = np.full(padded.shape, 7)
    truth[::2] = targets
    present = np.tile([1.0, 0.0], (len(logits), 1))
    batch = {"targets": jnp.array(truth.reshape(shape)), "weights": jnp.array(present)}

    def mean(logits):
        total, weight = model_task.loss(logits, batch)["loss"]
        return total / weight

    value, slope = jax.jit(jax.value_and_grad(mean))(jnp.array(padded.reshape(shape)))
    assert float(value) == pytest.approx(float(golden[f"{name}/loss"]), rel=1e-6)
    np.testing.assert_allclose(slope[:, 0], golden[f"{name}/gradient"], atol=1e-7, rtol=1e-5)
    assert not slope[:, 1].any()


def test_labels_may_be_names_ids_or_a_text(tokenizer):
    rows = [["sad", "funny"], [1, 0], (), "funny, sad", "", "2", 2, ["sad", 2], ["sad", "sad"]]
    wanted = [
        (1, 1, 0),
        (1, 1, 0),
        (0, 0, 0),
        (1, 1, 0),
        (0, 0, 0),
        (0, 0, 1),
        (0, 0, 1),
        (0, 1, 1),
        (0, 1, 0),
    ]
    made = tokenize(task(), tokenizer, *rows)
    assert [tuple(example["target"]) for example in made] == wanted
    (piped,) = tokenize(task(label_separator="|"), tokenizer, "sad | slow")
    assert task().truth({}, piped["target"]) == ["sad", "slow"]
    assert read_labels(b"a,b", ",") == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (None, "is null"),
        (["sad", "angry"], "has the label 'angry', which was never declared"),
        ([7], "the label 7"),
        ({"sad": 1}, "holds {'sad': 1}"),
        ([None], "the label None"),
        (0.5, "holds 0.5"),
    ],
)
def test_what_is_wrong_with_the_labels_is_said(tokenizer, labels, problem):
    (made,) = tokenize(task(), tokenizer, labels)
    assert isinstance(made, DataError)
    assert "films.jsonl:1: column 'label'" in str(made)
    assert problem in str(made)


def test_labels_come_from_the_training_rows():
    found = task(labels=()).resolve_labels([["b", "a"], [], "c,a", None])
    assert found.labels == ("a", "b", "c")
    assert task(labels=()).resolve_labels([[0, 2]], (), NAMES).labels == NAMES
    with pytest.raises(DataError, match="have 1 different labels"):
        task(labels=()).resolve_labels([["a"], ["a"], []])
    with pytest.raises(DataError, match="no training row has one of the labels funny, sad, slow"):
        task().resolve_labels([["angry"], []])


def test_balanced_weights_are_negatives_over_positives():
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [1, 0, 1]])
    balanced = task(class_weights="balanced").with_class_weights(targets)
    assert balanced.class_weights == (1.0, 1.0, 1.0)
    assert task(class_weights="balanced").with_class_weights(targets[:3]).class_weights == (2.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="with_class_weights"):
        task(class_weights="balanced").loss(
            jnp.zeros((1, 1, 3)), {"targets": jnp.zeros((1, 1, 3), int), "weights": jnp.ones((1, 1))}
        )


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1},
        {"class_weights": (1.0, 2.0)},
        {"class_weights": (1.0, 2.0, 0.0)},
        {"labels": ("a",)},
        {"labels": ("a", "a")},
        {"label_separator": " "},
    ],
)
def test_options_that_cannot_be(options):
    with pytest.raises(ConfigError):
        task(**options)


def test_the_scores_of_the_texts_add_up_to_the_metrics():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 2, (40, 3)), rng.integers(0, 2, (40, 3))
    wanted = task().metrics(logits, targets)
    rows = [
        task().scores({}, [Piece({"target": target}, {"logits": row})])
        for row, target in zip(logits, targets)
    ]
    for metric in rows[0]:
        numbers = np.array([row[metric] for row in rows], np.float64)
        value = numbers[:, 0].sum() / numbers[:, 1].sum() if numbers.ndim == 2 else numbers.mean()
        assert value == pytest.approx(wanted[metric], abs=1e-12), metric
    assert set(task().metric_names) >= set(rows[0])


def test_read_says_what_is_above_one_half():
    answer = task().read(np.array([2.0, 0.0, 0.1]))
    assert answer["labels"] == ["funny", "slow"]
    assert answer["probabilities"]["sad"] == 0.5


def test_a_run_learns_reports_and_exports(tmp_path):
    rng = random.Random(0)
    words = {"warm": "kind", "dull": "slow", "grim": "dark"}
    rows = []
    for _ in range(240):
        chosen = [word for word in words if rng.random() < 0.4]
        text = rng.choices(PLAIN, k=4) + chosen
        rng.shuffle(text)
        rows.append({"text": " ".join(text), "labels": [words[word] for word in chosen]})
    path = tmp_path / "films.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = jaxtune.train(
        experiment(
            tmp_path,
            task="multi_label",
            model={"dropout": 0.0},
            data={"train": f"jsonl:{path}", "label": "labels"},
            train={"epochs": 8, "batch_size": 16, "class_weights": "balanced"},
        )
    )
    results = run.results
    assert results["metric"] == "f1_micro"
    assert results["splits"]["test"]["f1_micro"] > 0.9
    answer = run.predict(["the warm film was grim"])[0]
    assert answer["labels"] == ["dark", "kind"]
    report = (tmp_path / "runs" / "run" / "report.md").read_text()
    assert re.search(r"\| slow +\|", report)
    assert report.startswith("# run\n\nMulti label of")
    assert "confusion" not in report
    run.export(str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "dark", "1": "kind", "2": "slow"}
    again = jaxtune.load_pretrained(tmp_path / "out", head="auto")
    assert (again.head, again.labels) == ("classification", ("dark", "kind", "slow"))
    line = json.loads((tmp_path / "runs" / "run" / "predictions.jsonl").read_text().split("\n")[0])
    assert isinstance(line["target"], list)
    assert line["scores"]["f1_micro"]
