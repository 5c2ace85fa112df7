"""Batches by a number of tokens instead of a number of examples.

What counts is the rectangle that is computed: rows times tokens of a row, padding included. Where an example has
two texts, the larger of the two rectangles counts, as with fairseq's ``--max-tokens``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtune.data.planning.bucketing import MULTIPLE, round_up
from jaxtune.errors import ConfigError

Width = Callable[[int], int]
"""Tokens of a row → those of the longer of its two sides."""


def check_budget(max_tokens: int, longest: int, width: Width, rows: int, *, stretch: bool) -> int:
    """The budget, if the longest example fits into ``rows`` rows that it allows.

    Args:
      max_tokens: most tokens of a batch.
      longest: tokens of a row that holds the longest example.
      width: of such a row.
      rows: fewest rows of a batch.
      stretch: raise the budget where it is too small instead of refusing.

    Raises:
      ConfigError: an example is longer than the budget.
    """
    if max_tokens < 1:
        raise ConfigError(f"data.max_tokens: expected at least 1, got {max_tokens}")
    least = rows * width(longest)
    if max_tokens >= least or stretch:
        return max(max_tokens, least)
    raise ConfigError(
        f"data.max_tokens: {max_tokens} tokens do not hold the longest example, which takes {least} "
        f"(rows of {longest} tokens{f', {rows} of them' if rows > 1 else ''}); raise data.max_tokens to at least "
        f"{least} or lower data.max_length"
    )


def rows_within(max_tokens: int, width: int) -> int:
    """Rows of ``width`` tokens that a budget holds: from eight on a multiple of eight, which most meshes divide."""
    rows = max_tokens // width
    return rows if rows < MULTIPLE else rows // MULTIPLE * MULTIPLE


def packed_within(
    max_tokens: int,
    width: Width,
    *,
    longest: int,
    mean: float,
    total: float,
    fill: float,
    row_length: int | None,
    rows: int | None,
) -> tuple[int, int]:
    """Rows and row length of a packed batch within a budget that holds the longest example.

    Four examples of average length share a row, in a multiple of eight rows; fewer rows where the longest
    example would not fit into one of so many.

    Args:
      longest: tokens of the longest example, rounded up.
      mean: tokens of an average example.
      total: tokens of all examples: fewer than a batch need no more room than they have.
      fill: share of a batch's tokens that the packer fills.
      row_length: tokens of a row, if that is settled.
      rows: rows, if that is settled.
    """
    if row_length is not None:
        return rows or rows_within(max_tokens, width(row_length)), row_length
    usual = max(8, round(max_tokens * fill / mean / 32) * 8)
    for count in (rows,) if rows is not None else (usual, 8, 4, 2, 1):
        length = max_tokens // count // MULTIPLE * MULTIPLE
        while length >= longest and count * width(length) > max_tokens:
            length -= MULTIPLE
        if length >= longest:
            return count, min(length, max(longest, round_up(math.ceil(total / (count * fill)))))
    raise AssertionError("check_budget leaves room for one row")
