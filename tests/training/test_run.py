"""Whole runs on a two-layer BERT: learn, resume, evaluate, predict, export, and stop for good reasons."""

import dataclasses
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest

import jaxtune
from jaxtune.config import dump_yaml
from jaxtune.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    RunError,
    SourceError,
    WeightsError,
)
from jaxtune.training.train import train
from jaxtune.training.window import TIMES
from tests import tiny
from tests.tiny import without_times


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def finished(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXTUNE_CACHE", str(folder / "cache"))
        return train(tiny.experiment(folder, name="finished"), quiet=True)


def test_it_learns(finished):
    assert finished.results["splits"]["test"]["accuracy"] > 0.9
    losses = [row["loss"] for row in finished.metrics if row["split"] == "train"]
    assert losses[-1] < 0.5 * losses[0]


def test_the_run_directory_holds_all_that_is_promised(finished, folder):
    run = folder / "runs" / "finished"
    for name in (
        "config.yaml",
        "provenance.json",
        "metrics.jsonl",
        "results.json",
        "predictions.jsonl",
        "report.md",
        "learning_curve.png",
        "confusion_matrix.png",
        "best/model.safetensors",
        "best/config.json",
        "best/tokenizer.json",
        "base/config.json",
    ):
        assert (run / name).stat().st_size > 0, name
    assert list((run / "tensorboard").iterdir())
    line = next(row for row in finished.metrics if row["split"] == "train")
    assert line.keys() >= {"step", "epoch", "loss", "learning_rate", "grad_norm", "padding_share", *TIMES} - {
        "seconds"
    }
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["versions"]["jax"]
    assert provenance["data"].keys() == {"train", "validation", "test"}
    assert provenance["precision"] == "as configured"


def test_the_saved_config_repeats_the_run(finished, folder):
    saved = finished.config
    again = train(dataclasses.replace(saved, name="again"), quiet=True)
    assert without_times(again.metrics) == without_times(finished.metrics)
    assert again.results == finished.results


def test_a_finished_run_is_returned_as_it_is(finished, folder):
    before = (folder / "runs/finished/metrics.jsonl").stat().st_mtime_ns
    assert train(tiny.experiment(folder, name="finished"), quiet=True).results == finished.results
    assert (folder / "runs/finished/metrics.jsonl").stat().st_mtime_ns == before


def test_every_example_of_the_test_split_is_predicted_once(finished, folder):
    rows = [json.loads(line) for line in (folder / "runs/finished/predictions.jsonl").open()]
    metrics = finished.results["splits"]["test"]
    assert [row["id"] for row in rows] == list(range(sum(metrics["support"])))
    right = sum(row["label"] == row["target"] for row in rows)
    assert right / len(rows) == pytest.approx(metrics["accuracy"])


def test_evaluate_gives_the_results_again(finished, folder):
    run = jaxtune.open_run(str(folder / "runs/finished"))
    for split in ("validation", "test"):
        again, first = run.evaluate(split), finished.results["splits"][split]
        assert again["accuracy"] == first["accuracy"]
        assert again["loss"] == pytest.approx(first["loss"], abs=1e-6)
    with pytest.raises(DataError, match="no split 'dev'; it has: train, validation, test"):
        run.evaluate("dev")


def test_predictions_agree_with_the_exported_folder(finished, folder, tmp_path):
    texts = [
        "a warm funny gripping film with lovely bright music",
        "dull cold tedious grim plot",
        "the plot was very tedious bland hollow and the music cold lazy clumsy",
    ]
    answers = finished.predict(texts)
    assert [a["label"] for a in answers] == ["good", "bad", "bad"]
    finished.export(str(tmp_path / "out"))
    lm = jaxtune.load_pretrained(tmp_path / "out", "auto")
    assert (lm.head, lm.labels) == ("classification", ("bad", "good"))
    inputs = lm.tokenizer(texts, padding=True, return_tensors="np")
    logits = np.asarray(lm(inputs["input_ids"], inputs["attention_mask"]))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose([a["probabilities"]["good"] for a in answers], probabilities[:, 1], atol=1e-5)


def test_a_run_is_a_checkpoint_source(finished, folder):
    lm = jaxtune.load_pretrained(folder / "runs/finished", "auto")
    assert lm.labels == ("bad", "good")


def test_regression(folder):
    run = train(tiny.experiment(folder, name="stars", task="regression", data={"label": "stars"}), quiet=True)
    assert run.results["splits"]["test"]["pearson"] > 0.9
    high, low = (answer["value"] for answer in run.predict(["superb and tender", "bland and grim"]))
    assert high > 1 > low


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"batching": "bucketed"}},
        {"data": {"batching": "padded"}},
        {"train": {"accumulate": 2}, "mesh": {"devices": 4}, "data": {"rows": 8}},
        {"mesh": {"devices": 4, "mode": "pmap"}, "data": {"rows": 8}},
        {
            "mesh": {"devices": 8, "fsdp": 2, "tensor": 2, "sequence": 2},
            "data": {"rows": 8, "row_length": 64},
        },
        {"model": {"scan_layers": True, "remat": "full"}},
        {"optim": {"name": "adafactor", "learning_rate": 3e-2}, "model": {"scan_layers": True}},
        {"optim": {"name": "lion", "learning_rate": 1e-3}},
        {"optim": {"name": "sgd", "learning_rate": 0.1, "l1": 1e-5}},
        {"train": {"class_weights": "balanced", "label_smoothing": 0.1}},
    ],
    ids=lambda c: "-".join(f"{k}={v}" for s in c.values() for k, v in s.items()),
)
def test_every_way_to_train_learns(folder, changes, request):
    # Plain SGD needs more steps than Adam to leave the plateau; every other way gets two epochs.
    epochs = 12 if changes.get("optim", {}).get("name") == "sgd" else 3
    changes = {**changes, "train": {"epochs": epochs, **changes.get("train", {})}}
    run = train(tiny.experiment(folder, name=request.node.callspec.id[:60], **changes), quiet=True)
    assert run.results["splits"]["validation"]["accuracy"] > 0.85


