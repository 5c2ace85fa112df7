"""Checkpoints under damage, full disks and kills: named, survived, nothing lost."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune import files
from jaxtune.errors import CheckpointError
from jaxtune.persistence.checkpoints import Checkpoints
from tests.persistence.checkpoint_helpers import NumpyArrays, abstract, assert_same, make_state, save_steps


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_steps(str(folder), [1, 2, 3], keep=3)
    return folder


# Damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damage_to_any_one_file_is_named_and_the_step_before_restored(
    three_steps: Path, tmp_path: Path, damage: Any
) -> None:
    names = files.walk(str(three_steps / "3"))
    assert "manifest.json" in names
    assert "record.json" in names
    assert any(name.startswith("state/") for name in names)
    for at, name in enumerate(names):
        folder = tmp_path / str(at)
        shutil.copytree(three_steps, folder)
        damage(folder / "3" / name)
        with Checkpoints(str(folder)) as checkpoints:
            restored = checkpoints.restore(abstract(make_state(0)))
            assert restored is not None
            assert restored.step == 2, name
            assert_same(restored.state, make_state(2))
            [problem] = restored.problems
            assert problem.startswith(f"{folder}/3: {name} "), problem
        assert (folder / "3").is_dir(), "a damaged step is not deleted"


def test_a_damaged_step_is_set_aside_when_it_is_written_again(three_steps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(three_steps, folder)
    for found_first in (True, False):
        flip(folder / "3" / "record.json")
        with Checkpoints(str(folder), keep=3) as checkpoints:
            if found_first:
                assert checkpoints.newest_sound() == 2
            checkpoints.save(3, make_state(3), {})
            restored = checkpoints.restore(abstract(make_state(0)))
            assert restored is not None
            assert restored.step == 3
            assert restored.problems == []
    assert files.list_dir(str(folder)) == ["1", "2", "3", "damaged-3", "damaged-3-1"]
    assert "state" in files.list_dir(str(folder / "damaged-3"))


def test_all_damaged_is_an_error_not_a_fresh_start(three_steps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(three_steps, folder)
    for step in "123":
        (folder / step / "manifest.json").unlink()
    with Checkpoints(str(folder)) as checkpoints, pytest.raises(CheckpointError) as caught:
        checkpoints.restore(abstract(make_state(0)))
    for step in "123":
        assert f"{folder}/{step}: manifest.json is missing" in str(caught.value)
    assert files.list_dir(str(folder)) == ["1", "2", "3"]


def test_a_damaged_step_that_was_asked_for_is_an_error(three_steps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(three_steps, folder)
    truncate(folder / "2" / "record.json")
    with (
        Checkpoints(str(folder)) as checkpoints,
        pytest.raises(CheckpointError, match=r"2: record\.json has"),
    ):
        checkpoints.restore(abstract(make_state(0)), step=2)


def half_write(three_steps: Path, folder: Path, stage: int) -> None:
    """What a kill leaves at one of the stages of a save of step 4."""
    shutil.copytree(three_steps, folder)
    (folder / "4").mkdir()
    if stage == 0:
        (folder / "4" / ".unfinished.123-0a1b2c3d.tmp").touch()
    if stage > 0:
        (folder / "4" / "unfinished").touch()
    if stage > 1:
        shutil.copytree(folder / "3" / "state", folder / "4" / "state.orbax-checkpoint-tmp")
        (folder / "4" / "state.orbax-checkpoint-tmp" / "commit_success.txt").unlink()
    if stage > 2:
        shutil.rmtree(folder / "4" / "state.orbax-checkpoint-tmp")
        shutil.copytree(folder / "3" / "state", folder / "4" / "state")
    if stage > 3:
        shutil.copy(folder / "3" / "record.json", folder / "4")


@pytest.mark.parametrize("stage", range(5))
def test_a_half_written_step_is_named_and_removed(three_steps: Path, tmp_path: Path, stage: int) -> None:
    folder = tmp_path / "c"
    half_write(three_steps, folder, stage)
    with Checkpoints(str(folder), writable=False) as reader:
        assert reader.newest_sound() == 3
    assert (folder / "4").is_dir(), "a reader cleans nothing"
    with Checkpoints(str(folder)) as checkpoints:
        restored = checkpoints.restore(abstract(make_state(0)))
    assert restored is not None
    assert restored.step == 3
    [problem] = restored.problems
    assert problem.startswith(f"{folder}/4: half-written")
    assert not (folder / "4").exists()


def test_a_removal_that_was_cut_off_is_finished(three_steps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(three_steps, folder)
    (folder / "1" / "unfinished").touch()
    (folder / "1" / "manifest.json").unlink()
    with Checkpoints(str(folder), writable=False) as reader:
        assert reader.newest_sound() == 3
        assert reader.steps() == [2, 3]
    with Checkpoints(str(folder)) as checkpoints:
        restored = checkpoints.restore(abstract(make_state(0)))
    assert restored is not None
    assert (restored.step, restored.problems) == (3, [])
    assert files.list_dir(str(folder)) == ["2", "3"]


def test_a_kill_between_manifest_and_last_clean_up_is_harmless(three_steps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(three_steps, folder)
    (folder / "3" / "unfinished").touch()
    with Checkpoints(str(folder)) as checkpoints:
        assert checkpoints.newest_sound() == 3


def test_only_half_written_steps_mean_nothing_was_saved(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0))) is None
    assert files.list_dir(str(tmp_path)) == []


# Full disks


# Of the writes that Orbax abandons after the first failure, some end when nobody waits any more;
# Python then says "Event loop is closed" from a place that nobody can catch.
abandons_writes = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)


@pytest.fixture
def collected() -> Iterator[None]:
    """Collects the abandoned writes at once, not in the middle of another test."""
    yield
    gc.collect()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, where we may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def error_of_saving(checkpoints: Checkpoints, step: int) -> str | None:
    try:
        checkpoints.save(step, make_state(step, 128), {})
        checkpoints.wait()
    except CheckpointError as error:
        return str(error)
    return None


@abandons_writes
@pytest.mark.usefixtures("collected")
def test_a_full_disk_at_any_moment_of_a_save(small_disk: Path) -> None:
    """The free space is lowered step by step, so that each part of a save is once the one that fails."""
    folder = small_disk / "checkpoints"
    like = abstract(make_state(0, 128))
    with Checkpoints(str(folder), keep=3) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step, 128), {})
        checkpoints.wait()
    failures = successes = 0
    filler = small_disk / "filler"
    for kilobytes in [0, 4, 8, 16, 40, 60, 80, 100, 120, 130, 136, 140, 144, 148, 152, 156, 160, 170, 200]:
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - kilobytes * 1024))
        with Checkpoints(str(folder), keep=3) as checkpoints:
            message = error_of_saving(checkpoints, 3)
            if message is None:
                successes += 1
            else:
                failures += 1
                assert message.startswith(f"step 3 could not be saved in {folder}/3 (")
                assert "MB free): No space left on device\nEarlier checkpoints are intact: 1, 2." in message
                assert not (folder / "3").exists(), kilobytes
                assert checkpoints.newest_sound() == 2
                restored = checkpoints.restore(like)
                assert restored is not None
                assert_same(restored.state, make_state(2, 128))
                # The same object saves again once there is room.
                filler.unlink()
                assert error_of_saving(checkpoints, 3) is None
        filler.unlink(missing_ok=True)
        shutil.rmtree(folder / "3")
    assert failures >= 5
    assert successes >= 1


@abandons_writes
@pytest.mark.usefixtures("collected")
def test_a_file_size_limit_stops_the_save(tmp_path: Path) -> None:
    """Stands for a full disk where nobody may mount one."""
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(1, make_state(1, 512), {})
        checkpoints.wait()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            with pytest.raises(CheckpointError, match="step 2 could not be saved"):  # noqa: PT012
                checkpoints.save(2, make_state(2, 512), {})
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not (tmp_path / "2").exists()
        restored = checkpoints.restore(abstract(make_state(1, 512)))
        assert restored is not None
        assert_same(restored.state, make_state(1, 512))


def test_the_error_of_a_background_save_comes_up_once_at_the_next_save(tmp_path: Path) -> None:
    with Checkpoints(str(tmp_path), arrays=NumpyArrays(fail_at="2")) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.save(2, make_state(2), {})
        with pytest.raises(CheckpointError, match=r"step 2 could not be saved.*the store went away"):
            checkpoints.save(3, make_state(3), {})
        checkpoints.wait()
        assert checkpoints.steps() == [1]
        checkpoints.save(4, make_state(4), {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 4]


def test_a_folder_that_cannot_be_made_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(str(tmp_path / "file" / "checkpoints"))
    with pytest.raises(CheckpointError, match="step 1 could not be saved"):
        checkpoints.save(1, make_state(1), {})
    checkpoints.close()


# Kills

KILLED = """
import sys, jax, jax.numpy as jnp
from jaxtune.persistence.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
def state(step):
    return {"w": jnp.full((1024, 1024), float(step)), "v": jnp.arange(1 << 20) + step}
for step in range(1, 10_000):
    checkpoints.save(step, state(step), {"step": step}, best=step == 1)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_sound_step(tmp_path: Path) -> None:
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    for trial in range(6):
        folder = str(tmp_path / str(trial))
        process = subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            started = int(line)
            if started >= 3:
                break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=float(rng.uniform(0, 0.3)))
        process.kill()
        started = int([*process.stdout.read().split(), started][-1])
        process.wait()
        like = {
            "w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32),
            "v": jax.ShapeDtypeStruct((1 << 20,), jnp.int32),
        }
        with Checkpoints(folder) as checkpoints:
            restored = checkpoints.restore(like)
            assert restored is not None
            # The save of `started` waited for the one before it, so that one is on the disk.
            assert restored.step >= started - 1
            assert restored.record == {"step": restored.step}
            assert float(restored.state["w"].min()) == float(restored.state["w"].max()) == restored.step
            assert int(restored.state["v"][5]) == 5 + restored.step
            assert checkpoints.best_step() == 1
            assert all("half-written" in problem for problem in restored.problems), restored.problems
            assert {int(name) for name in files.list_dir(folder)} == set(checkpoints.steps())
