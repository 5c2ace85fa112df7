"""Checkpoint files ↔ parameter tree, by the name maps of ``jaxtune.models``, one tensor at a time."""

from __future__ import annotations

import functools
import json
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtune.errors import WeightsError
from jaxtune.hub.tensors import Tensors, open_tensors
from jaxtune.models.heads import build_model, head_weight_map, init_params
from jaxtune.models.registry import family_of_config
from jaxtune.models.weight_map import OLD_NAMES, WeightEntry

_DTYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BUFFERS = (".position_ids", ".token_type_ids")
"""Constants that old checkpoints store beside their weights; they are computed here."""


@dataclass(frozen=True)
class Report:
    """What did not match between a checkpoint and a model.

    Attributes:
        missing: paths in our tree that the checkpoint has no tensor for.
        unexpected: tensors of the checkpoint that the model has no place for.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def read_weights(
    folder: Path, config: Any, head: str | None = None, num_labels: int = 0, *, new_head: bool = False
) -> tuple[dict[str, Any], Report]:
    """Read a checkpoint folder into the canonical tree (a branch per layer), as float32 numpy arrays.

    Args:
        folder: holds safetensors (one file or shards) or ``flax_model.msgpack``.
        config: configuration object of the family.
        head: name of the head, or none for the backbone alone.
        num_labels: outputs of the head.
        new_head: pass over the checkpoint's own head.

    Returns:
        the tree ``{"backbone": …, "head": …}`` without what is missing, and the report.

    Raises:
        SourceError: no weights there, or a missing shard.
        WeightsError: damaged or unsafe files, a shape that differs (with both), or another architecture.
    """
    shapes = expected_shapes(config, head, num_labels)
    family = family_of_config(config)
    params: dict[str, Any] = {}
    missing: list[str] = []
    entries = list(_placed_entries(config, head))
    with open_tensors(folder) as tensors:
        found = _by_plain_name(tensors, family.prefix)
        for path, entry in entries:
            name = (
                None
                if new_head and path.startswith("head/")
                else found.pop(_plain_name(entry, tensors), None)
            )
            if name is None:
                missing.append(path)
                continue
            shape = _file_shape(entry, shapes[path], config, tensors.torch_layout)
            _check_shape(folder, name, tensors.shape(name), shape, path)
            _put(params, path, _to_ours(tensors.read(name), entry, tensors.torch_layout, shapes[path]))
        unexpected = tuple(sorted(name for name in found.values() if not name.endswith(_BUFFERS)))
    absent = [path for path in missing if path.startswith("backbone/")]
    if 2 * len(absent) > sum(path.startswith("backbone/") for path, _ in entries):
        raise WeightsError(
            f"the weights in {folder} are not those of a {family.model_type} with this config.json: "
            f"{len(absent)} tensors are missing (as {', '.join(absent[:3])}) and {len(unexpected)} have no place "
            f"(as {', '.join(unexpected[:3]) or 'none'})."
        )
    return params, Report(tuple(missing), unexpected)


@functools.lru_cache(maxsize=8)
def expected_shapes(config: Any, head: str | None, num_labels: int) -> Mapping[str, tuple[int, ...]]:
    """Shape of every parameter of a model by its path in the canonical tree; nothing is computed."""
    model = build_model(config, head, num_labels)
    tree = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return types.MappingProxyType({"/".join(key.key for key in path): leaf.shape for path, leaf in leaves})


def write_weights(file: Path, params: Mapping[str, Any], config: Any, head: str | None) -> None:
    """Write parameters as one safetensors file with Hugging Face's names and layout.

    Tensors are fetched, turned and written one by one, so that the peak is the largest tensor.

    Args:
        file: to be written; an existing one is replaced.
        params: canonical or scanned tree of jax or numpy arrays.
        config: configuration object of the family.
        head: name of the head that ``params`` holds, or none.
    """
    # The bare backbone's class knows no prefix, every class with a head does.
    prefix = family_of_config(config).prefix if head is not None else ""
    placed = list(_placed_entries(config, head))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for path, entry in placed:
        shape, dtype = _leaf_shape(params, path)
        shape = _file_shape(entry, shape, config, torch_layout=True)
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        name = entry.hf if path.startswith("head/") else prefix + entry.hf
        header[name] = {
            "dtype": _dtype_name(dtype, path),
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (
        -len(encoded) % 8
    )  # data starts at a multiple of eight, as readers that map the file want
    with file.open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        for path, entry in placed:
            out.write(_to_file(np.asarray(_leaf(params, path)), entry, config).tobytes())


def _placed_entries(config: Any, head: str | None) -> Iterator[tuple[str, WeightEntry]]:
    """Every tensor of a model with its path in the whole tree."""
    for entry in family_of_config(config).weight_map(config):
        yield f"backbone/{entry.path}", entry
    for entry in head_weight_map(head):
        yield f"head/{entry.path}", entry


def _by_plain_name(tensors: Tensors, prefix: str) -> dict[str, str]:
    """Names in the files by their plain form: no family prefix, today's names of norms."""
    if not tensors.torch_layout:
        prefix = prefix.replace(".", "/")
    found: dict[str, str] = {}
    for name in sorted(tensors.names()):
        plain = name.removeprefix(prefix)
        for old, new in OLD_NAMES.items():
            if plain.endswith(old):
                plain = plain.removesuffix(old) + new
        found[plain] = name
    return found


