"""Ragged prompts as arrays of few shapes, so that few programs are compiled.

Shapes are rounded up: lengths of prompts and numbers of new tokens to 16, 24, 32, 48, 64, 96, …
(powers of two and the middles between them), rows to powers of two and to a multiple of the devices
that share them.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int, UInt32

from jaxtune.generation.stepping import ROW_AXIS

_SMALLEST = 16


@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts of one program call.

    Attributes:
        rows: which prompt, and which of its texts, each row is; the arrays have more rows, copies of the first.
        tokens, segment_ids: segment 0 is padding.
        draws: two words per row that its random numbers are made from.
    """

    rows: tuple[tuple[int, int], ...]
    tokens: Int[np.ndarray, "B S"]
    segment_ids: Int[np.ndarray, "B S"]
    draws: UInt32[np.ndarray, "B 2"]


def bucket(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, 128 …"""
    power = _SMALLEST
    while power < length:
        power *= 2
    middle = power // 4 * 3
    return middle if _SMALLEST < middle >= length else power


def row_bucket(rows: int, mesh: Mesh | None) -> int:
    """The next power of two, and a multiple of the devices that share the rows."""
    power = 1 << (rows - 1).bit_length()
    parts = mesh.shape[ROW_AXIS] if mesh is not None else 1
    return -(-power // parts) * parts


def make_batches(
    prompts: Sequence[Sequence[int]],
    copies: int,
    batch_size: int,
    pad: int,
    *,
    left: bool,
    mesh: Mesh | None = None,
) -> list[Batch]:
    """Prompts of similar lengths together, the longest first (what memory has to hold shows at once).

    Args:
        copies: rows per prompt, for several samples of it.
        left: padding before the prompt, as decoders need it, else behind it.
    """
    digests = [zlib.crc32(np.asarray(p, "<i4").tobytes()) for p in prompts]
    seen: Counter[int] = Counter()
    draws: list[list[tuple[int, int]]] = []
    for digest in digests:
        # Equal prompts get different texts; others do not influence each other.
        draws.append([(digest, seen[digest] + copy) for copy in range(copies)])
        seen[digest] += copies
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    rows = [(i, copy) for i in order for copy in range(copies)]
    batches = []
    for at in range(0, len(rows), batch_size):
        part = tuple(rows[at : at + batch_size])
        filled = part + part[:1] * (row_bucket(len(part), mesh) - len(part))
        tokens, segments = _padded([prompts[i] for i, _ in filled], pad, left)
        batches.append(Batch(part, tokens, segments, np.array([draws[i][c] for i, c in filled], np.uint32)))
    return batches


def _padded(prompts: Sequence[Sequence[int]], pad: int, left: bool) -> tuple[np.ndarray, np.ndarray]:
    length = bucket(max(map(len, prompts)))
    tokens = np.full((len(prompts), length), pad, np.int32)
    segments = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        at = slice(length - len(prompt), None) if left else slice(None, len(prompt))
        tokens[row, at], segments[row, at] = prompt, 1
    return tokens, segments


def place(array: np.ndarray, mesh: Mesh | None) -> Any:
    """An array with a row per prompt, split as the model's mesh splits rows."""
    if mesh is None:
        return array
    return jax.device_put(array, NamedSharding(mesh, P(ROW_AXIS)))
