from __future__ import annotations

import numpy as np
import pytest

from jaxtune.reports.seed_curves import band, draw_seed_curves
from jaxtune.reports.style import pictures

RUNS = {
    seed: [
        *({"split": "train", "step": step, "loss": 1 / step + seed} for step in range(1, 9)),
        {"split": "validation", "step": 8, "accuracy": seed / 10},
    ]
    for seed in range(3)
}


def test_the_band_is_mean_and_deviation():
    steps, means, spread = band(
        {0: (np.array([1, 2.0]), np.array([1, 3.0])), 1: (np.array([1.0]), np.array([3.0]))}
    )
    assert steps.tolist() == [1, 2]
    assert means.tolist() == [2, 3]
    np.testing.assert_allclose(spread, [np.sqrt(2), 0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("runs", [RUNS, {0: RUNS[0]}, {}, {0: [], 1: [{"step": 1, "loss": float("nan")}]}])
def test_pictures_of_any_runs(runs):
    drawn = pictures("curve", draw_seed_curves(runs, metric="accuracy", title="a $b$"))
    assert drawn["curve.png"].startswith(b"\x89PNG")
    assert b"<svg" in drawn["curve.svg"]
    assert drawn == pictures("curve", draw_seed_curves(runs, metric="accuracy", title="a $b$"))
