"""Run directories: when one is made, gone on with, replaced, or left alone."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxtune import files
from jaxtune.config import Experiment, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jaxtune.errors import ConfigError, RunError
from jaxtune.persistence.run_directory import MARKER, RunDirectory, differences, locked


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "local" else f"memory://{uuid.uuid4().hex}/runs"


def experiment(output: str, **changes: Any) -> Experiment:
    return Experiment(name="reviews", output=output, **changes)


def snapshot(path: str) -> dict[str, bytes]:
    return {name: files.read_bytes(files.join(path, name)) for name in files.walk(path)}


def used(output: str, **changes: Any) -> RunDirectory:
    """A run with a checkpoint, some results, and a note of the user's."""
    run, _ = RunDirectory.open(experiment(output, **changes))
    for name in (
        "checkpoints/10/manifest.json",
        "metrics.jsonl",
        "predictions.jsonl",
        "best/config.json",
        "base/config.json",
        "results.json",
        "notes.md",
    ):
        files.write_text(run.file(name), name)
    return run


def test_a_new_run(output: str) -> None:
    asked = experiment(output, optim=OptimConfig(learning_rate=3e-5))
    run, taken = RunDirectory.open(asked)
    assert run.path == files.join(output, "reviews")
    assert taken == asked
    assert run.experiment() == asked
    assert files.read_text(run.config).startswith(MARKER)
    assert not run.has_checkpoints()
    assert RunDirectory.existing(run.path) == run


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    (tmp_path / "reviews" / ".config.yaml.123-0a1b2c3d.tmp").write_text("left by a kill")
    run, _ = RunDirectory.open(experiment(str(tmp_path), resume="never"))
    assert files.list_dir(run.path) == ["config.yaml"]


def test_going_on(output: str) -> None:
    run = used(output)
    before = snapshot(run.path)
    for resume in ("auto", "must"):
        again, taken = RunDirectory.open(experiment(output, resume=resume))
        assert again == run
        assert taken == experiment(output, resume=resume)
        assert again.has_checkpoints()
        after = snapshot(run.path)
        del after["config.yaml"]
        assert after == {name: data for name, data in before.items() if name != "config.yaml"}


def test_free_fields_are_taken_over_and_saved(output: str) -> None:
    used(output, train=TrainConfig(keep=2))
    asked = experiment(output, train=TrainConfig(keep=5), mesh=MeshConfig(data=4))
    run, taken = RunDirectory.open(asked)
    assert taken == asked
    assert run.experiment() == asked


def test_what_auto_chose_at_the_first_start_is_kept(output: str) -> None:
    run, taken = RunDirectory.open(experiment(output))
    chosen = dataclasses.replace(taken, model=dataclasses.replace(taken.model, precision="bfloat16"))
    run.save_config(chosen)
    files.write_text(files.join(run.checkpoints, "5", "record.json"), "{}")
    _, taken = RunDirectory.open(experiment(output))
    assert taken == chosen
    assert run.experiment() == chosen
    with pytest.raises(RunError, match=r"model\.precision: saved 'bfloat16', now 'float32'"):
        RunDirectory.open(experiment(output, model=ModelConfig(precision="float32")))


def test_before_the_first_checkpoint_the_configuration_may_still_change(output: str) -> None:
    RunDirectory.open(experiment(output))
    corrected = experiment(output, optim=OptimConfig(learning_rate=3e-5))
    run, taken = RunDirectory.open(corrected)
    assert taken == run.experiment() == corrected


def test_a_run_is_locked_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXTUNE_CACHE", str(tmp_path / "cache"))
    path = str(tmp_path / "runs" / "reviews")
    code = f"from jaxtune.persistence.run_directory import locked\nwith locked({path!r}): print('in')"

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    with locked(path):
        refused = other()
    assert "another process is training in" in refused.stderr
    assert refused.returncode != 0
    assert other().stdout == "in\n"
    assert not Path(path).exists()


def test_another_configuration_is_named_field_by_field(output: str) -> None:
    run = used(output)
    before = snapshot(run.path)
    other = experiment(
        output,
        optim=OptimConfig(learning_rate=3e-5, clip_norm=None),
        train=TrainConfig(class_weights=(1.0, 2.0), keep=9),
    )
    with pytest.raises(RunError) as caught:
        RunDirectory.open(other)
    message = str(caught.value)
    assert f"{run.path} was started with another configuration" in message
    assert "optim.learning_rate: saved 5e-05, now 3e-05" in message
    assert "optim.clip_norm: saved 1.0, now None" in message
    assert "train.class_weights: saved None, now [1.0, 2.0]" in message
    assert "train.keep" not in message
    assert "--name" in message
    assert snapshot(run.path) == before


