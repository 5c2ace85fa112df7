"""Parameters → the tensors of a checkpoint, under the names and in the types they came with or under today's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxtune.errors import WeightsError
from jaxtune.hub.matching import Place, entries_of, expected_shapes, file_shape, match
from jaxtune.hub.tensor_files.leaves import CHUNK_BYTES, row_chunks
from jaxtune.hub.tensor_files.safetensors_file import FLOAT_NAMES, FLOATS, Slot
from jaxtune.hub.tensor_files.tensors import Stored, Tensors
from jaxtune.hub.weights import find
from jaxtune.hub.writing import Output
from jaxtune.models.registry import family_of_config

EXPORT_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass
class Export:
    """What to write of a model, and what became of it.

    Attributes:
        params: canonical or scanned tree of jax or numpy arrays.
        dtype: header name of the type all floats are written in; none keeps each as it was.
        overflowed: names of tensors whose finite values became infinite; filled while the outputs are written.
    """

    params: Mapping[str, Any]
    config: Any
    head: str | None
    num_labels: int
    dtype: str | None = None
    overflowed: dict[str, None] = field(default_factory=dict)

    def modern(self, origin: Tensors | None = None) -> list[Output]:
        """Every parameter under today's name, once.

        Args:
            origin: the checkpoint they were read from: what is still as it was keeps its bits and type.
        """
        prefix = family_of_config(self.config).prefix if self.head is not None else ""
        places = self._places(origin)
        groups: dict[str, list[Place]] = {}
        for place in places:
            groups.setdefault(("" if place.in_head else prefix) + place.entry.hf, []).append(place)
        outputs = []
        for name, group in groups.items():
            known = origin is not None and all(place.names for place in group)
            taken = origin.open(group[0].names[0]) if origin is not None and known else None
            outputs.append(self._parameter(name, group, taken, taken))
        for name, array in family_of_config(self.config).constants(self.config).items():
            outputs.append(self._constant(prefix + name, array, outputs[0].dtype))
        return outputs

    def original(self, origin: Tensors) -> list[Output]:
        """Every tensor of the checkpoint under its own name and in its own type, and after them what is new."""
        places = self._places(origin)
        groups: dict[str, list[Place]] = {}
        for place in places:
            for name in place.names:
                groups.setdefault(name, []).append(place)
        outputs = []
        for name, slot in origin.slots.items():
            if name in groups:
                taken = origin.open(groups[name][0].names[0])
                outputs.append(self._parameter(name, groups[name], taken, origin.open(name)))
            else:
                outputs.append(self._carried(slot))
        prefix = family_of_config(self.config).prefix
        prefixed = any(name.startswith(prefix) for p in places if not p.in_head for name in p.names)
        fresh: dict[str, list[Place]] = {}
        for place in places:
            if not place.names and not self._is_still_borrowed(place, origin):
                before = prefix if prefixed and not place.in_head else ""
                fresh.setdefault(before + place.entry.hf, []).append(place)
        return outputs + [self._parameter(name, group, None, None) for name, group in fresh.items()]

    def _is_still_borrowed(self, place: Place, origin: Tensors) -> bool:
        """Whether a parameter that took another's tensor for want of its own still is that tensor."""
        if place.borrowed is None:
            return False
        stored, ours = origin.open(place.borrowed), Joined(self.params, [place], self.config)
        if stored.shape != ours.shape:
            return False
        ours.fetch()
        chunks = row_chunks(0, ours.shape[0], 4 * math.prod(ours.shape[1:]))
        return all(_same_bits(stored.rows(a, b), ours.rows(a, b)) for a, b in chunks)

    def _places(self, origin: Tensors | None) -> list[Place]:
        shapes = expected_shapes(self.config, self.head, max(self.num_labels, 1))
        if origin is not None:
            return match(origin, self.config, self.head, shapes)
        entries = entries_of(self.config, self.head)
        return [Place(path, entry, shapes[path], ()) for path, entry in entries if path in shapes]

    def _parameter(
        self, name: str, group: Sequence[Place], taken: Stored | None, own: Stored | None
    ) -> Output:
        """A tensor of one parameter, or of several that the checkpoint joins.

        Args:
            taken: the tensor the parameter was read from, if any.
            own: the tensor of this name, which is ``taken`` or tied to it.
        """
        group = sorted(group, key=lambda place: (place.entry.part or (0, 1))[0])
        part = Joined(self.params, group, self.config)
        if taken is not None and (taken.shape != part.shape or own is None or own.shape != part.shape):
            taken = None
        dtype = self.dtype or _dtype_name(part.dtype if own is None else own.dtype, group[0].path)
        itemsize = FLOATS[dtype].itemsize

        def chunks() -> Iterator[np.ndarray]:
            part.fetch()
            rows = part.shape[0] if part.shape else 1
            for start, stop in row_chunks(0, rows, 4 * math.prod(part.shape[1:])):
                piece = part.rows(start, stop)
                if taken is not None and own is not None and _same_bits(taken.rows(start, stop), piece):
                    piece = own.rows(start, stop)  # not trained: its bits as they were
                yield self._cast(name, piece, dtype)
            part.release()

        return Output(name, dtype, part.shape, math.prod(part.shape) * itemsize, chunks)

    def _carried(self, slot: Slot) -> Output:
        """A tensor that the model does not use, byte for byte unless another type is asked for."""
        if self.dtype is None or slot.dtype not in FLOATS:
            step = CHUNK_BYTES
            pieces = range(0, slot.data.size, step)
            return Output(
                slot.name,
                slot.dtype,
                slot.shape,
                slot.data.size,
                lambda: (slot.data[i : i + step] for i in pieces),
            )
        dtype, flat = self.dtype, slot.data.view(FLOATS[slot.dtype])
        step = CHUNK_BYTES // flat.itemsize
        starts = range(0, flat.size, step)
        nbytes = flat.size * FLOATS[dtype].itemsize
        return Output(
            slot.name,
            dtype,
            slot.shape,
            nbytes,
            lambda: (self._cast(slot.name, flat[i : i + step], dtype) for i in starts),
        )

    def _constant(self, name: str, array: np.ndarray, dtype: str) -> Output:
        """A tensor that is computed from the configuration, in the type of the others."""
        nbytes = array.size * FLOATS[dtype].itemsize
        return Output(name, dtype, array.shape, nbytes, lambda: iter([self._cast(name, array, dtype)]))

    def _cast(self, name: str, piece: np.ndarray, dtype: str) -> np.ndarray:
        if piece.dtype == FLOATS[dtype]:
            return piece
        with np.errstate(over="ignore"):
            cast = piece.astype(FLOATS[dtype])
        narrower = piece.dtype.itemsize > cast.dtype.itemsize or dtype == "F16"
        if narrower and (np.isinf(cast) & np.isfinite(piece)).any():
            self.overflowed[name] = None
        return cast


