"""Markdown tables that also read well as plain text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

MISSING = "–"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in GitHub's Markdown with aligned columns; columns of numbers are set to the right.

    Cells that are ``str`` are taken as Markdown (see ``escape`` and ``code`` for free text),
    others go through ``format_value``. Raises ValueError for a row of another width than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells, the header {len(header)}: {list(row)}")
    lines = [
        list(header),
        *([cell if isinstance(cell, str) else format_value(cell) for cell in row] for row in rows),
    ]
    right = [
        bool(rows) and all(row[i] is None or isinstance(row[i], int | float) for row in rows)
        for i in range(len(header))
    ]
    widths = [max(3, *(_width(line[i]) for line in lines)) for i in range(len(header))]

    def joined(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    padded = [
        joined([_pad(cell, width, flush) for cell, width, flush in zip(line, widths, right)])
        for line in lines
    ]
    rule = joined(["-" * (width - 1) + (":" if flush else "-") for width, flush in zip(widths, right)])
    return "\n".join([padded[0], rule, *padded[1:]]) + "\n"


def format_value(value: object) -> str:
    """A value for a reader: 1,234 · 0.8612 · 5e-05 · yes · – for nothing."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value == 0 or 1e-3 <= abs(value) < 1000:
            return f"{value:.4f}"
        return f"{value:,.1f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value) or MISSING
    if isinstance(value, dict):
        return ", ".join(f"{key}: {format_value(item)}" for key, item in value.items()) or MISSING
    return escape(str(value))


def escape(text: str, limit: int | None = None) -> str:
    """Free text as one line of Markdown that shows it literally, cut to ``limit`` characters."""
    # Control characters (bidirectional overrides too) could garble the whole report.
    text = "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs") else " " for c in text[:100_000])
    text = " ".join(text.split())
    if limit is not None and len(text) > limit:
        text = text[: limit - 1].rstrip() + "…"
    return re.sub(r"([\\`*_\[\]|$~])", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


def code(text: str) -> str:
    """Text as inline code, fit for a table cell."""
    text = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
