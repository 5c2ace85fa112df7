"""How sure a classifier is against how often it is right, and how long the texts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from jaxtune.reports.style import BLUE, GREEN, INK, ORANGE, QUIET, tidy


def draw_reliability(
    confidence: Float[np.ndarray, " M"],
    accuracy: Float[np.ndarray, " M"],
    counts: Int[np.ndarray, " M"],
    error: float,
    title: str = "",
) -> Figure:
    """The reliability diagram (DeGroot & Fienberg 1983): on the diagonal, 80 % sure means right in 80 %.

    Args:
        confidence: mean probability of the class that was said, in each of M bins of equal width.
        accuracy: share of the examples in a bin that are right.
        counts: examples in a bin; one without any is not drawn.
        error: the expected calibration error of this curve.
    """
    there = counts > 0
    edges = np.linspace(0, 1, len(counts) + 1)
    figure = Figure(figsize=(5, 5.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    if title:
        figure.suptitle(title, color=INK, fontsize=12, fontweight="bold", parse_math=False)
    above.plot([0, 1], [0, 1], color=QUIET, linewidth=1.2, linestyle="--")
    above.bar(
        edges[:-1][there],
        accuracy[there],
        width=1 / len(counts),
        align="edge",
        color=BLUE,
        alpha=0.22,
        linewidth=0,
    )
    above.plot(confidence[there], accuracy[there], "o-", color=BLUE, linewidth=1.8, markersize=5)
    above.set_ylim(0, 1.02)
    above.set_ylabel("share right", color=INK, fontsize=10)
    above.text(0.04, 0.93, f"expected calibration error {error:.3f}", color=INK, fontsize=9)
    below.bar(edges[:-1], counts, width=1 / len(counts), align="edge", color=QUIET, alpha=0.6, linewidth=0)
    below.set_ylabel("examples", color=INK, fontsize=10)
    below.set_xlabel("probability of the class that was said", color=INK, fontsize=10)
    below.set_xlim(0, 1)
    for axes in (above, below):
        tidy(axes)
    figure.align_ylabels()
    return figure


def draw_lengths(lengths: Mapping[str, Sequence[int]], limit: int | None = None, title: str = "") -> Figure:
    """Histogram of the examples' lengths in tokens, a line per split, as shares so that splits compare.

    Args:
        lengths: split → tokens of each example.
        limit: the length that texts are cut to.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    if title:
        figure.suptitle(title, color=INK, fontsize=12, fontweight="bold", parse_math=False)
    known = {split: np.asarray(values) for split, values in lengths.items() if len(values)}
    longest = max((int(values.max()) for values in known.values()), default=1)
    width = max(1, round(longest / 40))
    edges = np.arange(0.5, longest + width + 0.5, width)
    for (split, values), colour in zip(known.items(), (BLUE, ORANGE, GREEN)):
        shares = np.histogram(values, edges)[0] / len(values)
        middle = int(np.median(values))
        label = f"{split}: {len(values):,} examples, median {middle}, longest {int(values.max())}"
        axes.stairs(shares, edges, color=colour, linewidth=1.8, label=label, fill=False)
    shows_limit = limit is not None and longest >= limit * 0.8
    axes.set_xlim(0, max(edges[-1], limit if shows_limit and limit else 0) + 1)
    if limit is not None and shows_limit:
        axes.axvline(limit, color=QUIET, linestyle="--", linewidth=1.2)
        axes.annotate(
            "cut here ",
            (limit, 1),
            xycoords=("data", "axes fraction"),
            ha="right",
            va="top",
            color=INK,
            fontsize=8,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens", color=INK, fontsize=10)
    axes.set_ylabel("share of the examples", color=INK, fontsize=10)
    if known:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    tidy(axes)
    return figure
