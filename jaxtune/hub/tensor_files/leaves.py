"""A parameter of ours as it lies in a checkpoint: any block of it can be read without the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from jaxtune.hub.tensor_files.tensors import Stored

CHUNK_BYTES = 8 << 20
"""So much of a tensor is turned and converted at a time; copies of that size are all that is held beside the result."""

_TURNED_ROWS = 64
_ALIGNMENT = 64

Index = tuple[slice, ...]


class Readable(Protocol):
    """What can be read block by block onto devices.

    Attributes:
        shape: of the whole parameter in our tree.
        dtype: as stored.
        nonfinite: set once NaN or infinity was read.
    """

    @property
    def nonfinite(self) -> bool: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def block(self, index: Index, dtype: Any) -> np.ndarray: ...


@dataclass
class Leaf:
    """One parameter of the canonical tree.

    Attributes:
        name: of the tensor in the checkpoint.
        turned: the file has it transposed.
        offset: along the file's output axis, where it is one of several in a fused tensor.
        output_axis: that axis of the file.
        leading: the file has an axis of length 1 in front ([1, V]).
    """

    name: str
    stored: Stored
    shape: tuple[int, ...]
    turned: bool = False
    offset: int = 0
    output_axis: int = 0
    leading: bool = False
    nonfinite: bool = field(default=False, compare=False)

    @property
    def dtype(self) -> Any:
        return self.stored.dtype

    def block(self, index: Index, dtype: Any) -> np.ndarray:
        """The part ``index`` of the parameter as a new array; rows beyond the file's (padding) are zero."""
        bounds = [s.indices(n)[:2] for s, n in zip(index, self.shape)]
        out = aligned_empty(tuple(stop - start for start, stop in bounds), dtype)
        in_file, view = list(bounds), out
        if self.turned:
            in_file, view = in_file[::-1], out.T
        if self.leading:
            in_file, view = [(0, 1), *in_file], view[None]
        if not in_file:
            in_file, view = [(0, 1)], view.reshape(1)
        self._fill(view, in_file)
        return out

    def _fill(self, view: np.ndarray, bounds: list[tuple[int, int]]) -> None:
        """Fill ``view``, which lies as the file does, from these bounds of the file."""
        if self.offset:
            start, stop = bounds[self.output_axis]
            bounds[self.output_axis] = (start + self.offset, stop + self.offset)
        shape = self.stored.shape or (1,)
        ends = [min(stop, n) for (_, stop), n in zip(bounds, shape)]
        inside = tuple(slice(0, max(end - start, 0)) for (start, _), end in zip(bounds, ends))
        if any(s.stop < n for s, n in zip(inside, view.shape)):
            view[...] = 0
        (first, _), rest = (
            bounds[0],
            tuple(slice(start, end) for (start, _), end in zip(bounds[1:], ends[1:])),
        )
        for start, stop in row_chunks(first, ends[0], math.prod(shape[1:]) * self.dtype.itemsize):
            piece = self.stored.rows(start, stop)
            piece = piece.reshape(1) if not piece.ndim else piece[(slice(None), *rest)]
            self.nonfinite = self.nonfinite or not all_finite(piece)
            # A transposing copy of few rows at a time stays in the cache: four times as fast.
            step = _TURNED_ROWS if self.turned else stop - start
            for row in range(start, stop, step):
                some = slice(row - first, min(row + step, stop) - first)
                view[(some, *inside[1:])] = piece[row - start : row - start + step]


@dataclass
class Stack:
    """The same parameter of every layer as one array [L, …], for a model that scans its layers."""

    layers: Sequence[Leaf]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.layers), *self.layers[0].shape)

    @property
    def dtype(self) -> Any:
        return self.layers[0].dtype

    @property
    def nonfinite(self) -> bool:
        return any(layer.nonfinite for layer in self.layers)

    def block(self, index: Index, dtype: Any) -> np.ndarray:
        """The part ``index`` of the stacked parameter as a new array."""
        chosen = self.layers[index[0]]
        first = chosen[0].block(index[1:], dtype)
        out = aligned_empty((len(chosen), *first.shape), dtype)
        out[0] = first
        for row, layer in enumerate(chosen[1:], start=1):
            out[row] = layer.block(index[1:], dtype)
        return out


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array at a multiple of 64 bytes: one that a CPU device can use as it is, without a copy."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(nbytes + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return room[first : first + nbytes].view(dtype).reshape(shape)


def row_chunks(start: int, stop: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows that together are start … stop, each of about ``CHUNK_BYTES``."""
    step = max(1, CHUNK_BYTES // max(row_bytes, 1))
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


_INFINITY = {"float64": 0x7FF << 52, "float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits of infinity; those of NaN are greater."""


def all_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite."""
    if not array.size:
        return True
    infinity, bits = _INFINITY[array.dtype.name], 8 * array.dtype.itemsize
    # Read as signed integers the greatest is a positive float, as unsigned ones a negative float if there is any.
    greatest = int(array.view(f"i{bits // 8}").max())
    lowest = int(array.view(f"u{bits // 8}").max())
    return greatest < infinity and lowest < infinity + (1 << (bits - 1))
