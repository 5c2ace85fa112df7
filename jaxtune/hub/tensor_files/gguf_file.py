"""A GGUF file: its metadata, and where its tensors lie. No value in it is trusted to fit the file.

The ``gguf`` package's own reader believes the lengths it reads and makes an array per metadata element; from
that package come the sizes of the block types, and (in gguf_tensors.py) their meaning.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtune.errors import WeightsError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_AXES = 8


@dataclass(frozen=True)
class GgufSlot:
    """Where one tensor lies.

    Attributes:
        type: name of its block type, as ``Q4_K``.
        shape: in elements, rows first as everywhere else here.
        data: its bytes, a view of the mapped file.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: np.ndarray


@dataclass(frozen=True)
class GgufFile:
    """Metadata by its keys in the file, and the tensors by name."""

    path: Path
    metadata: Mapping[str, Any]
    slots: Mapping[str, GgufSlot]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    def get(self, key: str, default: Any = None) -> Any:
        """A setting of this file's architecture, as ``attention.head_count``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def need(self, key: str) -> Any:
        """Such a setting, which must be there.

        Raises:
            WeightsError: it is not.
        """
        value = self.get(key)
        if value is None:
            raise WeightsError(f"{self.path} lacks {self.architecture}.{key}: it cannot be read without.")
        return value


def open_gguf(path: Path) -> GgufFile:
    """Map a file, read its metadata and check that every tensor lies inside it.

    Raises:
        WeightsError: cut short, no GGUF file, one of several parts, or numbers in it that cannot be.
    """
    try:
        mapped = np.asarray(np.memmap(path, np.uint8, "r"))
        file = _Cursor(mapped).read(path)
    except (OSError, ValueError, struct.error, OverflowError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise WeightsError(
            f"{path} is not a sound GGUF file ({error}; {size} bytes). It may be cut short: fetch it again."
        ) from error
    parts = file.metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise WeightsError(
            f"{path} is one of {parts} parts; join them with llama.cpp's gguf-split --merge, and give that file."
        )
    return file


class _Cursor:
    """Reads a mapped file from its beginning on."""

    def __init__(self, mapped: np.ndarray) -> None:
        self._mapped, self._view, self._at = mapped, mapped.data, 0

    def read(self, path: Path) -> GgufFile:
        if bytes(self._view[:4]) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        (version,) = self._take("I")
        if version not in _VERSIONS:
            turned = " (it is a big-endian file)" if version & 0xFFFF == 0 else ""
            raise ValueError(f"its version is {version}{turned}; expected one of {_VERSIONS}")
        tensors, keys = self._take("QQ")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string()
            metadata[key] = self._value(*self._take("I"))
        described = [self._described() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"general.alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        slots = {name: self._slot(name, kind, shape, start + at) for name, kind, shape, at in described}
        if len(slots) != len(described):
            raise ValueError("it names a tensor twice")
        return GgufFile(path, metadata, slots)

    def _take(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self._view, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return found

    def _string(self) -> str:
        (length,) = self._take("Q")
        self._check_room(length, "a text")
        self._at += length
        return bytes(self._view[self._at - length : self._at]).decode("utf-8", "replace")

    def _check_room(self, length: int, what: str) -> None:
        left = self._mapped.size - self._at
        if length > left:
            raise ValueError(f"{what} at byte {self._at} claims {length} bytes, {left} are left")

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._take(_SCALARS[kind])[0]
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"a value of the unknown kind {kind} at byte {self._at}")
        of, count = self._take("IQ")
        if of in _SCALARS:
            layout = np.dtype(_SCALARS[of]).newbyteorder("<")
            self._check_room(count * layout.itemsize, "a list")
            begin, self._at = self._at, self._at + count * layout.itemsize
            return self._mapped[begin : self._at].view(layout).tolist()
        if of != _STRING:
            raise ValueError(f"a list of the kind {of} at byte {self._at}")
        self._check_room(8 * count, "a list of texts")
        return [self._string() for _ in range(count)]

    def _described(self) -> tuple[str, int, tuple[int, ...], int]:
        """Name, type, shape and offset of the next tensor."""
        name = self._string()
        (axes,) = self._take("I")
        if axes > _MOST_AXES:
            raise ValueError(f"tensor {name} has {axes} axes")
        sizes = self._take(f"{axes}Q")
        kind, offset = self._take("IQ")
        return name, kind, sizes[::-1], offset

    def _slot(self, name: str, kind: int, shape: tuple[int, ...], begin: int) -> GgufSlot:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            known = GGMLQuantizationType(kind)
        except ValueError:
            raise ValueError(f"tensor {name} is of the unknown type {kind}") from None
        elements, size = GGML_QUANT_SIZES[known]
        if shape and shape[-1] % elements:
            raise ValueError(
                f"tensor {name} has rows of {shape[-1]}, no multiple of {known.name}'s {elements}"
            )
        end = begin + math.prod(shape) // elements * size
        if end > self._mapped.size:
            raise ValueError(f"tensor {name} ends at byte {end}, the file at {self._mapped.size}")
        return GgufSlot(name, known.name, shape, self._mapped[begin:end])
