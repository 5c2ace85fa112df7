from __future__ import annotations

import numpy as np
import pytest

from jaxtune.reports.distributions import draw_lengths, draw_reliability
from jaxtune.reports.style import pictures
from jaxtune.tasks.scoring.calibration import calibration_error, reliability


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 200])
def test_the_reliability_diagram_draws_the_curve_of_the_metrics(n):
    confidence = np.linspace(0.5, 1, n)
    curve = reliability(confidence, np.arange(n) % 2 == 0)
    figure = draw_reliability(*curve, calibration_error(curve), "test $split$")
    line = figure.axes[0].lines[1]
    there = curve.counts > 0
    assert line.get_xdata().tolist() == curve.confidence[there].tolist()
    assert line.get_ydata().tolist() == curve.accuracy[there].tolist()
    assert f"{calibration_error(curve):.3f}" in figure.axes[0].texts[0].get_text()
    drawn = pictures("a", figure)
    assert drawn["a.png"].startswith(b"\x89PNG")
    assert b"<svg" in drawn["a.svg"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "lengths", [{}, {"train": [3]}, {"train": [1, 5, 128] * 9, "test": [], "validation": [4, 4]}]
)
def test_length_pictures(lengths):
    assert pictures("a", draw_lengths(lengths, limit=128))["a.png"].startswith(b"\x89PNG")
