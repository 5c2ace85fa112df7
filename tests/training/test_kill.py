"""SIGKILL at random moments, a save included: the run ends as if nothing had happened.

Each kill is of a real process. Bits are compared: parameters, optimizer state, the loop's record,
metrics.jsonl (times aside), predictions and the exported model.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxtune.config import dump_yaml
from jaxtune.persistence.checkpoint_arrays import flatten
from jaxtune.persistence.checkpoints import Checkpoints
from tests import tiny

KILLS = 10
TRAINING = {"epochs": 3, "batch_size": 8, "log_every": 7, "save_every": 5, "keep": 2}


def start(config: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jaxtune.cli", "train", "--config", str(config), "--name", name]
    environment = {**os.environ, "JAXTUNE_CACHE": str(config.parent / "cache")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(config: Path, name: str) -> None:
    process = start(config, name)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()


def kill_once(config: Path, name: str, rng: random.Random, during_save: bool) -> bool:
    """Start the run and kill it after at least one new checkpoint; returns whether it was still running."""
    process = start(config, name)
    checkpoints = config.parent / "runs" / name / "checkpoints"
    before = newest(checkpoints)
    deadline = time.monotonic() + 120
    try:
        # Wait for training to get going: a kill during imports tests nothing.
        while process.poll() is None and newest(checkpoints) <= before and time.monotonic() < deadline:
            time.sleep(0.002)
        if during_save:
            while process.poll() is None and not list(checkpoints.glob("*/unfinished")):
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.03))
        else:
            time.sleep(rng.uniform(0, 0.6))
        alive = process.poll() is None
        print(f"killed at step {newest(checkpoints)} (started from {before}), alive {alive}")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return alive


def newest(checkpoints: Path) -> int:
    return max((int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()), default=0)


def end_state(run: Path) -> dict[str, bytes]:
    """All arrays and the record of the newest checkpoint, as bytes."""
    folder = run / "checkpoints"
    with Checkpoints(str(folder), writable=False) as checkpoints:
        step = checkpoints.newest_sound()
        assert step is not None
        record = json.loads((folder / str(step) / "record.json").read_text())
        like = {name: np.zeros(shape, dtype) for name, (dtype, shape) in record.pop("arrays").items()}
        restored = checkpoints.restore(like, step)
    assert restored is not None
    record["record"]["loop"]["window"].pop("seconds")
    arrays = {name: np.asarray(leaf).tobytes() for name, leaf in flatten(restored.state).items()}
    assert any(name.startswith("opt_state") for name in arrays)
    return {**arrays, "record": json.dumps(record, sort_keys=True).encode()}


def metrics(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return tiny.without_times(rows)


@pytest.mark.slow
def test_killed_ten_times_and_still_bit_equal(tmp_path):
    rng = random.Random(20)
    experiment = tiny.experiment(tmp_path, train=TRAINING)
    config = tmp_path / "experiment.yaml"
    config.write_text(dump_yaml(experiment))
    finish(config, "undisturbed")

    kills = []
    for i in range(KILLS * 3):
        if sum(kills) == KILLS:
            break
        kills.append(kill_once(config, "killed", rng, during_save=i % 2 == 1))
        if not kills[-1]:  # it had finished: begin again, so that every kill counts
            assert_equal(tmp_path / "runs" / "killed", tmp_path / "runs" / "undisturbed")
            (tmp_path / "runs" / "killed").rename(tmp_path / "runs" / f"killed-{i}")
    assert sum(kills) == KILLS
    finish(config, "killed")
    assert_equal(tmp_path / "runs" / "killed", tmp_path / "runs" / "undisturbed")


def assert_equal(killed: Path, undisturbed: Path) -> None:
    ours, expected = end_state(killed), end_state(undisturbed)
    assert ours.keys() == expected.keys()
    different = [name for name in ours if ours[name] != expected[name]]
    assert not different
    assert metrics(killed) == metrics(undisturbed)
    for name in ("predictions.jsonl", "results.json", "best/model.safetensors", "best/config.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
