"""Which tensor of a checkpoint is which parameter of a model."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtune.errors import WeightsError
from jaxtune.hub.tensor_files.leaves import Leaf, row_chunks
from jaxtune.hub.tensor_files.tensors import Tensors
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of_config
from jaxtune.models.weight_map import OLD_NAMES, WeightEntry

_FLAX_WEIGHTS = ("kernel", "embedding", "scale", "weight")
"""What transformers' Flax models call torch's ``weight``, by the kind of module."""


@dataclass(frozen=True)
class Place:
    """A parameter of a model, and the tensors of a checkpoint that are it.

    Attributes:
        path: in the canonical tree, ``backbone/…`` or ``head/…``.
        shape: there.
        names: in the checkpoint; the first is read, the others are tied to it. None: the checkpoint lacks it.
        borrowed: another parameter's tensor, which is read where the checkpoint lacks this one's.
    """

    path: str
    entry: WeightEntry
    shape: tuple[int, ...]
    names: tuple[str, ...]
    borrowed: str | None = None

    @property
    def source(self) -> str | None:
        """The tensor that is read."""
        return self.names[0] if self.names else self.borrowed

    @property
    def in_head(self) -> bool:
        return self.path.startswith("head/")


@functools.lru_cache(maxsize=8)
def expected_shapes(config: Any, head: str | None, num_labels: int) -> Mapping[str, tuple[int, ...]]:
    """Shape of every parameter of a model by its path in the canonical tree; nothing is computed."""
    model = build_model(config, head, num_labels)
    tree = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return types.MappingProxyType({"/".join(key.key for key in path): leaf.shape for path, leaf in leaves})


def entries_of(config: Any, head: str | None) -> Iterator[tuple[str, WeightEntry]]:
    """Every tensor that a model's family knows, with its path in the whole tree; the model may not have them all."""
    family = family_of_config(config)
    for entry in family.weight_map(config):
        yield f"backbone/{entry.path}", entry
    if head is not None:
        for entry in family.heads[head].weight_map(config):
            yield f"head/{entry.path}", entry


def match(
    tensors: Tensors, config: Any, head: str | None, shapes: Mapping[str, tuple[int, ...]]
) -> list[Place]:
    """Every parameter of a model with its tensors, by name alone.

    Args:
        shapes: of the model's parameters, as ``expected_shapes`` gives them.
    """
    prefix = family_of_config(config).prefix
    there = set(tensors.names())
    places = []
    for path, entry in entries_of(config, head):
        if path not in shapes:
            continue
        names = [n for n in _candidates(path, entry, prefix, tensors.torch_layout) if n in there]
        borrowed = None
        if not names and entry.fallback is not None:
            other = dataclasses.replace(entry, hf=entry.fallback, aliases=())
            candidates = _candidates(path, other, prefix, tensors.torch_layout)
            borrowed = next((n for n in candidates if n in there), None)
        places.append(Place(path, entry, shapes[path], tuple(dict.fromkeys(names)), borrowed))
    return places


def _candidates(path: str, entry: WeightEntry, prefix: str, torch_layout: bool) -> Iterator[str]:
    """Names that a parameter may have in a checkpoint, the likeliest first."""
    # A head's names are whole, a backbone's lack the prefix; checkpoints of a bare backbone have none.
    prefixes = ("", prefix) if path.startswith("head/") else (prefix, "")
    for name in (entry.hf, *entry.aliases):
        for before in dict.fromkeys(prefixes):
            whole = before + name
            if torch_layout:
                yield whole
                for old, new in OLD_NAMES.items():
                    if whole.endswith(new):
                        yield whole.removesuffix(new) + old
            else:
                yield from _flax_names(whole, path.rpartition("/")[2])


def _flax_names(name: str, ours: str) -> Iterator[str]:
    """transformers' Flax models call modules as torch does, and their parameters as Flax (and mostly we) do."""
    module, _, last = name.replace(".", "/").rpartition("/")
    if last != "weight":
        yield name.replace(".", "/")
        return
    for leaf in dict.fromkeys((ours, *_FLAX_WEIGHTS)):
        yield f"{module}/{leaf}"


def leaf_of(place: Place, name: str, tensors: Tensors, config: Any, folder: Path) -> Leaf:
    """The parameter as it lies in the tensor ``name``, which must have the right shape.

    Raises:
        WeightsError: it has another shape (gives both), or a type that holds no weights.
    """
    turned = is_turned(place, name, tensors)
    wanted = file_shape(place.entry, place.shape, config, turned)
    _check_shape(folder, name, tensors.shape(name), wanted, place)
    index, parts = place.entry.part or (0, 1)
    # Our kernels are [in, out]: the output axis comes first in a file that has them turned.
    axis = 0 if turned else len(wanted) - 1
    return Leaf(
        name,
        tensors.open(name),
        place.shape,
        turned=turned,
        offset=index * (wanted[axis] // parts) if wanted else 0,
        output_axis=axis,
        leading=place.entry.transform == "pad_columns",
    )


def is_turned(place: Place, name: str, tensors: Tensors) -> bool:
    """Whether a tensor lies transposed in the checkpoint."""
    if len(place.shape) != 2:
        return False
    if place.entry.transform == "transpose":
        return tensors.torch_layout
    is_kernel = place.path.endswith("/kernel")
    if tensors.turned_conv1d and is_kernel and place.entry.transform == "none":
        return True
    # An output table [V, D] of ours is an ordinary Dense [D, V] of Flax.
    return not tensors.torch_layout and name.endswith("/kernel") and not is_kernel


def file_shape(entry: WeightEntry, shape: tuple[int, ...], config: Any, turned: bool) -> tuple[int, ...]:
    """Shape in a checkpoint of the tensor that holds a parameter of ``shape`` in our tree."""
    if entry.transform == "pad_rows":
        shape = (config.vocab_size, *shape[1:])
    elif entry.transform == "pad_columns":
        shape = (1, config.vocab_size)
    if entry.part is not None:
        shape = (*shape[:-1], shape[-1] * entry.part[1])
    return shape[::-1] if turned else shape


def _check_shape(
    folder: Path, name: str, has: tuple[int, ...], wanted: tuple[int, ...], place: Place
) -> None:
    if has == wanted:
        return
    if place.in_head:
        remedy = "Give the labels it was trained with, or start with a new head: --model.new-head (new_head=True in Python)."
    else:
        remedy = "The config.json beside it is not the one it was made with."
    raise WeightsError(
        f"{folder}: tensor {name} has shape {list(has)}, the model needs {list(wanted)}. {remedy}"
    )


def differing_ties(place: Place, tensors: Tensors) -> list[str]:
    """Names of tied tensors whose values are not those of the tensor that is read."""
    first = tensors.open(place.names[0])
    return [name for name in place.names[1:] if not _same(first, tensors, name)]


def _same(first: Any, tensors: Tensors, name: str) -> bool:
    if tensors.shape(name) != first.shape:
        return False
    other = tensors.open(name)
    row = int(np.prod(first.shape[1:])) * first.dtype.itemsize
    for start, stop in row_chunks(0, first.shape[0], row):
        one, two = first.rows(start, stop), other.rows(start, stop)
        if one.dtype != two.dtype:
            one, two = one.astype(np.float32), two.astype(np.float32)
        if one.tobytes() != two.tobytes():
            return False
    return True
