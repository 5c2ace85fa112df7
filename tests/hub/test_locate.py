from __future__ import annotations

import json
import uuid

import pytest

from jaxtune import files
from jaxtune.errors import SourceError
from jaxtune.hub.fetching.locate import locate


@pytest.fixture
def bucket():
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    files.remove(url)


def test_files_and_folders_are_themselves(tmp_path):
    (tmp_path / "f").write_text("")
    assert locate(str(tmp_path)) == tmp_path
    assert locate(f"file://{tmp_path}/f") == tmp_path / "f"


@pytest.mark.parametrize(
    "source", ["missing.csv", "data/missing.jsonl", "./folder", "/no/such/folder", "a/b/c"]
)
def test_a_missing_path_is_not_looked_for_elsewhere(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("")
    with pytest.raises(SourceError, match="there is no file or folder") as caught:
        locate(source)
    if source == "missing.csv":
        assert "there.csv" in str(caught.value)


def test_no_source(tmp_path):
    with pytest.raises(SourceError, match="no source given"):
        locate("")


def make_run(folder, best=True):
    files.write_text(files.join(folder, "config.yaml"), "version: 1\n")
    files.write_text(files.join(folder, "checkpoints", "3", "x"), "")
    if best:
        files.write_text(files.join(folder, "best", "config.json"), json.dumps({"run": True}))


def test_a_run_stands_for_its_best_model(tmp_path):
    make_run(str(tmp_path / "run"))
    assert locate(str(tmp_path / "run")) == tmp_path / "run" / "best"


def test_a_run_without_best_model_says_what_to_do(tmp_path):
    make_run(str(tmp_path / "run"), best=False)
    with pytest.raises(SourceError, match="first evaluation"):
        locate(str(tmp_path / "run"))


def test_a_remote_run_stands_for_its_best_model(bucket):
    make_run(bucket)
    assert [p.name for p in locate(bucket, checkpoint=True).iterdir()] == ["config.json"]


def test_a_remote_run_without_best_model(bucket):
    make_run(bucket, best=False)
    with pytest.raises(SourceError, match="evaluation"):
        locate(bucket)


def test_a_remote_checkpoint_comes_without_pickles_and_subfolders(bucket):
    for name in ("config.json", "pytorch_model.bin", "onnx/model.onnx"):
        files.write_text(files.join(bucket, name), name)
    assert [p.name for p in locate(bucket, checkpoint=True).iterdir()] == ["config.json"]


def test_a_remote_folder_is_copied_whole_and_again_when_it_changed(bucket):
    files.write_text(files.join(bucket, "a/b.csv"), "one")
    folder = locate(bucket)
    assert (folder / "a" / "b.csv").read_text() == "one"
    files.write_text(files.join(bucket, "a/b.csv"), "two")
    assert (locate(bucket) / "a" / "b.csv").read_text() == "two"


def test_a_remote_file(bucket):
    files.write_text(files.join(bucket, "b.csv"), "one")
    path = locate(files.join(bucket, "b.csv"))
    assert (path.name, path.read_text()) == ("b.csv", "one")


def test_nothing_there_remotely(bucket):
    with pytest.raises(SourceError, match="no file or folder memory://"):
        locate(files.join(bucket, "none"))


def test_an_unknown_protocol():
    with pytest.raises(SourceError, match="nosuch"):
        locate("nosuch://x/y")
