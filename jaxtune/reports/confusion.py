"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtune.reports.style import INK, png

MOST_NUMBERED = 20
"""Beyond this many classes the cells hold no numbers."""
MOST_NAMED = 60
"""Beyond this many classes the axes hold no names."""
LONGEST_NAME = 24


def confusion_matrix(
    confusion: Sequence[Sequence[int]] | np.ndarray, labels: Sequence[str], title: str = ""
) -> bytes:
    """``draw_confusion`` as a PNG."""
    return png(draw_confusion(confusion, labels, title))


def draw_confusion(
    confusion: Sequence[Sequence[int]] | np.ndarray, labels: Sequence[str], title: str = ""
) -> Figure:
    """Counts [C, C], row = true class, column = prediction; the shade is the share of the row."""
    counts = np.asarray(confusion)
    classes = len(labels)
    if counts.shape != (classes, classes):
        raise ValueError(f"a confusion matrix of shape {counts.shape} for {classes} labels")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.85 * classes + 2.4, 4.4, 12))
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class", color=INK, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    _name_axes(axes, [_short(label) for label in labels])
    if classes <= MOST_NUMBERED:
        _write_counts(axes, counts, shares)
    if title:
        axes.set_title(title, color=INK, fontsize=11, fontweight="bold", pad=10, parse_math=False)
    return figure


def _name_axes(axes: Axes, names: list[str]) -> None:
    axes.set_xlabel("predicted", color=INK, fontsize=10)
    axes.set_ylabel("true", color=INK, fontsize=10)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9 if len(names) <= MOST_NUMBERED else 6)
    if len(names) > MOST_NAMED:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    ticks = range(len(names))
    turned = max(len(name) for name in names) > 8 and len(names) > 3
    axes.set_xticks(
        ticks, names, rotation=45 if turned else 0, ha="right" if turned else "center", parse_math=False
    )
    axes.set_yticks(ticks, names, parse_math=False)
    # White gaps between the cells.
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2 if len(names) <= MOST_NUMBERED else 0.5)
    axes.tick_params(which="minor", length=0)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    size = float(np.clip(13 - 0.45 * len(counts), 5, 12))
    for row, column in np.ndindex(counts.shape):
        share = shares[row, column]
        text = f"{counts[row, column]:,}"
        if len(counts) <= 10:
            text += f"\n{share:.1%}"
        colour = "white" if share > 0.55 else INK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1] + "…"
