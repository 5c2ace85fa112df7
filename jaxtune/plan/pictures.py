"""A plan as a picture: what fills the memory of a chip, and what a step's time goes to."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtune.parallel.mesh import describe
from jaxtune.plan.advice import GIB
from jaxtune.plan.bounds import Bound, best_first
from jaxtune.plan.compiled import Compiled
from jaxtune.plan.report import capacity_of
from jaxtune.plan.topologies import Topology
from jaxtune.reports.style import BLUE, GREEN, INK, ORANGE, QUIET, png, tidy

RED = "#b91c1c"
_MOST_ROWS = 24
_BAR = 0.62
_THIRD = 0.22


def plan_picture(
    found: Iterable[tuple[Compiled, Bound | None]], topology: Topology, title: str = ""
) -> bytes:
    """``draw_plan`` as a PNG."""
    return png(draw_plan(found, topology, title))


def draw_plan(found: Iterable[tuple[Compiled, Bound | None]], topology: Topology, title: str = "") -> Figure:
    """Two panels with a row per mesh, the best above: memory against capacity, and the three bounds of a step.

    At most the first 24 meshes are drawn.
    """
    rows = best_first(found)[:_MOST_ROWS]
    figure = Figure(figsize=(11, 1.9 + 0.42 * max(1, len(rows))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title or topology.name, color=INK, fontsize=12, fontweight="bold", parse_math=False)
    _draw_memory(left, [compiled for compiled, _ in rows], topology)
    _draw_bounds(right, rows)
    for axes in (left, right):
        tidy(axes)
        axes.grid(visible=False, axis="y")
    left.set_yticks(range(len(rows)), [describe(compiled.mesh) for compiled, _ in rows], color=INK)
    left.set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _draw_memory(axes: Axes, rows: list[Compiled], topology: Topology) -> None:
    parts = (
        ("parameters", "parameters", BLUE),
        ("optimizer", "optimizer", GREEN),
        ("gradients", "gradients", QUIET),
        ("activations", "activations, temporaries", ORANGE),
    )
    whole = [(at, compiled.memory) for at, compiled in enumerate(rows) if compiled.memory]
    start = [0.0] * len(whole)
    for name, label, colour in parts:
        sizes = [getattr(memory, name) / GIB for _, memory in whole]
        axes.barh([at for at, _ in whole], sizes, _BAR, start, color=colour, label=label)
        start = [before + size for before, size in zip(start, sizes, strict=True)]
    lacking = [(at, compiled.needed / GIB) for at, compiled in enumerate(rows) if compiled.needed]
    if lacking:
        needed = [size for _, size in lacking]
        axes.barh(
            [at for at, _ in lacking],
            needed,
            _BAR,
            color="none",
            edgecolor=RED,
            hatch="///",
            label="does not fit",
        )
    for at, compiled in enumerate(rows):
        if not compiled.fits and compiled.needed is None:
            axes.text(0, at, " failed", va="center", color=RED, fontsize=9)
    capacity = capacity_of(rows, topology)
    if capacity:
        axes.axvline(capacity / GIB, color=INK, linewidth=1.6, linestyle="--")
        axes.text(
            capacity / GIB, -0.55, f" {capacity / GIB:.2f}", color=INK, fontsize=9, ha="left", va="bottom"
        )
    axes.set_xlabel("HBM of a chip, GiB", color=INK, fontsize=10)
    _legend(axes)


def _draw_bounds(axes: Axes, rows: list[tuple[Compiled, Bound | None]]) -> None:
    parts = (("compute", BLUE), ("hbm", GREEN), ("interconnect", ORANGE))
    bounded = [(at, bound) for at, (_, bound) in enumerate(rows) if bound]
    for number, (name, colour) in enumerate(parts):
        places = [at + (number - 1) * _THIRD for at, _ in bounded]
        seconds = [1000 * getattr(bound, name) for _, bound in bounded]
        label = "HBM" if name == "hbm" else name
        axes.barh(places, seconds, _THIRD, color=colour, label=label)
    measured = [(at, 1000 * compiled.measured) for at, (compiled, _) in enumerate(rows) if compiled.measured]
    if measured:
        places, seconds = map(list, zip(*measured, strict=True))
        axes.plot(seconds, places, "D", color=INK, markersize=5, label="measured")
    for at, bound in bounded:
        axes.text(
            1000 * bound.step, at, f"  MFU {100 * bound.mfu:.0f} %", va="center", color=INK, fontsize=8.5
        )
    axes.margins(x=0.18)
    axes.set_xlabel("least time of a step, ms", color=INK, fontsize=10)
    _legend(axes)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            ncols=3,
            loc="lower left",
            bbox_to_anchor=(0, 1.01),
            borderaxespad=0,
        )
