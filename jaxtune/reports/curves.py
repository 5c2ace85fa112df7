"""The learning curve: what training did to the loss, the validation metric and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from jaxtune.reports.style import BLUE, GREEN, INK, ORANGE, QUIET, png, tidy

Rows = Sequence[Mapping[str, Any]]
Points = tuple[np.ndarray, np.ndarray]


def learning_curve(rows: Rows, *, metric: str, higher_is_better: bool = True, title: str = "") -> bytes:
    """``draw_learning_curve`` as a PNG."""
    return png(draw_learning_curve(rows, metric=metric, higher_is_better=higher_is_better, title=title))


def draw_learning_curve(rows: Rows, *, metric: str, higher_is_better: bool = True, title: str = "") -> Figure:
    """Three panels over the steps: loss, validation metric, learning rate.

    Args:
        rows: lines of metrics.jsonl: ``step`` and, where ``split`` is "train", ``loss`` and
            ``learning_rate``; where it is "validation", ``loss`` and ``metric``. Missing and
            non-finite values are left out.
        metric: the validation metric of the middle panel; its best value is marked.
    """
    training = [row for row in rows if row.get("split", "train") == "train"]
    validation = [row for row in rows if row.get("split") == "validation"]
    figure = Figure(figsize=(8, 6.6), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2.4, 1.1])
    if title:
        figure.suptitle(title, color=INK, fontsize=12, fontweight="bold", parse_math=False)
    _draw_losses(above, points(training, "loss"), points(validation, "loss"))
    _draw_metric(middle, points(validation, metric), metric, higher_is_better)
    _draw_rate(below, points(training, "learning_rate"))
    for axes in (above, middle, below):
        tidy(axes)
    below.set_xlabel("step", color=INK, fontsize=10)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels()
    return figure


def points(rows: Rows, key: str) -> Points:
    """Steps and values of the rows that have a finite number under ``key``."""
    found = [
        (row["step"], row[key]) for row in rows if _is_number(row.get(key)) and _is_number(row.get("step"))
    ]
    steps, values = zip(*found) if found else ((), ())
    return np.asarray(steps, float), np.asarray(values, float)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average [n] over ``window`` values, over those there are at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first = np.maximum(index - window // 2, 0)
    last = np.minimum(index + window // 2 + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _draw_losses(axes: Axes, training: Points, validation: Points) -> None:
    steps, losses = training
    window = len(losses) // 12
    if window >= 3:
        axes.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=0.9)
        axes.plot(steps, smooth(losses, window), color=BLUE, linewidth=2, label="training (smoothed)")
    elif len(losses):
        marker = "o" if len(losses) < 3 else None
        axes.plot(steps, losses, color=BLUE, linewidth=2, marker=marker, label="training")
    if len(validation[0]):
        axes.plot(*validation, color=ORANGE, linewidth=1.8, marker="o", markersize=5, label="validation")
    axes.set_ylabel("loss", color=INK, fontsize=10)
    if len(losses) or len(validation[0]):
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    else:
        _say_nothing_logged(axes)


def _draw_metric(axes: Axes, validation: Points, metric: str, higher_is_better: bool) -> None:
    steps, values = validation
    axes.set_ylabel(f"validation\n{metric}", color=INK, fontsize=10, parse_math=False)
    if not len(values):
        _say_nothing_logged(axes)
        return
    best = int(values.argmax() if higher_is_better else values.argmin())
    axes.plot(steps, values, color=GREEN, linewidth=1.8, marker="o", markersize=5)
    axes.plot(steps[best], values[best], "o", markersize=11, markerfacecolor="none", markeredgecolor=GREEN)
    axes.margins(y=0.3)
    # Beside the point, on the side where the panel has room.
    left = steps[best] > (steps[0] + steps[-1]) / 2 or len(steps) == 1
    axes.annotate(
        f"best {values[best]:.4f} at step {steps[best]:,.0f}",
        (steps[best], values[best]),
        xytext=(-10 if left else 10, 9 if higher_is_better else -9),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom" if higher_is_better else "top",
        color=GREEN,
        fontsize=9,
    )


def _draw_rate(axes: Axes, rate: Points) -> None:
    axes.set_ylabel("learning\nrate", color=INK, fontsize=10)
    if not len(rate[0]):
        _say_nothing_logged(axes)
        return
    axes.fill_between(*rate, color=QUIET, alpha=0.25, linewidth=0)
    axes.plot(*rate, color=QUIET, linewidth=1.6, marker="o" if len(rate[0]) < 3 else None)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    formatter = ScalarFormatter(useMathText=True)
    formatter.set_powerlimits((-2, 3))
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.get_offset_text().set(fontsize=8, color=INK)


def _say_nothing_logged(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", va="center", color=QUIET)
    axes.set_yticks([])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
