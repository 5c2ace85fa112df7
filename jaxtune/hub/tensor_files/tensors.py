"""Reading the tensors of a checkpoint a few rows at a time, whatever file format they lie in."""

from __future__ import annotations

import json
import mmap
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.tensor_files.formats import (
    FLAX,
    FLAX_INDEX,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    is_gguf,
    is_pickle,
    pickle_refusal,
)
from jaxtune.hub.tensor_files.safetensors_file import FLOATS, Slot, open_safetensors


class Stored(Protocol):
    """One tensor of a checkpoint; ``rows`` gives some of it in the type it is stored in."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def rows(self, start: int, stop: int) -> np.ndarray: ...


class Tensors(Protocol):
    """The tensors of a checkpoint by the names its files use.

    Attributes:
        torch_layout: True where linear weights are [out, in] and names are torch's; False where they are Flax's.
        turned_conv1d: True where GPT-2's Conv1D weights lie as [out, in], and not as torch's [in, out].
        slots: every tensor as it lies in safetensors files, in their order; empty for other formats.
        metadata: free text of the header.
    """

    torch_layout: bool
    turned_conv1d: bool
    slots: Mapping[str, Slot]
    metadata: Mapping[str, str]

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def open(self, name: str) -> Stored: ...


@contextmanager
def open_tensors(source: Path) -> Iterator[Tensors]:
    """Open a checkpoint's weights: a GGUF file; in a folder safetensors before Flax's msgpack, whole or in shards.

    Raises:
        SourceError: no weights, or a shard that the index names is missing.
        WeightsError: damaged or lying files, a type that is not supported, or nothing but pickles.
    """
    if is_gguf(source):
        from jaxtune.hub.tensor_files.gguf_tensors import GgufTensors

        yield GgufTensors(source)
        return
    names = {path.name for path in source.iterdir()} if source.is_dir() else set()
    if SAFETENSORS in names:
        yield SafetensorsTensors(source, {SAFETENSORS: None})
    elif SAFETENSORS_INDEX in names:
        yield SafetensorsTensors(source, _shards(source, SAFETENSORS_INDEX))
    elif FLAX in names:
        yield _FlaxMsgpack(source, [FLAX])
    elif FLAX_INDEX in names:
        yield _FlaxMsgpack(source, list(_shards(source, FLAX_INDEX)))
    elif any(map(is_pickle, names)):
        raise pickle_refusal(str(source), filter(is_pickle, names))
    else:
        raise SourceError(
            f"{source} holds no weights: expected {SAFETENSORS} (or {SAFETENSORS_INDEX} with its shards), or {FLAX}."
        )


def _shards(folder: Path, index_name: str) -> dict[str, list[str]]:
    """The files that an index names, each with the tensors it says are in it."""
    index = folder / index_name
    shards: dict[str, list[str]] = {}
    try:
        for tensor, name in sorted(json.loads(index.read_text())["weight_map"].items()):
            shards.setdefault(str(name), []).append(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index} is damaged: expected JSON with a weight_map ({error!r}). Fetch the checkpoint again."
        ) from error
    for name in shards:
        if Path(name).name != name or is_pickle(name):
            raise WeightsError(
                f"{index} names the shard {name!r}, which is not a weights file beside it: refused."
            )
    missing = [name for name in sorted(shards) if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"{folder} lacks {', '.join(missing)}, which {index_name} names. Fetch the checkpoint again."
        )
    return dict(sorted(shards.items()))


class MappedTensor:
    """A tensor of floats in a mapped file."""

    def __init__(self, slot: Slot) -> None:
        if slot.dtype not in FLOATS:
            raise WeightsError(
                f"{slot.file}: tensor {slot.name} is of type {slot.dtype}; expected F32, F16, BF16 or F64."
            )
        self.shape, self.dtype = slot.shape, FLOATS[slot.dtype]
        self._array = slot.data.view(self.dtype).reshape(self.shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._array[start:stop]


class SafetensorsTensors:
    """The tensors of one file or of shards."""

    torch_layout = True
    turned_conv1d = False

    def __init__(self, folder: Path, shards: Mapping[str, list[str] | None]) -> None:
        slots: dict[str, Slot] = {}
        metadata: dict[str, str] = {}
        for file, promised in shards.items():
            opened = open_safetensors(folder / file)
            metadata |= opened.metadata
            lacking = sorted(set(promised or ()) - opened.slots.keys())
            if lacking:
                more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
                raise WeightsError(
                    f"{folder / file} lacks {', '.join(lacking[:3])}{more}, which {SAFETENSORS_INDEX} says is in it. "
                    "Fetch the checkpoint again."
                )
            twice = sorted(slots.keys() & opened.slots.keys())
            if twice:
                raise WeightsError(
                    f"{folder / file}: tensor {twice[0]} is also in {slots[twice[0]].file.name}. "
                    "Fetch the checkpoint again."
                )
            slots |= opened.slots
        self.slots: Mapping[str, Slot] = slots
        self.metadata: Mapping[str, str] = metadata

    def names(self) -> list[str]:
        return list(self.slots)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.slots[name].shape

    def open(self, name: str) -> Stored:
        return MappedTensor(self.slots[name])


class ArrayTensor:
    """A tensor that is in memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self._array = array

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._array[start:stop]


class _FlaxMsgpack:
    torch_layout = False
    turned_conv1d = True  # FlaxConv1D keeps its kernel as [out, in]
    slots: Mapping[str, Slot] = {}
    metadata: Mapping[str, str] = {}

    def __init__(self, folder: Path, shards: list[str]) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        for path in (folder / shard for shard in shards):
            self._arrays |= dict(_flattened(_restore(path), path))

    def names(self) -> list[str]:
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def open(self, name: str) -> Stored:
        return ArrayTensor(self._arrays[name])


def _restore(path: Path) -> Any:
    from flax.serialization import msgpack_restore

    try:
        # Mapped and not read: the file's bytes then do not count beside the arrays made from them.
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return msgpack_restore(typing.cast(bytes, mapped))
    except Exception as error:  # msgpack, numpy and flax raise a dozen kinds for damaged bytes
        raise WeightsError(f"{path} is not a sound Flax msgpack file ({error!r}). Fetch it again.") from error


def _flattened(tree: Any, path: Path, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, np.ndarray):
        yield prefix, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flattened(value, path, f"{prefix}/{key}" if prefix else str(key))
    else:
        raise WeightsError(
            f"{path}: {prefix or 'the top'} is {type(tree).__name__}, expected arrays in dictionaries."
        )
