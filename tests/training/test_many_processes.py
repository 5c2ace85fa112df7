"""Real processes that train one run: equal to one device, killed, preempted, resumed by another number of them.

A machine with two cores is slow at this: each start of four processes takes most of a minute.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jaxtune.config import Experiment, dump_yaml
from jaxtune.parallel.distributed import LOST_EXIT_CODE
from jaxtune.parallel.launch import environment_of, free_port
from tests import tiny

pytestmark = pytest.mark.slow

STEPS = 24
TRAINING = {"steps": STEPS, "batch_size": 32, "log_every": 1, "eval_every": 10, "save_every": 4}
QUICK_COMPILER = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"
END_SECONDS = 30 + 15
"""Heartbeat and what is allowed beside it."""


def environment(folder: Path) -> dict[str, str]:
    """Of children: their own cache, and one device a process, unlike the tests' own eight."""
    own = {"JAXTUNE_CACHE": str(folder / "cache"), "XLA_FLAGS": QUICK_COMPILER, "PYTHONPATH": str(Path.cwd())}
    return {**os.environ, **own}


def train_command(config: Path, *changes: str) -> list[str]:
    return [sys.executable, "-m", "jaxtune.cli", "train", "--config", str(config), *changes]


def launch(config: Path, count: int, *changes: str, devices: int = 1) -> subprocess.Popen[str]:
    options = ["--processes", str(count), "--devices-per-process", str(devices)]
    return subprocess.Popen(
        [sys.executable, "-m", "jaxtune.parallel.launch", *options, "--", *train_command(config, *changes)],
        env=environment(config.parent),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(config: Path, count: int, *changes: str, devices: int = 1) -> str:
    process = launch(config, count, *changes, devices=devices)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return said


def separately(commands: Sequence[Sequence[str]], folders: Sequence[Path]) -> list[subprocess.Popen[str]]:
    """Processes of one run that no launcher looks after, each in its folder."""
    port = free_port()
    return [
        subprocess.Popen(
            command,
            env=environment_of(environment(folder), p, len(commands), f"127.0.0.1:{port}", 1),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for p, (command, folder) in enumerate(zip(commands, folders))
    ]


def ends(processes: Sequence[subprocess.Popen[str]], seconds: float) -> list[tuple[int, str]]:
    """Exit status and standard error of each; fails where one takes longer."""
    deadline = time.monotonic() + seconds
    try:
        return [
            (process.returncode, said)
            for process in processes
            for said in [process.communicate(timeout=max(deadline - time.monotonic(), 0.1))[1]]
        ]
    finally:
        for process in processes:
            process.kill()


def rows(run: Path) -> list[dict[str, Any]]:
    return tiny.without_times(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"never came to step {step}: {process.communicate()[1] if process.poll() else ''}")


def assert_close(run: Path, other: Path, tolerance: float = 1e-5) -> None:
    """The same batches, and losses that differ by rounding."""
    ours, expected = rows(run), rows(other)
    assert [(r["step"], r["split"]) for r in ours] == [(r["step"], r["split"]) for r in expected]
    assert [r.get("padding_share") for r in ours] == [r.get("padding_share") for r in expected]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, expected)) <= tolerance


