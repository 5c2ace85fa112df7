"""Learning curves of one experiment with several seeds: the mean, and a band of one standard deviation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxtune.reports.curves import Points, Rows, points
from jaxtune.reports.style import BLUE, GREEN, INK, QUIET, tidy


def draw_seed_curves(runs: Mapping[int, Rows], *, metric: str, title: str = "") -> Figure:
    """Two panels over the steps: training loss and validation metric.

    Args:
        runs: seed → lines of metrics.jsonl. The band is where at least two seeds have a value at the same step;
            runs of different length are averaged as far as each goes.
        metric: the validation metric.
    """
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    if title:
        figure.suptitle(title, color=INK, fontsize=12, fontweight="bold", parse_math=False)
    for axes, split, key, colour in (
        (above, "train", "loss", BLUE),
        (below, "validation", metric, GREEN),
    ):
        curves = {
            seed: points([row for row in rows if row.get("split", "train") == split], key)
            for seed, rows in runs.items()
        }
        _draw(axes, curves, colour)
        axes.set_ylabel(f"{split}\n{key}", color=INK, fontsize=10, parse_math=False)
        tidy(axes)
    below.set_xlabel("step", color=INK, fontsize=10)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels()
    return figure


def band(curves: Mapping[int, Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean and standard deviation (n - 1; 0 of one value) over the seeds that have a value there."""
    values: dict[float, list[float]] = {}
    for steps, found in curves.values():
        for step, value in zip(steps, found):
            values.setdefault(float(step), []).append(float(value))
    order = sorted(values)
    means = np.array([np.mean(values[step]) for step in order])
    spread = np.array([np.std(values[step], ddof=1) if len(values[step]) > 1 else 0.0 for step in order])
    return np.array(order), means, spread


def _draw(axes: Axes, curves: Mapping[int, Points], colour: str) -> None:
    steps, means, spread = band(curves)
    if not len(steps):
        axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", va="center", color=QUIET)
        axes.set_yticks([])
        return
    for some_steps, some_values in curves.values():
        axes.plot(some_steps, some_values, color=colour, alpha=0.3, linewidth=0.8)
    axes.fill_between(steps, means - spread, means + spread, color=colour, alpha=0.18, linewidth=0)
    marker = "o" if len(steps) < 12 else None
    count = sum(1 for found, _ in curves.values() if len(found))
    label = f"mean of {count} seeds, ± one standard deviation" if count > 1 else "one seed"
    axes.plot(steps, means, color=colour, linewidth=2, marker=marker, markersize=4, label=label)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
