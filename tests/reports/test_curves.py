from __future__ import annotations

import struct

import numpy as np
import pytest

from jaxtune.reports.curves import learning_curve, points, smooth

ROWS = [
    *(
        {"split": "train", "step": step, "loss": 1 / step, "learning_rate": step * 1e-5}
        for step in range(1, 60)
    ),
    *({"split": "validation", "step": step, "loss": 0.3, "accuracy": step / 100} for step in (20, 40, 59)),
]


def size(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_a_curve_is_a_png_and_the_same_every_time():
    first = learning_curve(ROWS, metric="accuracy", title="a $run_name$ 坏")
    assert min(size(first)) > 700
    assert first == learning_curve(ROWS, metric="accuracy", title="a $run_name$ 坏")
    assert first != learning_curve(ROWS, metric="accuracy", title="a $run_name$ 坏", higher_is_better=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "loss": 0.7}],
        [
            {"step": 1, "loss": float("nan")},
            {"step": 2, "loss": float("inf")},
            {"split": "validation", "mse": None},
        ],
        [{"step": 1, "mse": 0.3, "split": "validation"}, {"step": 1, "learning_rate": 0.0}],
    ],
)
def test_short_and_broken_logs_still_give_a_picture(rows):
    size(learning_curve(rows, metric="mse"))


def test_points_leave_out_what_is_no_number():
    rows = [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": float("nan")},
        {"step": 3},
        {"step": 4, "loss": 0.25},
    ]
    steps, values = points(rows, "loss")
    assert steps.tolist() == [1, 4]
    assert values.tolist() == [0.5, 0.25]


def test_smoothing_keeps_a_constant_and_the_length():
    np.testing.assert_allclose(smooth(np.full(10, 3.0), 4), 3.0)
    assert smooth(np.arange(9.0), 3).tolist() == [0.5, 1, 2, 3, 4, 5, 6, 7, 7.5]
