"""The open log window: sums, rates, and its way through JSON."""

import json

import numpy as np
import pytest

from jaxtune.training.window import TIMES, LogWindow


def step(loss, weight, right):
    return {"sums": {"loss": (loss, weight), "accuracy": (right, weight)}, "grad_norm": np.float32(0.7)}


def filled():
    window = LogWindow()
    window.add_step(step(3.0, 4.0, 1.0), np.array([5, 7, 3, 9]), slots=32, flops=100.0, seconds=0.5)
    window.add_step(step(1.0, 1.0, 1.0), np.array([8]), slots=32, flops=20.0, seconds=1.5)
    return window


def test_sums_are_divided_once():
    line = filled().line(peak=120.0)
    assert line["loss"] == pytest.approx(4 / 5)  # not the mean of 3/4 and 1
    assert line["accuracy"] == pytest.approx(2 / 5)
    assert line["padding_share"] == pytest.approx(1 - 32 / 64)
    assert line["examples_per_second"] == pytest.approx(5 / 2)
    assert line["tokens_per_second"] == pytest.approx(32 / 2)
    assert line["step_time"] == pytest.approx(1.0)
    assert line["mfu"] == pytest.approx(120 / 2 / 120)
    assert line.keys() >= TIMES - {"seconds"}


def test_it_survives_a_checkpoint_exactly():
    window = filled()
    window.sums["loss"][0] += 0.1 + 0.2
    assert LogWindow(**json.loads(json.dumps(window.to_record()))) == window


def test_a_window_of_skipped_steps_has_no_loss():
    window = LogWindow()
    window.add_step(step(0.0, 0.0, 0.0), np.array([3]), slots=8, flops=1.0, seconds=0.1)
    assert window.line(peak=None)["loss"] is None
    assert window.line(peak=None)["mfu"] is None
