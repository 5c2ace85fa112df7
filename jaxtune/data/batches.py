"""From planned rows to arrays of fixed shape, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jaxtune.data.examples import Examples
from jaxtune.data.planning import StepPlan
from jaxtune.labels import IGNORED

Batch = dict[str, np.ndarray]
"""tokens, segment_ids, positions, token_types: int32 [B, S]; starts, example_ids: int32 [B, N];
targets: int32 or float32 [B, N] or [B, N, k]; weights: float32 [B, N]. With a second text decoder_tokens,
decoder_segment_ids, decoder_positions: int32 [B, T]. With a label per token labels: int32 [B, S] or [B, T],
``IGNORED`` where there is none; or, of few tokens, at and labels: int32 [B, M]. Where a text is several parts, parts:
int32 [B, N, K], the tokens of each, and starts: int32 [B, N·K]."""

Arrays = Mapping[str, np.ndarray]


def build_batch(
    examples: Examples,
    step: StepPlan,
    rows: slice | Sequence[int] | None = None,
    *,
    arrays_of: Callable[[int], Arrays] | None = None,
    most_labels: int | None = None,
) -> Batch:
    """The batch of ``step``, or only its ``rows``.

    ``segment_ids`` are 0 at padding and 1, 2, … for the examples of a row; ``positions`` restart at each;
    ``starts`` are the places of their first tokens. An absent example has weight 0, id -1, start 0, target 0.
    Where a text is several parts, each is kept apart as an example is: a segment, positions and a start of its own.

    Args:
      arrays_of: the ragged columns of an example by its id, labels among them, where they are not those stored.
      most_labels: M: give labels as ``at`` and ``labels`` [B, M] instead of one for every token.
    """
    rows = slice(None) if rows is None else rows
    planned = step.rows[rows] if isinstance(rows, slice) else tuple(step.rows[row] for row in rows)
    changed = arrays_of is not None
    arrays_of = arrays_of or examples.arrays_of
    per_example = (len(planned), step.slots)
    batch: Batch = {
        "starts": np.zeros(per_example, np.int32),
        "targets": np.zeros((*per_example, *examples.targets.shape[1:]), examples.targets.dtype),
        "weights": np.zeros(per_example, np.float32),
        "example_ids": np.full(per_example, -1, np.int32),
    }
    parts = examples.parts
    if parts is not None:
        batch["parts"] = np.zeros((*per_example, parts.shape[1]), np.int32)
        batch["starts"] = np.zeros((len(planned), step.slots * parts.shape[1]), np.int32)
    text = _Side(batch, "", (len(planned), step.length), ("tokens", "token_types"))
    decoder = None
    if step.decoder_length:
        decoder = _Side(batch, "decoder_", (len(planned), step.decoder_length), ("decoder_tokens",))
    labelled = decoder or text
    if "labels" in examples.columns or changed:
        labelled.add("labels", IGNORED)
    for i, row in enumerate(planned):
        for n, example in enumerate(row):
            arrays = arrays_of(example)
            start = text.put(i, n, arrays)
            if decoder is not None:
                decoder.put(i, n, arrays)
            if parts is None:
                batch["starts"][i, n] = start
            else:
                batch["parts"][i, n] = parts[example]
                text.divide(i, n, start, parts[example])
            batch["weights"][i, n], batch["example_ids"][i, n] = 1.0, example
            batch["targets"][i, n] = examples.targets[example]
    if most_labels is not None:
        batch |= _few_labels(batch.pop("labels"), most_labels)
    return batch


class _Side:
    """The arrays of one text of a batch, filled from the left."""

    def __init__(self, batch: Batch, prefix: str, shape: tuple[int, int], columns: Sequence[str]) -> None:
        self._batch, self._shape, self._columns = batch, shape, list(columns)
        self._segments, self._positions = f"{prefix}segment_ids", f"{prefix}positions"
        for name in (*columns, self._segments, self._positions):
            batch[name] = np.zeros(shape, np.int32)
        self._filled = np.zeros(shape[0], np.int64)

    def add(self, name: str, empty: int) -> None:
        """One more column."""
        self._columns.append(name)
        self._batch[name] = np.full(self._shape, empty, np.int32)

    def put(self, row: int, n: int, arrays: Arrays) -> int:
        """Put the ``n``-th example of a row behind those that are there; returns where it starts."""
        start = int(self._filled[row])
        length = len(arrays[self._columns[0]])
        span = slice(start, start + length)
        for name in self._columns:
            self._batch[name][row, span] = arrays[name]
        self._batch[self._segments][row, span] = n + 1
        self._batch[self._positions][row, span] = np.arange(length)
        self._filled[row] = span.stop
        return start

    def divide(self, row: int, n: int, start: int, parts: Int[np.ndarray, " K"]) -> None:
        """Give each part of the ``n``-th example, which begins at ``start``, a segment, positions and a start."""
        for k, length in enumerate(parts.tolist()):
            if length:
                span, number = slice(start, start + length), n * len(parts) + k
                self._batch[self._segments][row, span] = number + 1
                self._batch[self._positions][row, span] = np.arange(length)
                self._batch["starts"][row, number] = start
                start += length


def _few_labels(labels: Int[np.ndarray, "B S"], most: int) -> Batch:
    """Where the labelled tokens are, and their labels; padded with token 0 and no label."""
    at = np.zeros((len(labels), most), np.int32)
    found = np.full((len(labels), most), IGNORED, np.int32)
    for i, row in enumerate(labels):
        places = np.flatnonzero(row != IGNORED)
        at[i, : len(places)], found[i, : len(places)] = places, row[places]
    return {"at": at, "labels": found}


def unpack(batch: Batch) -> list[tuple[int, Int[np.ndarray, " n"]]]:
    """The ``(example id, tokens)`` a batch holds, row by row: the inverse of :func:`build_batch`."""
    found: list[tuple[int, np.ndarray]] = []
    parts = batch["parts"].shape[-1] if "parts" in batch else 1
    for tokens, segments, ids in zip(batch["tokens"], batch["segment_ids"], batch["example_ids"]):
        segments = (segments + parts - 1) // parts  # those of an example's parts follow each other
        found += [(int(e), tokens[segments == n + 1]) for n, e in enumerate(ids) if e >= 0]
    return found