def test_which_fields_are_free_is_the_callers_choice(output: str) -> None:
    used(output)
    longer = experiment(output, train=TrainConfig(epochs=5))
    with pytest.raises(RunError, match=r"train\.epochs: saved 3\.0, now 5"):
        RunDirectory.open(longer)
    _, taken = RunDirectory.open(longer, free={"train"})
    assert taken.train.epochs == 5


def test_differences_names_missing_fields() -> None:
    saved, new = {"a": {"b": 1, "old": 2}}, {"a": {"b": 1, "new": 3}}
    assert differences(saved, new, ()) == [
        "a.old: saved 2, now (no such field)",
        "a.new: saved (no such field), now 3",
    ]
    assert differences(saved, new, {"a"}) == []
    assert differences(saved, new, {"a.old", "a.new"}) == []


def test_never_refuses_an_existing_run(output: str) -> None:
    run = used(output)
    before = snapshot(run.path)
    with pytest.raises(RunError, match=r"holds a run already.*--resume never --overwrite"):
        RunDirectory.open(experiment(output, resume="never"))
    assert snapshot(run.path) == before


def test_overwrite_replaces_the_run_and_nothing_else(output: str) -> None:
    used(output)
    asked = experiment(output, resume="never", overwrite=True, optim=OptimConfig(learning_rate=1e-5))
    run, taken = RunDirectory.open(asked)
    assert taken == asked
    assert snapshot(run.path) == {
        "config.yaml": files.read_bytes(run.config),
        "notes.md": b"notes.md",
    }
    assert run.experiment() == asked


def test_overwrite_needs_never(output: str) -> None:
    used(output)
    with pytest.raises(RunError, match=r"--overwrite .*needs --resume never"):
        RunDirectory.open(experiment(output, overwrite=True))


@pytest.mark.parametrize("resume", ["auto", "never", "must"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml"])
def test_a_foreign_folder_is_never_touched(output: str, resume: Any, overwrite: bool, name: str) -> None:
    folder = files.join(output, "reviews")
    files.write_text(files.join(folder, name), "task: classification\n")
    with pytest.raises(RunError):
        RunDirectory.open(experiment(output, resume=resume, overwrite=overwrite))
    assert snapshot(folder) == {name: b"task: classification\n"}
    with pytest.raises(RunError, match="not a jaxtune run"):
        RunDirectory.existing(folder)


def test_a_foreign_folder_is_named(output: str) -> None:
    files.write_text(files.join(output, "reviews", "thesis.tex"), "")
    with pytest.raises(RunError, match=r"is not a jaxtune run \(thesis\.tex is in it.*Choose another --name"):
        RunDirectory.open(experiment(output))


def test_a_file_in_the_place_of_the_run(output: str) -> None:
    files.write_text(files.join(output, "reviews"), "")
    with pytest.raises(RunError, match="is a file"):
        RunDirectory.open(experiment(output))


def test_must_needs_a_checkpoint(output: str) -> None:
    for _ in range(2):
        with pytest.raises(RunError, match="no checkpoint to resume from"):
            RunDirectory.open(experiment(output, resume="must"))
        RunDirectory.open(experiment(output))


def test_a_config_of_a_newer_version(output: str) -> None:
    run = used(output)
    newer = files.read_text(run.config).replace("version: 1", "version: 99") + "quantum: true\n"
    files.write_text(run.config, newer)
    with pytest.raises(ConfigError, match="version 99 was written by a newer jaxtune"):
        RunDirectory.open(experiment(output))
    with pytest.raises(ConfigError, match="newer jaxtune"):
        run.experiment()
    assert files.read_text(run.config) == newer


def test_no_such_run(output: str) -> None:
    with pytest.raises(RunError, match="no such run directory"):
        RunDirectory.existing(files.join(output, "none"))


def test_below_a_file_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"config\.yaml cannot be written: Not a directory"):
        RunDirectory.open(experiment(str(tmp_path / "file")))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a used run in which nothing can be written, not even by root."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        used(str(place))
        folders = [place, place / "reviews"]
        for folder in folders:
            folder.chmod(0o555)
        yield place
        for folder in folders:
            folder.chmod(0o755)
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        used(str(place))
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_directory(read_only: Path) -> None:
    for name, changes in [
        ("new", {}),
        ("reviews", {}),
        ("reviews", {"resume": "never", "overwrite": True}),
    ]:
        asked = dataclasses.replace(experiment(str(read_only), **changes), name=name)
        with pytest.raises(
            RunError, match=rf"disk/{name}.* cannot be (written|overwritten): (Read-only|Permission)"
        ):
            RunDirectory.open(asked)
    assert RunDirectory.existing(str(read_only / "reviews")).has_checkpoints()
