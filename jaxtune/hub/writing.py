"""Writing safetensors: one file, or shards with an index; each tensor is made while it is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtune.hub.tensor_files.formats import SAFETENSORS, SAFETENSORS_INDEX

MAX_SHARD_SIZE = 5_000_000_000


@dataclass(frozen=True)
class Output:
    """A tensor to be written.

    Attributes:
        dtype: the format's name, as ``BF16``.
        nbytes: how many bytes ``chunks`` gives in all.
        chunks: the tensor's bytes in order, a few rows at a time.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    chunks: Callable[[], Iterator[np.ndarray]]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def write_safetensors(
    folder: Path, outputs: Sequence[Output], metadata: Mapping[str, str], max_shard_size: int = MAX_SHARD_SIZE
) -> None:
    """Write ``model.safetensors``, or shards and their index where the tensors are more than ``max_shard_size``.

    Raises:
        OSError: the folder cannot be written.
    """
    shards = _shards(outputs, max_shard_size)
    if len(shards) == 1:
        _write_file(folder / SAFETENSORS, shards[0], metadata)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard, metadata)
        weight_map |= {output.name: name for output in shard}
    index = {"metadata": {"total_size": sum(o.nbytes for o in outputs)}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / SAFETENSORS_INDEX).write_text(text, encoding="utf-8")


def _shards(outputs: Iterable[Output], max_shard_size: int) -> list[list[Output]]:
    """Outputs in order, in groups that are no larger than that unless a single tensor is."""
    shards: list[list[Output]] = [[]]
    size = 0
    for output in outputs:
        if shards[-1] and size + output.nbytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(output)
        size += output.nbytes
    return shards


def _write_file(file: Path, outputs: Sequence[Output], metadata: Mapping[str, str]) -> None:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for output in outputs:
        end = offset + output.nbytes
        header[output.name] = {
            "dtype": output.dtype,
            "shape": list(output.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Data starts at a multiple of eight, as readers that map the file want.
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        for output in outputs:
            for chunk in output.chunks():
                # A type that NumPy does not know itself (bfloat16) has no buffer: its bytes have.
                out.write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