class Joined:
    """The tensor of a checkpoint that one parameter of ours is, or several together.

    Attributes:
        shape: in the checkpoint.
        dtype: of our parameters.
    """

    def __init__(self, params: Mapping[str, Any], group: Sequence[Place], config: Any) -> None:
        self._params, self._group, self._config = params, group, config
        self._turned = group[0].entry.transform == "transpose"
        leaf_shape, self.dtype = _shape_and_dtype(params, group[0].path)
        self.shape = file_shape(group[0].entry, leaf_shape, config, self._turned and len(leaf_shape) == 2)
        self._axis = 0 if self._turned else len(self.shape) - 1
        self._views: list[np.ndarray] = []

    def fetch(self) -> None:
        """Bring the parameters to the host, as they lie in the checkpoint."""
        self._views = [self._view(place) for place in self._group]

    def release(self) -> None:
        self._views = []

    def _view(self, place: Place) -> np.ndarray:
        host = _on_host(self._params, place.path)
        match place.entry.transform:
            case "transpose":
                return host.T
            case "pad_rows":
                return host[: self._config.vocab_size]
            case "pad_columns":
                return host[None, : self._config.vocab_size]
            case _:
                return host

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the joined tensor."""
        if not self.shape:
            return self._views[0].reshape(1)
        if len(self._views) == 1:
            return self._views[0][start:stop]
        if self._axis == len(self.shape) - 1 and len(self.shape) > 1:
            return np.concatenate([view[start:stop] for view in self._views], axis=-1)
        pieces, first = [], 0
        for view in self._views:
            pieces.append(view[max(start - first, 0) : max(stop - first, 0)])
            first += len(view)
        return np.concatenate(pieces)


def _shape_and_dtype(params: Mapping[str, Any], path: str) -> tuple[tuple[int, ...], Any]:
    node, row = find(params, path)
    return tuple(node.shape if row is None else node.shape[1:]), np.dtype(node.dtype)


def _on_host(params: Mapping[str, Any], path: str) -> np.ndarray:
    node, row = find(params, path)
    leaf = node if row is None else node[row]
    shards = getattr(leaf, "addressable_shards", None)
    if shards is None:
        return np.asarray(leaf)
    # Not np.asarray(leaf): a jax array keeps that copy for as long as it lives, and so would the whole model.
    if len(shards) == 1 or leaf.is_fully_replicated:
        return np.asarray(shards[0].data)
    host = np.empty(leaf.shape, leaf.dtype)
    for shard in shards:
        if shard.replica_id == 0:
            host[shard.index] = np.asarray(shard.data)
    return host


def _same_bits(stored: np.ndarray, ours: np.ndarray) -> bool:
    """Whether a parameter still is what was read, in the type it was read into."""
    unsigned = f"u{ours.dtype.itemsize}"
    with np.errstate(over="ignore"):
        was = stored.astype(ours.dtype)
    return bool(np.array_equal(was.reshape(ours.shape).view(unsigned), ours.view(unsigned)))


def _dtype_name(dtype: Any, path: str) -> str:
    name = FLOAT_NAMES.get(np.dtype(dtype))
    if name is None:
        raise WeightsError(
            f"parameter {path} is {np.dtype(dtype).name}; expected one of {', '.join(EXPORT_DTYPES)}."
        )
    return name