def assert_same_end(run: Path, other: Path) -> None:
    assert rows(run) == rows(other)
    for name in ("predictions.jsonl", "results.json", "best/model.safetensors", "best/config.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def experiment(folder: Path, **changes: Any) -> Experiment:
    sections = {"train": TRAINING, "data": {"rows": 8}, "mesh": {"devices": None}}
    return tiny.experiment(folder, **{**sections, **changes})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    path = folder / "experiment.yaml"
    path.write_text(dump_yaml(experiment(folder)))
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> Path:
    """The run of four processes with a device each."""
    said = finish(config, 4, "--name", "undisturbed")
    assert said.count("done: ") == 1  # one process speaks
    return config.parent / "runs" / "undisturbed"


@pytest.fixture
def _nothing_left(config: Path) -> Iterator[None]:
    yield
    assert not list((config.parent / "runs").glob("*/.shared*"))


@pytest.mark.usefixtures("_nothing_left")
def test_any_number_of_processes_trains_as_one_device(config, undisturbed):
    one = subprocess.run(
        train_command(config, "--name", "one"), env=environment(config.parent), capture_output=True, text=True
    )
    assert one.returncode == 0, one.stderr
    finish(config, 4, "--name", "four-by-two", devices=2)
    runs = config.parent / "runs"
    assert_close(runs / "four-by-two", runs / "one")
    assert_close(undisturbed, runs / "one")
    machine = json.loads((runs / "four-by-two" / "provenance.json").read_text())["machine"]
    assert (machine["processes"], machine["devices"]) == (4, 8)


@pytest.mark.parametrize("victim", [2, 0])
def test_one_is_killed_the_others_end_and_a_restart_is_bit_equal(config, undisturbed, victim):
    name = f"killed-{victim}"
    run = config.parent / "runs" / name
    processes = separately([train_command(config, "--name", name)] * 4, [config.parent] * 4)
    try:
        wait_for_step(processes[0], run, 7)
        processes[victim].kill()
        ended = ends(processes, END_SECONDS)
    finally:
        for process in processes:
            process.kill()
    assert ended[victim][0] == -signal.SIGKILL
    assert all(status != 0 for status, _ in ended)
    assert not (run / "results.json").exists()
    finish(config, 4, "--name", name)
    assert_same_end(run, undisturbed)


def test_preempted_they_save_after_the_same_step_and_any_number_goes_on(config, undisturbed):
    runs = config.parent / "runs"
    process = launch(config, 4, "--name", "preempted")
    wait_for_step(process, runs / "preempted", 6)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert time.monotonic() - asked < 25
    assert said.count("SIGTERM: saved at step") == 1
    step = int(said.split("SIGTERM: saved at step ")[1].split()[0])
    assert (runs / "preempted" / "checkpoints" / str(step) / "manifest.json").exists()
    shutil.copytree(runs / "preempted", runs / "by-two")
    finish(config, 4, "--name", "preempted")
    assert_same_end(runs / "preempted", undisturbed)
    said = finish(config, 2, "--name", "by-two")
    assert f"resumed from step {step} of {STEPS}" in said
    assert_close(runs / "by-two", undisturbed)


def test_a_signal_to_one_process_stops_all(config):
    run = config.parent / "runs" / "one-asked"
    processes = separately([train_command(config, "--name", "one-asked")] * 2, [config.parent] * 2)
    try:
        wait_for_step(processes[0], run, 5)
        processes[1].send_signal(signal.SIGTERM)
        ended = ends(processes, 60)
    finally:
        for process in processes:
            process.kill()
    assert [status for status, _ in ended] == [75, 75], ended
    steps = [int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    assert 5 <= max(steps) < STEPS


def test_a_peer_that_hangs_is_noticed_by_the_watchdog(config):
    run = config.parent / "runs" / "hung"
    # Nothing but steps, so that it hangs in one of them.
    steps = ["--train.steps", "1000", "--train.eval-every", "1000", "--train.save-every", "1000"]
    command = train_command(config, "--name", "hung", "--train.step-timeout", "15", *steps)
    processes = separately([command] * 2, [config.parent] * 2)
    try:
        wait_for_step(processes[0], run, 3)
        processes[1].send_signal(signal.SIGSTOP)  # alive, and silent
        said = processes[0].communicate(timeout=END_SECONDS)[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert processes[0].returncode == LOST_EXIT_CODE, said
    assert "watchdog: a step has not finished" in said
    assert "_steps_until_stopped" in said  # the stacks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--optim.learning-rate", "0.1"], "optim.learning_rate: 0.003 in process 0, 0.1 in process 1"),
        (["--data.limit", "50"], "data.limit: None in process 0, 50 in process 1"),
    ],
)
def test_processes_with_other_configurations_all_stop(config, changes, message):
    command = train_command(config, "--name", "mixed")
    ended = ends(separately([command, [*command, *changes]], [config.parent] * 2), 120)
    assert [status for status, _ in ended] == [2, 2], ended
    for _, said in ended:
        assert "the 2 processes of this run do not have the same configuration" in said
        assert message in said
    assert not (config.parent / "runs" / "mixed").exists()


def test_processes_with_other_data_all_stop(tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        tiny.write_reviews(folder / "reviews.jsonl", seed=seed)
    tiny.write_checkpoint(tmp_path / "tiny-bert")
    same = experiment(tmp_path, data={"rows": 8, "train": "jsonl:reviews.jsonl"})
    (tmp_path / "e.yaml").write_text(dump_yaml(same))
    ended = ends(separately([train_command(tmp_path / "e.yaml")] * 2, folders), 120)
    assert [status for status, _ in ended] == [2, 2], ended
    for _, said in ended:
        assert "do not have the same data" in said


def test_a_mistake_in_one_process_stops_all(tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        tiny.write_reviews(folder / "reviews.jsonl")
    (folders[1] / "reviews.jsonl").unlink()
    same = experiment(tmp_path, data={"rows": 8, "train": "jsonl:reviews.jsonl"})
    (tmp_path / "e.yaml").write_text(dump_yaml(same))
    (status, said), (other, _) = ends(separately([train_command(tmp_path / "e.yaml")] * 2, folders), 120)
    assert (status, other) == (2, 2)
    assert "process 1 of 2 stopped:" in said
    assert "reviews.jsonl" in said


def test_a_run_directory_that_is_not_shared_is_refused(config, tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    command = train_command(config, "--output", "runs")  # relative to where each one is
    ended = ends(separately([command] * 2, folders), 120)
    assert [status for status, _ in ended] == [2, 2], ended
    for _, said in ended:
        assert "is not the folder that process 1 on" in said
    assert not list((tmp_path / "a" / "runs" / "run").glob("checkpoints"))
