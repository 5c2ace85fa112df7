"""Provenance: what made a run, with one entry per start."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxtune import files
from jaxtune.errors import RunError
from jaxtune.persistence.provenance import collect_provenance, git_state, write_provenance


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


def read(run: str) -> dict[str, Any]:
    return json.loads(files.read_text(files.join(run, "provenance.json")))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/jaxtune", "train", "--name", "my run"])
    entry = collect_provenance({"train": "abc"}, {"precision": "float32"})
    assert json.loads(json.dumps(entry)) == entry
    assert entry["command"] == "jaxtune train --name 'my run'"
    assert entry["data"] == {"train": "abc"}
    assert entry["precision"] == "float32"
    assert entry["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert entry["versions"]["jax"] == version("jax")
    assert set(entry["versions"]) >= {
        "jaxtune",
        "jaxlib",
        "flax",
        "optax",
        "orbax",
        "numpy",
        "transformers",
        "grain",
        "tfds",
    }
    machine = entry["machine"]
    assert (machine["platform"], machine["devices"]) == ("cpu", jax.device_count())
    assert machine["processes"] == 1
    assert machine["cores"] >= 1
    assert machine["cpu"]
    assert entry["time"].endswith("+00:00")


def test_one_entry_per_start(run: str) -> None:
    write_provenance(run, {"time": "one"})
    assert read(run) == {"time": "one", "resumed": []}
    write_provenance(run, {"time": "two"}, resumed_step=20)
    write_provenance(run, {"time": "three"}, resumed_step=40)
    assert read(run) == {
        "time": "one",
        "resumed": [{"step": 20, "time": "two"}, {"step": 40, "time": "three"}],
    }
    write_provenance(run, {"time": "anew"})
    assert read(run) == {"time": "anew", "resumed": []}


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_file_stops_no_run(run: str, content: str) -> None:
    files.write_text(files.join(run, "provenance.json"), content)
    write_provenance(run, {"time": "two"}, resumed_step=20)
    assert read(run)["resumed"] == [{"step": 20, "time": "two"}]


def test_git_commit_and_uncommitted_changes(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git(checkout, "init")
    assert git_state(checkout) is None
    (checkout / "a.txt").write_text("a")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "a")
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "untracked.txt").write_text("mine")
    assert git_state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "a.txt").write_text("b")
    assert git_state(checkout) == {"commit": commit, "dirty": True}


def test_no_commit_of_a_checkout_that_does_not_track_the_folder(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "a")
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    assert git_state(installed) is None


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) is None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"provenance\.json cannot be written: Not a directory"):
        write_provenance(str(tmp_path / "file" / "run"), {})
