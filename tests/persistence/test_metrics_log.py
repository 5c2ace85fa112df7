"""metrics.jsonl: exact numbers, and a resumed file equal to that of an undisturbed run."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxtune import files
from jaxtune.errors import RunError
from jaxtune.persistence.metrics_log import MetricsLog, read_metrics


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


def row(step: int) -> dict[str, Any]:
    return {"step": step, "split": "train", "epoch": step / 7, "loss": 1 / (step + 3), "note": None}


def text(run: str) -> str:
    return files.read_text(files.join(run, "metrics.jsonl"))


def scalars(run: str, tmp_path: Path) -> list[tuple[str, str, int, float]]:
    """(file, name, step, value) of all event files, read with tensorboardX's own messages."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for name in files.list_dir(files.join(run, "tensorboard")):
        data = files.read_bytes(files.join(run, "tensorboard", name))
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                found.append((name, value.tag, event.step, value.simple_value))
            if event.HasField("session_log"):
                found.append((name, "start", event.step, 0.0))
    return found


def test_one_line_per_row(run: str) -> None:
    with MetricsLog(run) as log:
        for step in (10, 20):
            log.write(row(step))
        log.flush()
        assert [json.loads(line)["step"] for line in text(run).splitlines()] == [10, 20]
    assert read_metrics(run) == [row(10), row(20)]


def test_numbers_are_exact(run: str) -> None:
    values = {
        "step": np.int64(3),
        "tenth": 0.1,
        "sum": 0.1 + 0.2,
        "tiny": 5e-324,
        "single": np.float32(0.1),
        "array": np.array(2.5),
        "flag": True,
        "per_class": [0.1, np.float64(1 / 3)],
        "name": "ü",
    }
    with MetricsLog(run, tensorboard=False) as log:
        log.write(values)
    [found] = read_metrics(run)
    assert found["tenth"] == 0.1
    assert found["sum"] == 0.30000000000000004
    assert found["tiny"] == 5e-324
    assert found["single"] == float(np.float32(0.1))
    assert found["array"] == 2.5
    assert found["per_class"] == [0.1, 1 / 3]
    assert (found["flag"], found["name"], found["step"]) == (True, "ü", 3)


def test_non_finite_numbers_are_valid_json_and_come_back(run: str) -> None:
    with MetricsLog(run) as log:
        log.write({"step": 1, "loss": math.nan, "norm": np.float32(np.inf), "low": [-math.inf]})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(text(run), parse_constant=refuse)
    assert line == {"step": 1, "loss": "NaN", "norm": "Infinity", "low": ["-Infinity"]}
    [found] = read_metrics(run)
    assert math.isnan(found["loss"])
    assert (found["norm"], found["low"]) == (math.inf, [-math.inf])


def test_a_resumed_file_is_that_of_an_undisturbed_run(run: str, tmp_path: Path) -> None:
    with MetricsLog(str(tmp_path / "whole")) as log:
        for step in range(1, 9):
            log.write(row(step))
    with MetricsLog(run) as log:
        for step in range(1, 7):
            log.write(row(step))
    with MetricsLog(run, resumed_step=4) as log:
        for step in range(5, 9):
            log.write(row(step))
    assert text(run) == text(str(tmp_path / "whole"))


def test_several_lines_of_the_resumed_step_are_kept(run: str) -> None:
    with MetricsLog(run) as log:
        for split in ("train", "validation"):
            log.write({"step": 4, "split": split})
        log.write({"step": 5})
    MetricsLog(run, resumed_step=4).close()
    assert [line.get("split") for line in read_metrics(run)] == ["train", "validation"]


@pytest.mark.parametrize(
    "torn", ['{"step": 3, "lo', '{"step": 3}x', "\x00\x00", '{"loss": 1}', "3", '{"step": "a']
)
def test_a_torn_last_line_is_dropped(run: str, torn: str) -> None:
    with MetricsLog(run) as log:
        log.write(row(1))
        log.write(row(2))
    sound = text(run)
    files.write_text(files.join(run, "metrics.jsonl"), sound + torn)
    assert read_metrics(run) == [row(1), row(2)]
    with MetricsLog(run, resumed_step=2) as log:
        assert text(run) == sound
        log.write(row(3))
    assert read_metrics(run) == [row(1), row(2), row(3)]


def test_a_line_torn_within_a_character_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "name": "\xc3')
    assert read_metrics(str(tmp_path)) == [{"step": 1}]


def test_a_fresh_start_drops_everything(run: str) -> None:
    with MetricsLog(run) as log:
        log.write(row(1))
    with MetricsLog(run) as log:
        assert read_metrics(run) == []
        log.write(row(2))
    assert read_metrics(run) == [row(2)]
    assert len(files.list_dir(files.join(run, "tensorboard"))) == 1


def test_a_local_line_is_there_at_once(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path), tensorboard=False)
    log.write(row(1))
    assert read_metrics(str(tmp_path)) == [row(1)]
    log.close()


def test_a_remote_line_is_there_after_flush() -> None:
    run = f"memory://{uuid.uuid4().hex}/run"
    log = MetricsLog(run)
    log.write(row(1))
    assert read_metrics(run) == []
    log.flush()
    assert read_metrics(run) == [row(1)]
    log.close()


def test_tensorboard_has_the_same_numbers(run: str, tmp_path: Path) -> None:
    with MetricsLog(run) as log:
        log.write({"step": 10, "split": "train", "loss": 0.5, "mfu": None, "per_class": [1.0], "ok": True})
        log.flush()
        assert [entry[1:] for entry in scalars(run, tmp_path)] == [("start", 0, 0.0), ("train/loss", 10, 0.5)]
        log.write({"step": 20, "loss": 0.25})
    with MetricsLog(run, resumed_step=10) as log:
        log.write({"step": 20, "loss": 0.125})
    found = scalars(run, tmp_path)
    assert [entry[1:] for entry in found if entry[1] == "loss"] == [("loss", 20, 0.25), ("loss", 20, 0.125)]
    # A file per start, and the second start hides everything after the step it resumed at.
    assert [entry[2] for entry in found if entry[1] == "start"] == [0, 11]
    assert len({entry[0] for entry in found}) == 2


def test_other_processes_write_nothing(run: str) -> None:
    with MetricsLog(run, primary=False) as log:
        log.write(row(1))
    assert not files.exists(run)


def test_what_is_no_number_is_refused(run: str) -> None:
    with MetricsLog(run, tensorboard=False) as log:
        with pytest.raises(TypeError, match="metric 'loss' is a dict"):
            log.write({"step": 1, "loss": {}})
        with pytest.raises(TypeError, match="metric 'loss' is a ndarray"):
            log.write({"step": 1, "loss": np.zeros(2)})
        with pytest.raises(KeyError):
            log.write({"loss": 1.0})
    assert read_metrics(run) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file/run/metrics\.jsonl cannot be written: Not a directory"):
        MetricsLog(str(tmp_path / "file" / "run"))
