"""One example per row, padded to one of a few lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

MULTIPLE = 8
"""Row lengths are rounded up to a multiple of this."""


def round_up(length: int, multiple: int = MULTIPLE) -> int:
    """The next multiple of ``multiple`` from ``length`` on."""
    return -(-length // multiple) * multiple


def choose_buckets(lengths: Int[np.ndarray, " n"], count: int) -> tuple[int, ...]:
    """The at most ``count`` row lengths (rising, multiples of 8) with the least padding over ``lengths``.

    Dynamic programming over the rounded lengths: ``cost[j]`` is the least number of padded tokens
    for all examples up to length ``j`` with the buckets so far.
    """
    per_size = np.bincount((np.asarray(lengths, np.int64) + MULTIPLE - 1) // MULTIPLE)
    examples = np.concatenate([[0], np.cumsum(per_size)])  # examples[j]: how many lie below size j
    size = np.arange(len(per_size), dtype=np.int64)
    # held[i, j]: tokens of the rows when sizes i…j all go to bucket j; sizes above j are impossible.
    held = (examples[1:][None, :] - examples[:-1][:, None]) * size[None, :]
    held = np.where(size[:, None] <= size[None, :], held, np.iinfo(np.int64).max // 4)
    cost = held[0].copy()
    cuts: list[np.ndarray] = []
    for _ in range(min(count, len(size)) - 1):
        with_one_more = np.concatenate([[0], cost[:-1]])[:, None] + held
        cuts.append(with_one_more.argmin(axis=0))
        cost = with_one_more.min(axis=0)
    last = len(size) - 1
    chosen = [last]
    for cut in reversed(cuts):
        last = int(cut[last]) - 1
        if last <= 0:
            break
        chosen.append(last)
    return tuple(int(s) * MULTIPLE for s in sorted(set(chosen)))


def bucket_epoch(
    lengths: Int[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
    buckets: Sequence[int],
    sizes: Sequence[int],
) -> list[tuple[tuple[int, ...], int]]:
    """Batches of one epoch as ``(example ids, row length)``, smallest bucket first.

    ``sizes`` says how many examples a batch of each bucket has. Examples keep their order within a bucket. What
    does not fill a batch of its bucket goes into the next larger one, so that only the last batch can have fewer.
    """
    batches: list[tuple[tuple[int, ...], int]] = []
    waiting = np.zeros(0, np.int64)
    lower = 0
    for bucket, batch_size in zip(buckets, sizes, strict=True):
        of_order = lengths[order]
        own = order[(of_order > lower) & (of_order <= bucket)]
        ids = np.concatenate([waiting, own])
        whole = len(ids) // batch_size * batch_size
        batches += [(tuple(batch), bucket) for batch in ids[:whole].reshape(-1, batch_size).tolist()]
        waiting, lower = ids[whole:], bucket
    if len(waiting):
        batches.append((tuple(waiting.tolist()), buckets[-1]))
    return batches
