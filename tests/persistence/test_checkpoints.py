"""Checkpoints: exact round trips, retention, remote stores."""

from __future__ import annotations

import uuid
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtune import files
from jaxtune.errors import CheckpointError
from jaxtune.persistence.checkpoints import Checkpoints
from tests.persistence.checkpoint_helpers import NumpyArrays, abstract, assert_same, make_state, save_steps


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_steps(str(folder), [1, 2, 3], keep=3)
    return folder


# Round trips


def test_nothing_saved(tmp_path: Path) -> None:
    with Checkpoints(str(tmp_path / "none")) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.newest_sound() is None
        assert checkpoints.best_step() is None
        assert checkpoints.restore(abstract(make_state(0))) is None
    assert not (tmp_path / "none").exists()


def test_round_trip_is_exact(tmp_path: Path) -> None:
    odd = np.array([np.nan, -np.nan, np.inf, -0.0, 0.0, 1e-45], np.float32).view(np.uint32)
    odd[0] |= 0x123  # a NaN with a payload
    state = make_state(7) | {"odd": jax.lax.bitcast_convert_type(jnp.asarray(odd), jnp.float32)}
    record = {"position": {"epoch": 1, "index": 12}, "best": 0.1 + 0.2, "worst": float("inf"), "names": ["a"]}
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(7, state, record)
    with Checkpoints(str(tmp_path)) as checkpoints:
        restored = checkpoints.restore(abstract(state))
    assert restored is not None
    assert restored.step == 7
    assert restored.record == record
    assert restored.problems == []
    assert_same(restored.state, state)


def test_few_files(three_steps: Path) -> None:
    assert len(files.walk(str(three_steps / "3"))) < 20


def test_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_steps("runs/a/checkpoints", [1])
    with Checkpoints("runs/a/checkpoints") as checkpoints:
        assert checkpoints.restore(abstract(make_state(1))) is not None


def test_a_certain_step(three_steps: Path) -> None:
    with Checkpoints(str(three_steps), writable=False) as checkpoints:
        restored = checkpoints.restore(abstract(make_state(0)), step=2)
        assert restored is not None
        assert_same(restored.state, make_state(2))
        with pytest.raises(CheckpointError, match=r"has no step 9; it has: 1, 2, 3"):
            checkpoints.restore(abstract(make_state(0)), step=9)


def test_parameters_alone(three_steps: Path) -> None:
    like = {"params": abstract(make_state(0)["params"])}
    with Checkpoints(str(three_steps), writable=False) as checkpoints:
        restored = checkpoints.restore(like, partial=True)
    assert restored is not None
    assert_same(restored.state, {"params": make_state(3)["params"]})


def test_another_model_is_refused_by_name(three_steps: Path) -> None:
    like = abstract(make_state(0))
    like["params"]["backbone"]["kernel"] = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    like["params"]["head"]["bias"] = jax.ShapeDtypeStruct((2,), jnp.float32)
    del like["params"]["backbone"]["bias"]
    with (
        Checkpoints(str(three_steps), writable=False) as checkpoints,
        pytest.raises(CheckpointError, match="another model") as caught,
    ):
        checkpoints.restore(like)
    message = str(caught.value)
    assert "params/backbone/kernel: saved float32[8, 8], now float32[4, 8]" in message
    assert "params/head/bias: not in the checkpoint" in message
    assert "params/backbone/bias: only in the checkpoint" in message


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices (XLA_FLAGS)")
def test_restores_onto_another_layout(tmp_path: Path) -> None:
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    value = jnp.arange(jax.device_count() * 64, dtype=jnp.float32).reshape(-1, 4)
    state = {"a": jax.device_put(value, split), "b": jax.device_put(value + 1, whole)}
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(1, state, {})
        one = jax.sharding.SingleDeviceSharding(jax.devices()[1])
        for a, b in [(split, whole), (whole, split), (one, one)]:
            like = {
                "a": jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=a),
                "b": jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=b),
            }
            restored = checkpoints.restore(like)
            assert restored is not None
            assert restored.state["a"].sharding == a
            assert restored.state["b"].sharding == b
            assert_same(restored.state, state)


def test_state_may_be_donated_right_after_save(tmp_path: Path) -> None:
    """The next train step overwrites the very buffers that are being written."""
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0.5 - 7, tree), donate_argnums=0)
    rng = np.random.default_rng(0)
    host = {str(i): rng.standard_normal((256, 1024)).astype(np.float32) for i in range(8)}
    layouts = [jax.sharding.SingleDeviceSharding(jax.devices()[0])]
    if jax.device_count() > 1:
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        layouts = [NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))]
    for trial, layout in enumerate(layouts * 3, start=1):
        state = jax.tree.map(jnp.copy, jax.device_put(host, layout))
        jax.block_until_ready(overwrite(jax.tree.map(jnp.copy, state)))  # compiled before the race
        with Checkpoints(str(tmp_path), keep=1) as checkpoints:
            checkpoints.save(trial, state, {})
            for _ in range(4):
                state = overwrite(state)
            jax.block_until_ready(state)
            restored = checkpoints.restore(abstract(state))
        assert restored is not None
        assert restored.step == trial
        assert_same(jax.tree.map(np.asarray, restored.state), host)
        # What was restored may be donated as well.
        after = overwrite(overwrite(restored.state))
        np.testing.assert_array_equal(np.asarray(after["0"]), (host["0"] * 0.5 - 7) * 0.5 - 7)


