from __future__ import annotations

import numpy as np
import pytest

from jaxtune.reports.distributions import calibration, draw_lengths, draw_reliability
from jaxtune.reports.style import pictures
from jaxtune.tasks.scoring.calibration import calibration_error, reliability


def test_calibration_is_that_of_the_metric():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.random(500), [0.0, 1.0, 0.2, 0.6]])
    right = rng.random(504) < confidence
    count, _, share, error = calibration(confidence, right)
    curve = reliability(confidence, right)
    assert count.tolist() == curve.counts.tolist()
    np.testing.assert_allclose(share, curve.accuracy)
    assert error == pytest.approx(calibration_error(curve))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 200])
def test_reliability_pictures(n):
    confidence = np.linspace(0.5, 1, n)
    drawn = pictures("a", draw_reliability(confidence, np.arange(n) % 2 == 0, "test $split$"))
    assert drawn["a.png"].startswith(b"\x89PNG")
    assert b"<svg" in drawn["a.svg"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "lengths", [{}, {"train": [3]}, {"train": [1, 5, 128] * 9, "test": [], "validation": [4, 4]}]
)
def test_length_pictures(lengths):
    assert pictures("a", draw_lengths(lengths, limit=128))["a.png"].startswith(b"\x89PNG")
