"""A whole run in a remote directory: fsspec's ``memory://``, with a stand-in for Orbax's arrays, which it cannot hold."""

import dataclasses
import json
from functools import partial

import fsspec
import pytest

import jaxtune
from jaxtune import files
from jaxtune.config import load_yaml
from jaxtune.errors import RunError, SourceError
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.training import run as run_module
from jaxtune.training import train as train_module
from jaxtune.training.train import train
from tests import tiny
from tests.persistence.checkpoint_helpers import NumpyArrays
from tests.tiny import without_times

TRAIN = {"steps": 8, "save_every": 2, "eval_every": 4, "log_every": 2}


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """Patched for the whole module, so that one run serves all tests."""
    fsspec.filesystem("memory").store.clear()
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("remote")
        patch.setenv("JAXTUNE_CACHE", str(folder / "cache"))
        for module in (train_module, run_module):
            patch.setattr(module, "Checkpoints", lambda *a, **k: Checkpoints(*a, **k, arrays=NumpyArrays()))
        yield partial(tiny.experiment, folder, output="memory://bucket/runs", train=TRAIN)
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def finished(remote):
    return train(remote(name="finished"), quiet=True)


def test_everything_lies_in_the_remote_directory(finished):
    assert finished.path == "memory://bucket/runs/finished"
    names = files.walk(finished.path)
    for name in (
        "config.yaml",
        "provenance.json",
        "metrics.jsonl",
        "results.json",
        "predictions.jsonl",
        "report.md",
        "learning_curve.png",
        "confusion_matrix.png",
        "base/config.json",
        "base/tokenizer.json",
        "best/config.json",
        "best/model.safetensors",
        "best/tokenizer.json",
        "checkpoints/8/manifest.json",
        "checkpoints/8/record.json",
    ):
        assert name in names, name
        assert files.size(files.join(finished.path, name)) > 0, name
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not [name for name in names if name.endswith(("unfinished", ".tmp"))]


def test_the_files_can_be_read_back(finished):
    assert load_yaml(files.read_text(files.join(finished.path, "config.yaml"))) == finished.config
    assert [row["step"] for row in finished.metrics if row["split"] == "train"] == [2, 4, 6, 8]
    rows = [
        json.loads(x) for x in files.read_text(files.join(finished.path, "predictions.jsonl")).splitlines()
    ]
    assert len(rows) == sum(finished.results["splits"]["test"]["support"])
    report = files.read_text(files.join(finished.path, "report.md"))
    assert "learning_curve.png" in report
    assert files.read_bytes(files.join(finished.path, "learning_curve.png")).startswith(b"\x89PNG")
    manifest = files.read_text(files.join(finished.path, "checkpoints/8/manifest.json"))
    assert "size:" in manifest  # what the store says; nothing is downloaded to be verified
    assert "sha256:" not in manifest.partition('"files"')[2].partition("}")[0]


def test_the_same_numbers_as_in_a_local_directory(remote, finished, tmp_path):
    local = train(remote(name="finished", output=str(tmp_path / "runs")), quiet=True)
    assert local.results == finished.results
    assert without_times(local.metrics) == without_times(finished.metrics)


def test_it_resumes_and_ends_as_if_it_had_not_been_stopped(remote, finished):
    first = train(remote(name="stopped"), quiet=True)
    # As after a kill between the save of step 6 and the end: later steps and results are not there yet.
    for name in ("results.json", "best", "report.md", "predictions.jsonl", "checkpoints/8"):
        files.remove(files.join(first.path, name))
    again = train(remote(name="stopped"), quiet=True)
    assert again.results == finished.results
    assert without_times(again.metrics) == without_times(finished.metrics)
    provenance = json.loads(files.read_text(files.join(again.path, "provenance.json")))
    assert "6" in json.dumps(provenance)


def test_a_damaged_remote_step_is_passed_over(remote, finished, caplog):
    first = train(remote(name="damaged"), quiet=True)
    files.remove(files.join(first.path, "results.json"))
    files.write_bytes(files.join(first.path, "checkpoints/8/state/arrays.npz"), b"short")
    again = train(remote(name="damaged"), quiet=True)
    assert "arrays.npz" in caplog.text
    assert again.results == finished.results
    assert "damaged-8" in files.list_dir(files.join(first.path, "checkpoints"))


def test_a_finished_remote_run_serves(finished, tmp_path):
    run = jaxtune.open_run(finished.path)
    assert run.describe()["state"] == "finished"
    assert run.evaluate("test")["accuracy"] == run.results["splits"]["test"]["accuracy"]
    assert run.predict(["a warm film"])[0]["label"] in ("good", "bad")
    rows = tiny.write_reviews(tmp_path / "rows.jsonl", rows=3)
    files.write_bytes("memory://bucket/data/rows.jsonl", rows.read_bytes())
    assert len(run.predict_file("memory://bucket/data/rows.jsonl")) == 3
    for target in (str(tmp_path / "local"), "memory://bucket/exported"):
        run.export(target)
        assert jaxtune.load_pretrained(target, "auto").labels == ("bad", "good")
        with pytest.raises(RunError, match="--overwrite"):
            run.export(target)
        run.export(target, overwrite=True)
    assert jaxtune.load_pretrained(finished.path, "auto").labels == ("bad", "good")


def test_rules_of_the_directory_hold_remotely(remote, finished):
    with pytest.raises(RunError, match="--overwrite"):
        train(remote(name="finished", resume="never"), quiet=True)
    with pytest.raises(RunError, match="was started with another configuration"):
        train(remote(name="finished", optim={"learning_rate": 1.0}), quiet=True)
    files.write_text("memory://bucket/runs/theirs/thesis.tex", "mine")
    with pytest.raises(RunError, match="is not a jaxtune run"):
        train(remote(name="theirs"), quiet=True)
    assert files.walk("memory://bucket/runs/theirs") == ["thesis.tex"]
    with pytest.raises(RunError, match="no such run"):
        jaxtune.open_run("memory://bucket/runs/nothing")
    with pytest.raises(SourceError, match="no file or folder memory://bucket/none"):
        jaxtune.load_pretrained("memory://bucket/none")


def test_overwriting_a_remote_run(remote, finished):
    short = remote(name="replaced", train={**TRAIN, "steps": 2})
    train(short, quiet=True)
    longer = dataclasses.replace(remote(name="replaced"), resume="never", overwrite=True)
    assert train(longer, quiet=True).results == finished.results