def test_record_is_copied_when_save_is_called(tmp_path: Path) -> None:
    record = {"losses": [1.0]}
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(1, make_state(1), record)
        record["losses"].append(2.0)
        restored = checkpoints.restore(abstract(make_state(1)))
    assert restored is not None
    assert restored.record == {"losses": [1.0]}


def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    with Checkpoints(str(tmp_path)) as checkpoints:
        with pytest.raises(TypeError, match="step of the state is a int"):
            checkpoints.save(1, {"step": 3}, {})
        with pytest.raises(TypeError, match="JSON"):
            checkpoints.save(1, make_state(1), {"when": object()})
        assert checkpoints.steps() == []
    with pytest.raises(ValueError, match="keep must be at least 1"):
        Checkpoints(str(tmp_path), keep=0)


# Retention


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    with Checkpoints(str(tmp_path), keep=2) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, make_state(step), {}, best=step in (1, 2))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best_step() == 2
    # The best survives a restart, and gives way to a better one.
    with Checkpoints(str(tmp_path), keep=2) as checkpoints:
        checkpoints.save(7, make_state(7), {})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 6, 7]
        checkpoints.save(8, make_state(8), {}, best=True)
        checkpoints.wait()
        assert checkpoints.steps() == [7, 8]
        assert checkpoints.best_step() == 8


def test_a_damaged_step_is_neither_best_nor_counted(tmp_path: Path) -> None:
    with Checkpoints(str(tmp_path), keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {}, best=True)
    (tmp_path / "3" / "record.json").unlink()
    with Checkpoints(str(tmp_path), keep=2) as checkpoints:
        restored = checkpoints.restore(abstract(make_state(0)))
        assert restored is not None
        assert restored.step == 2
        assert checkpoints.best_step() == 2
        checkpoints.save(4, make_state(4), {})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4]
    assert (tmp_path / "3").is_dir()


def test_saving_a_step_again(tmp_path: Path) -> None:
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(1, make_state(1), {"a": 1})
        checkpoints.wait()
        written = files.read_bytes(str(tmp_path / "1/manifest.json"))
        checkpoints.save(1, make_state(1), {"a": 1})
        checkpoints.wait()
        assert files.read_bytes(str(tmp_path / "1/manifest.json")) == written
        checkpoints.save(1, make_state(1), {"a": 2}, best=True)
        restored = checkpoints.restore(abstract(make_state(1)))
        assert restored is not None
        assert restored.record == {"a": 2}
        assert checkpoints.best_step() == 1


# Remote stores


def test_a_remote_store(tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}/run/checkpoints"
    like = abstract(make_state(0))
    with Checkpoints(root, keep=2, arrays=NumpyArrays()) as checkpoints:
        assert checkpoints.restore(like) is None
        for step in range(1, 6):
            checkpoints.save(step, make_state(step), {"position": step}, best=step == 2)
        restored = checkpoints.restore(like)
        assert restored is not None
        assert (restored.step, restored.record) == (5, {"position": 5})
        assert_same(restored.state, make_state(5))
        assert checkpoints.steps() == [2, 4, 5]
    for name in ["record.json", "manifest.json", "state/arrays.npz"]:
        path = files.join(root, "5", name)
        sound = files.read_bytes(path)
        for damage in (sound[:-1], None):
            files.remove(path) if damage is None else files.write_bytes(path, damage)
            with Checkpoints(root, arrays=NumpyArrays()) as checkpoints:
                restored = checkpoints.restore(like)
                assert restored is not None
                assert restored.step == 4
                assert f"/5: {name} " in restored.problems[0]
        files.write_bytes(path, sound)
    files.remove(files.join(root, "5", "manifest.json"))
    with Checkpoints(root, arrays=NumpyArrays()) as checkpoints:
        checkpoints.save(5, make_state(5), {})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]
    assert "damaged-5" in files.list_dir(root)
    files.write_text(files.join(root, "6", "unfinished"), "")
    with Checkpoints(root, arrays=NumpyArrays()) as checkpoints:
        restored = checkpoints.restore(like)
        assert restored is not None
        assert restored.step == 5
        assert "half-written" in restored.problems[0]
    assert "6" not in files.list_dir(root)