def _plain_name(entry: WeightEntry, tensors: Tensors) -> str:
    if tensors.torch_layout:
        return entry.hf
    # transformers' Flax models call modules as torch does, and their parameters as Flax (and we) do.
    module, _, _ = entry.hf.rpartition(".")
    return f"{module.replace('.', '/')}/{entry.path.rpartition('/')[2]}"


def _file_shape(
    entry: WeightEntry, shape: tuple[int, ...], config: Any, torch_layout: bool
) -> tuple[int, ...]:
    """Shape in a checkpoint of a parameter that has ``shape`` in our tree."""
    if entry.transform == "pad_rows":
        return (config.vocab_size, *shape[1:])
    return shape[::-1] if entry.transform == "transpose" and torch_layout else shape


def _check_shape(folder: Path, name: str, has: tuple[int, ...], wanted: tuple[int, ...], path: str) -> None:
    if has == wanted:
        return
    if path.startswith("head/"):
        remedy = "Give the labels it was trained with, or start with a new head: --model.new-head (new_head=True in Python)."
    else:
        remedy = "The config.json beside it is not the one it was made with."
    raise WeightsError(
        f"{folder}: tensor {name} has shape {list(has)}, the model needs {list(wanted)}. {remedy}"
    )


def _to_ours(array: np.ndarray, entry: WeightEntry, torch_layout: bool, shape: tuple[int, ...]) -> np.ndarray:
    if entry.transform == "pad_rows":
        padded = np.zeros(shape, array.dtype)
        padded[: len(array)] = array
        return padded
    if entry.transform == "transpose" and torch_layout:
        return np.ascontiguousarray(array.T)
    return array


def _to_file(array: np.ndarray, entry: WeightEntry, config: Any) -> np.ndarray:
    if entry.transform == "pad_rows":
        return array[: config.vocab_size]
    return array.T if entry.transform == "transpose" else array


def _put(tree: dict[str, Any], path: str, leaf: Any) -> None:
    *branches, last = path.split("/")
    for branch in branches:
        tree = tree.setdefault(branch, {})
    tree[last] = leaf


def _find(params: Mapping[str, Any], path: str) -> tuple[Any, int | None]:
    """The leaf at a canonical path; in a scanned tree the stacked leaf, and the layer's row in it."""
    node: Any = params
    row = None
    for part in path.split("/"):
        if part.isdigit() and part not in node:
            row = int(part)
        elif part in node:
            node = node[part]
        else:
            raise WeightsError(
                f"the parameters have no {path}: they are not of this model (no {part!r} in them)."
            )
    return node, row


def _leaf(params: Mapping[str, Any], path: str) -> Any:
    node, row = _find(params, path)
    return node if row is None else node[row]


def _leaf_shape(params: Mapping[str, Any], path: str) -> tuple[tuple[int, ...], Any]:
    node, row = _find(params, path)
    return tuple(node.shape if row is None else node.shape[1:]), node.dtype


def _dtype_name(dtype: Any, path: str) -> str:
    name = np.dtype(dtype).name
    if name not in _DTYPE_NAMES:
        raise WeightsError(f"parameter {path} is {name}; expected one of {', '.join(_DTYPE_NAMES)}.")
    return _DTYPE_NAMES[name]
