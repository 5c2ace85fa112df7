"""From planned rows to arrays of fixed shape, and back."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from jaxtune.data.examples import Examples
from jaxtune.data.planning import StepPlan

Batch = dict[str, np.ndarray]
"""tokens, segment_ids, positions, token_types: int32 [B, S]; starts, example_ids: int32 [B, N];
targets: int32 or float32 [B, N]; weights: float32 [B, N]."""


def build_batch(examples: Examples, step: StepPlan, rows: slice | None = None) -> Batch:
    """The batch of ``step``, or only its ``rows``.

    ``segment_ids`` are 0 at padding and 1, 2, … for the examples of a row; ``positions`` restart at each;
    ``starts`` are the places of their first tokens. An absent example has weight 0, id -1, start 0, target 0.
    """
    planned = step.rows if rows is None else step.rows[rows]
    shape, per_example = (len(planned), step.length), (len(planned), step.slots)
    tokens = np.zeros(shape, np.int32)
    segment_ids, positions, token_types = (np.zeros(shape, np.int32) for _ in range(3))
    starts = np.zeros(per_example, np.int32)
    targets = np.zeros(per_example, examples.targets.dtype)
    weights = np.zeros(per_example, np.float32)
    example_ids = np.full(per_example, -1, np.int32)
    for i, row in enumerate(planned):
        start = 0
        for n, example in enumerate(row):
            ids, types = examples.tokens_of(example), examples.token_types_of(example)
            span = slice(start, start + len(ids))
            tokens[i, span], token_types[i, span] = ids, types
            segment_ids[i, span] = n + 1
            positions[i, span] = np.arange(len(ids))
            starts[i, n], weights[i, n], example_ids[i, n] = start, 1.0, example
            targets[i, n] = examples.targets[example]
            start = span.stop
    return {
        "tokens": tokens,
        "segment_ids": segment_ids,
        "positions": positions,
        "token_types": token_types,
        "starts": starts,
        "targets": targets,
        "weights": weights,
        "example_ids": example_ids,
    }


def unpack(batch: Batch) -> list[tuple[int, Int[np.ndarray, " n"]]]:
    """The ``(example id, tokens)`` a batch holds, row by row: the inverse of :func:`build_batch`."""
    found: list[tuple[int, np.ndarray]] = []
    for tokens, segments, ids in zip(batch["tokens"], batch["segment_ids"], batch["example_ids"]):
        found += [(int(e), tokens[segments == n + 1]) for n, e in enumerate(ids) if e >= 0]
    return found
