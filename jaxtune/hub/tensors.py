"""Reading the tensors of a checkpoint one at a time, whatever file format they lie in."""

from __future__ import annotations

import json
import mmap
import typing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes  # noqa: F401 -- registers bfloat16 with numpy, which safetensors then finds
import numpy as np

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.formats import FLAX, FLAX_INDEX, SAFETENSORS, SAFETENSORS_INDEX, is_pickle, pickle_refusal


class Tensors(Protocol):
    """The tensors of a checkpoint by the names its files use.

    Attributes:
        torch_layout: True where linear weights are [out, in] and names are torch's; False where they are Flax's.
    """

    torch_layout: bool

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str) -> np.ndarray: ...


@contextmanager
def open_tensors(folder: Path) -> Iterator[Tensors]:
    """Open the weights of a checkpoint folder: safetensors before Flax's msgpack, in one file or in shards.

    Raises:
        SourceError: no weights, or a shard that the index names is missing.
        WeightsError: damaged or lying files, a dtype that is not supported, or nothing but pickles.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    with ExitStack() as stack:
        if SAFETENSORS in names:
            yield _Safetensors(folder, [SAFETENSORS], stack)
        elif SAFETENSORS_INDEX in names:
            yield _Safetensors(folder, _shards(folder, SAFETENSORS_INDEX), stack)
        elif FLAX in names:
            yield _FlaxMsgpack(folder, [FLAX])
        elif FLAX_INDEX in names:
            yield _FlaxMsgpack(folder, _shards(folder, FLAX_INDEX))
        elif any(map(is_pickle, names)):
            raise pickle_refusal(str(folder), filter(is_pickle, names))
        else:
            raise SourceError(
                f"{folder} holds no weights: expected {SAFETENSORS} (or {SAFETENSORS_INDEX} with its shards), or {FLAX}."
            )


def _shards(folder: Path, index_name: str) -> list[str]:
    index = folder / index_name
    try:
        shards = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index} is damaged: expected JSON with a weight_map ({error!r}). Fetch the checkpoint again."
        ) from error
    for name in shards:
        if Path(name).name != name or is_pickle(name):
            raise WeightsError(
                f"{index} names the shard {name!r}, which is not a weights file beside it: refused."
            )
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"{folder} lacks {', '.join(missing)}, which {index_name} names. Fetch the checkpoint again."
        )
    return shards


class _Safetensors:
    torch_layout = True

    def __init__(self, folder: Path, shards: list[str], stack: ExitStack) -> None:
        from safetensors import SafetensorError, safe_open

        self._where: dict[str, tuple[Path, Any]] = {}
        for path in (folder / shard for shard in shards):
            try:
                opened = stack.enter_context(safe_open(path, framework="np"))
            except (SafetensorError, OSError) as error:
                raise WeightsError(
                    f"{path} is not a sound safetensors file ({error}; {path.stat().st_size} bytes). "
                    "It may be cut short, or a Git LFS pointer: fetch it again."
                ) from error
            self._where |= dict.fromkeys(opened.keys(), (path, opened))

    def names(self) -> list[str]:
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._where[name][1].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        path, opened = self._where[name]
        dtype = opened.get_slice(name).get_dtype()
        if dtype not in ("F64", "F32", "F16", "BF16"):
            raise WeightsError(f"{path}: tensor {name} is of type {dtype}; expected F32, F16, BF16 or F64.")
        return opened.get_tensor(name).astype(np.float32, copy=False)


class _FlaxMsgpack:
    torch_layout = False

    def __init__(self, folder: Path, shards: list[str]) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        for path in (folder / shard for shard in shards):
            self._arrays |= dict(_flattened(_restore(path), path))

    def names(self) -> list[str]:
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def read(self, name: str) -> np.ndarray:
        # Taken out, so that what was converted is freed.
        return self._arrays.pop(name).astype(np.float32)


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