def test_early_stopping_keeps_the_best(folder):
    changes = {"train": {"epochs": 30, "patience": 2, "eval_every": 5}, "optim": {"learning_rate": 1e-2}}
    run = train(tiny.experiment(folder, name="patient", **changes), quiet=True)
    rows = [row for row in run.metrics if row["split"] == "validation"]
    best = max(rows, key=lambda row: (row["accuracy"], -row["step"]))
    assert run.results["stopped"]
    assert run.results["step"] == best["step"]
    assert rows[-1]["step"] == best["step"] + 10
    assert run.results["splits"]["validation"]["accuracy"] == best["accuracy"]


def test_an_exploding_run_stops_with_step_loss_and_last_good_checkpoint(folder):
    changes = {"optim": {"learning_rate": 1e30, "clip_norm": None, "warmup": 6}, "train": {"save_every": 2}}
    exploding = tiny.experiment(folder, name="explodes", **changes)
    with pytest.raises(NonFiniteError, match=r"step \d+: loss .*the last good checkpoint is step 2"):
        train(exploding, quiet=True)
    skipping = {**changes, "train": {"save_every": 2, "nonfinite": "skip"}}
    with pytest.raises(NonFiniteError, match="not finite"):  # ten in a row are no accident
        train(tiny.experiment(folder, name="explodes-on", **skipping), quiet=True)


def test_another_configuration_in_the_same_directory_is_refused(finished, folder):
    with pytest.raises(RunError, match=r"optim\.learning_rate: saved 0\.003, now 0\.1"):
        train(tiny.experiment(folder, name="finished", optim={"learning_rate": 0.1}), quiet=True)


def test_never_and_overwrite(folder):
    first = tiny.experiment(folder, name="twice", train={"steps": 2})
    train(first, quiet=True)
    with pytest.raises(RunError, match="--overwrite"):
        train(dataclasses.replace(first, resume="never"), quiet=True)
    other = tiny.experiment(folder, name="twice", train={"steps": 3}, resume="never", overwrite=True)
    assert train(other, quiet=True).results["steps"] == 3
    with pytest.raises(RunError, match="no checkpoint"):
        train(tiny.experiment(folder, name="new", resume="must"), quiet=True)


def test_changed_data_is_noticed_on_resume(folder, tmp_path):
    data = tiny.write_reviews(tmp_path / "reviews.jsonl")
    changes = {"data": {"train": f"jsonl:{data}"}, "train": {"steps": 4, "save_every": 2}}
    experiment = tiny.experiment(folder, name="changed", **changes)
    train(experiment, quiet=True)
    (folder / "runs/changed/results.json").unlink()
    tiny.write_reviews(data, seed=1)
    with pytest.raises(RunError, match="the data of train and validation and test changed"):
        train(experiment, quiet=True)


