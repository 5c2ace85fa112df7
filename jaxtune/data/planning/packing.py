"""Which examples share a row: a lookahead packer over one epoch's order.

A step takes ``batch_size`` examples, nearly always exactly and never more. It looks at a window
of the next examples, exchanges a few so that their total length is close to the window's average
(an unlucky run of long texts would not fit, one of short texts would waste room), and places them
longest first into the fullest row that still has room. What does not fit is first in line for the
next step. Pure Python on integers: about 2 µs an example.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

Row = tuple[int, ...]
Rows = tuple[Row, ...]

FULL = 0.985
"""Share of a step's tokens that the packer aims to fill at most; the rest is what integers of this size waste."""

_LOOKAHEAD = 4
"""Batches in the window from which a step chooses."""

_MAX_RETURNS = 2
"""An example put back so often goes first, before longer ones."""

_MAX_SWAPS = 4

_LAST = 2**62
"""Behind every place in a window."""


def pack_epoch(
    lengths: Sequence[int],
    order: Iterable[int],
    *,
    rows: int,
    row_length: int,
    batch_size: int,
    slots: int,
) -> list[Rows]:
    """Pack every example of ``order`` exactly once into steps of ``rows`` rows.

    Args:
      lengths: token count by example id; each at most ``row_length``.
      order: example ids in the epoch's (shuffled) order.
      rows: rows of a step.
      row_length: tokens of a row.
      batch_size: most examples of a step.
      slots: most examples of a row.

    Returns:
      Per step, per row, the example ids from left to right.
    """
    upcoming = iter(order)
    window: list[int] = []
    returns: dict[int, int] = {}
    steps: list[Rows] = []
    while True:
        while len(window) < _LOOKAHEAD * batch_size:
            example = next(upcoming, None)
            if example is None:
                break
            window.append(example)
        if not window:
            return steps
        chosen, spare = _choose(window, lengths, returns, batch_size, rows * row_length)
        packed = _place(chosen, spare, lengths, returns, rows, row_length, slots)
        taken = {example for row in packed for example in row}
        for example in window[:batch_size]:
            if example not in taken:
                returns[example] = returns.get(example, 0) + 1
        window = [example for example in window if example not in taken]
        steps.append(packed)


def _choose(
    window: list[int], lengths: Sequence[int], returns: dict[int, int], batch_size: int, capacity: int
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The first ``batch_size`` of the window, with a few exchanged to bring their total near the average.

    Returns:
      The chosen ids, and the others as ``(length, place in the window, id)``, sorted.
    """
    chosen = window[:batch_size]
    spare = sorted((lengths[e], place, e) for place, e in enumerate(window[batch_size:], batch_size))
    total = sum(lengths[e] for e in chosen)
    window_total = total + sum(item[0] for item in spare)
    target = min(window_total * len(chosen) / len(window), FULL * capacity)
    # Only those that were never put back may be: long texts would wait for ever otherwise.
    movable = [i for i, e in enumerate(chosen) if e not in returns]
    for _ in range(_MAX_SWAPS):
        excess = total - target
        # One token a row of slack either way: exchanging more would only reorder.
        if not spare or not movable or abs(excess) <= max(1.0, 0.01 * capacity):
            break
        # The longest goes when there is too much, the shortest when there is too little. On ties the first.
        pick = max if excess > 0 else min
        at = pick(movable, key=lambda i: lengths[chosen[i]])
        out = chosen[at]
        near = min(bisect_left(spare, (round(lengths[out] - excess), -1, -1)), len(spare) - 1)
        length, _, example = spare[near]
        if abs(excess - lengths[out] + length) >= abs(excess):
            break
        del spare[near]
        insort(spare, (lengths[out], at, out))
        chosen[at] = example
        total += length - lengths[out]
    return chosen, spare


def _place(
    chosen: list[int],
    spare: list[tuple[int, int, int]],
    lengths: Sequence[int],
    returns: dict[int, int],
    rows: int,
    row_length: int,
    slots: int,
) -> Rows:
    """Best fit, longest first; then fill holes with spare examples until as many are placed as were chosen."""
    packed: list[list[int]] = [[] for _ in range(rows)]
    free = [(row_length, row) for row in range(rows)]  # sorted; full rows are dropped
    left: list[int] = []
    by_size = sorted(chosen, key=lambda e: (returns.get(e, 0) < _MAX_RETURNS, -lengths[e]))
    for example in by_size:
        at = bisect_left(free, (lengths[example], -1))
        if at == len(free):
            left.append(example)
        else:
            _put(example, lengths[example], at, packed, free, slots)
    for _ in range(len(left)):
        if not _fill_hole(packed, free, spare, lengths, returns, left, slots):
            break
    return tuple(tuple(row) for row in packed)


def _put(
    example: int, length: int, at: int, packed: list[list[int]], free: list[tuple[int, int]], slots: int
) -> None:
    room, row = free.pop(at)
    packed[row].append(example)
    if room > length and len(packed[row]) < slots:
        insort(free, (room - length, row))


def _fill_hole(
    packed: list[list[int]],
    free: list[tuple[int, int]],
    spare: list[tuple[int, int, int]],
    lengths: Sequence[int],
    returns: dict[int, int],
    left: list[int],
    slots: int,
) -> bool:
    """Add one example to the row with most room: a short spare one, or a pair for one that goes out.

    The pair is one that found no room (``left``) and the longest spare that then fits.
    """
    if not free:
        return False
    room, row = free[-1]
    near = bisect_right(spare, (room, _LAST, 0)) - 1
    direct = spare[near][0] if near >= 0 else 0
    best = (direct, -1, -1, near)  # tokens gained, index in left, index in row, index in spare
    for i, waiting in enumerate(left):
        for j, inside in enumerate(packed[row]):
            if returns.get(inside, 0) >= _MAX_RETURNS:
                continue
            limit = room + lengths[inside] - lengths[waiting]
            near = bisect_right(spare, (limit, _LAST, 0)) - 1
            if near >= 0:
                gain = lengths[waiting] + spare[near][0] - lengths[inside]
                if gain > best[0]:
                    best = (gain, i, j, near)
    gain, i, j, near = best
    if gain <= 0:
        return False
    example = spare.pop(near)[2]
    if i >= 0:
        packed[row][j], left[i] = left[i], packed[row][j]
    _put(example, gain, len(free) - 1, packed, free, slots)
    return True
