"""One safetensors file: its header read and checked byte for byte, its tensors as views of the mapped file.

The format's own library hands out copies; a mapped view costs no memory of ours, and lets a shard of a
tensor be read without the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxtune.errors import WeightsError

FLOATS: Mapping[str, Any] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The types that weights are read from, by their names in a header."""
FLOAT_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_BITS = {"BOOL": 8, "C64": 64} | {
    f"{kind}{bits}": bits for kind in ("I", "U", "F") for bits in (8, 16, 32, 64)
}
_BITS |= {"BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
_MOST_HEADER = 100_000_000


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in a file.

    Attributes:
        dtype: the format's name, as ``BF16``.
        data: the tensor's bytes, a view of the mapped file.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray


@dataclass(frozen=True)
class SafetensorsFile:
    """The tensors of a file in the order they lie in it, and the header's free text."""

    slots: Mapping[str, Slot]
    metadata: Mapping[str, str]


def open_safetensors(path: Path) -> SafetensorsFile:
    """Map a file and check that its header tells the truth about every tensor.

    Raises:
        WeightsError: cut short, no safetensors file, or a header that lies; names the file and the tensor.
    """
    try:
        mapped = np.asarray(np.memmap(path, np.uint8, "r"))
        header, start = _header(mapped)
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict):
            raise ValueError("__metadata__ is no object")
        return SafetensorsFile(_slots(path, header, mapped[start:]), metadata)
    except (OSError, ValueError, RecursionError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise WeightsError(
            f"{path} is not a sound safetensors file ({error}; {size} bytes). "
            "It may be cut short, or a Git LFS pointer: fetch it again."
        ) from error


def _header(mapped: np.ndarray) -> tuple[dict[str, Any], int]:
    """The parsed header, and where the data begins."""
    if mapped.size < 8:
        raise ValueError("shorter than the length of a header")
    length = int.from_bytes(mapped[:8].tobytes(), "little")
    if length > min(mapped.size - 8, _MOST_HEADER):
        raise ValueError(
            f"its header claims {length} bytes, the file has {mapped.size - 8} after that number"
        )
    header = json.loads(mapped[8 : 8 + length].tobytes(), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names something twice")
    return found


def _slots(path: Path, header: dict[str, Any], data: np.ndarray) -> dict[str, Slot]:
    described = {name: _described(name, entry) for name, entry in header.items()}
    slots = {}
    reached = 0
    for name, (dtype, shape, begin, end) in sorted(described.items(), key=lambda item: item[1][2:]):
        if begin != reached:
            what = "overlaps the one before it" if begin < reached else "leaves a gap before it"
            raise ValueError(f"tensor {name} {what}: it begins at {begin}, expected {reached}")
        if end > data.size:
            raise ValueError(f"tensor {name} ends at {end}, the data at {data.size}")
        reached = end
        slots[name] = Slot(path, name, dtype, shape, data[begin:end])
    if reached != data.size:
        raise ValueError(f"the header describes {reached} bytes of data, the file has {data.size}")
    return slots


def _described(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape and place that a header gives for a tensor, if they agree with each other."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"tensor {name} has no dtype, shape and data_offsets") from None
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not all(type(n) is int and n >= 0 for n in numbers) or begin > end or not isinstance(dtype, str):
        raise ValueError(f"tensor {name} has dtype {dtype!r}, shape {shape!r}, data_offsets {[begin, end]}")
    bits = _BITS.get(dtype)
    # A type that this version does not know can still be carried through unread.
    if bits is not None and (math.prod(shape) * bits + 7) // 8 != end - begin:
        raise ValueError(f"tensor {name} is {dtype} {shape}, which is not {end - begin} bytes")
    return dtype, tuple(shape), begin, end