def test_a_damaged_checkpoint_is_passed_over(folder, caplog):
    experiment = tiny.experiment(folder, name="damaged", train={"steps": 6, "save_every": 2})
    first = train(experiment, quiet=True)
    expected, metrics = first.results, without_times(first.metrics)
    run = folder / "runs/damaged"
    (run / "results.json").unlink()
    newest = run / "checkpoints" / "6"
    target = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    again = train(experiment, quiet=True)
    assert target.name in caplog.text
    assert again.results == expected
    assert without_times(again.metrics) == metrics
    assert (run / "checkpoints").exists()
    assert any(p.name.startswith("damaged-6") for p in (run / "checkpoints").iterdir())


# ------------------------------------------------------------------------------------------------
# Bad input: a clear error before anything is compiled
# ------------------------------------------------------------------------------------------------


def fails(folder, error, said, name="bad", **changes):
    with pytest.raises(error, match=said):
        train(tiny.experiment(folder, name=name, **changes), quiet=True)


def test_sources_that_are_not_there(folder):
    fails(folder, ConfigError, r"model\.source", model={"source": ""}, name="no-model")
    fails(folder, SourceError, "no file or folder", model={"source": "/no/such/folder"}, name="no-folder")
    fails(folder, (DataError, SourceError), "nothing.csv", data={"train": "csv:nothing.csv"}, name="no-data")


def test_a_checkpoint_of_another_architecture(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    fails(folder, WeightsError, "supported: .*bert", model={"source": str(tmp_path)}, name="resnet")


def test_texts_longer_than_the_model(folder):
    fails(folder, ConfigError, r"positions for 48 tokens", data={"max_length": 64}, name="long")


def test_a_batch_that_does_not_divide(folder):
    changes = {"data": {"batching": "padded"}, "train": {"batch_size": 10}, "mesh": {"devices": 4}}
    fails(folder, ConfigError, "use 8 or 12 rows", name="divide", **changes)


def test_an_unknown_metric(folder):
    fails(folder, ConfigError, "bleu.*accuracy", train={"best_metric": "bleu"}, name="metric")


def test_a_single_class(folder, tmp_path):
    rows = [{"text": f"film {i}", "label": "good"} for i in range(50)]
    path = tmp_path / "one.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fails(folder, DataError, "good", data={"train": f"jsonl:{path}"}, name="single")


def test_an_undeclared_label(folder, tmp_path):
    rows = [tiny.review(random.Random(i)) for i in range(100)]
    rows[50]["label"] = "undecided"
    path = tmp_path / "three.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": f"jsonl:{path}", "labels": ("bad", "good")}
    fails(folder, DataError, r"three\.jsonl:51: .*'undecided'", data=data, name="undeclared")
    data = {"labels": ("bad", "fine")}
    fails(folder, DataError, "never declared, as 'good'", data=data, name="wrong-labels")


def test_fewer_rows_than_a_batch_still_train(folder, tmp_path):
    data = tiny.write_reviews(tmp_path / "few.jsonl", rows=60)
    changes = {"data": {"train": f"jsonl:{data}"}, "train": {"batch_size": 128, "epochs": 2}}
    run = train(tiny.experiment(folder, name="few", **changes), quiet=True)
    assert run.results["steps"] == 2


def test_skipped_rows_are_counted_and_listed(folder, tmp_path):
    data = tiny.write_reviews(tmp_path / "some-bad.jsonl")
    lines = data.read_text().splitlines()
    lines[10:10] = [
        "{oops",
        json.dumps({"text": None, "label": "good"}),
        json.dumps({"text": " ", "label": "bad"}),
    ]
    data.write_text("\n".join(lines) + "\n")
    stop = {"data": {"train": f"jsonl:{data}"}, "train": {"steps": 2}}
    fails(folder, DataError, r"some-bad\.jsonl:1[123]: ", name="stops", **stop)
    skip = {"data": {"train": f"jsonl:{data}", "on_error": "skip"}, "train": {"steps": 2}}
    train(tiny.experiment(folder, name="skips", **skip), quiet=True)
    report = (folder / "runs/skips/report.md").read_text()
    assert "Skipped rows (3)" in report
    assert "some-bad.jsonl:11" in report


def test_mistakes_are_found_before_a_device_is_touched(folder, tmp_path):
    """With no usable backend at all, a wrong data file is still what the user hears of."""
    experiment = tiny.experiment(folder, name="early", data={"train": "jsonl:nothing-here.jsonl"})
    (tmp_path / "config.yaml").write_text(dump_yaml(experiment))
    command = [sys.executable, "-m", "jaxtune.cli", "train", "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nothing-here.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
