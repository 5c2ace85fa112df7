"""The look that the figures of a report share."""

from __future__ import annotations

import io
import warnings

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1f2933"
QUIET = "#9aa5b1"
GRID = "#e4e7eb"
BLUE = "#2563eb"
ORANGE = "#ea580c"
GREEN = "#0f9d6b"


def tidy(axes: Axes) -> None:
    """Light grid, no box: the data is the darkest thing in the picture."""
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, color=QUIET)


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    return _saved(figure, "png", {"Software": None})


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure; letters are drawn, so no font is needed."""
    with matplotlib.rc_context({"svg.hashsalt": "jaxtune"}):
        return _saved(figure, "svg", {"Date": None, "Creator": None})


def pictures(name: str, figure: Figure) -> dict[str, bytes]:
    """``name.png`` and ``name.svg``."""
    return {f"{name}.png": png(figure), f"{name}.svg": svg(figure)}


def _saved(figure: Figure, kind: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script the font lacks is drawn as boxes; the numbers are still right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight", pad_inches=0.12, metadata=metadata)
    return buffer.getvalue()
