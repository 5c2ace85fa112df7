"""Checkpoint files → parameter tree, by the name maps of ``jaxtune.models``, one tensor at a time."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtune.errors import WeightsError
from jaxtune.hub.matching import Place, differing_ties, expected_shapes, leaf_of, match
from jaxtune.hub.tensor_files.leaves import Leaf, Readable, Stack
from jaxtune.hub.tensor_files.tensors import open_tensors
from jaxtune.models.registry import family_of_config

logger = logging.getLogger(__name__)

_BUFFERS = (
    ".position_ids",
    ".token_type_ids",
    ".rotary_emb.inv_freq",
    ".embed_positions.weight",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
)
"""Constants that old checkpoints store beside their weights; they are computed here."""
_LAYER = re.compile(r"(?P<before>(?:.*/)?layers)/(?P<index>\d+)/(?P<after>.*)")

Placing = Callable[[str, Readable], Any]


@dataclass(frozen=True)
class Report:
    """What did not match between a checkpoint and a model.

    Attributes:
        missing: paths in our tree that the checkpoint has no tensor for.
        unexpected: tensors of the checkpoint that the model has no place for.
        unsaid: those of ``missing`` that checkpoints may lack without a word.
        nonfinite: tensors that hold NaN or infinity.
        differing: tied tensors that are not equal to the one that was read, each as ``(read, other)``.
        narrowed: float64 tensors, which are read as float32.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    unsaid: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()
    differing: tuple[tuple[str, str], ...] = ()
    narrowed: tuple[str, ...] = ()


def whole(path: str, leaf: Readable) -> np.ndarray:
    """A parameter as a float32 numpy array."""
    return leaf.block(tuple(slice(0, n) for n in leaf.shape), np.float32)


def read_weights(
    source: Path,
    config: Any,
    head: str | None = None,
    num_labels: int = 0,
    *,
    new_head: bool = False,
    stacked: bool = False,
    place: Placing = whole,
) -> tuple[dict[str, Any], Report]:
    """Read a checkpoint into the canonical tree (a branch per layer), one parameter after the other.

    Args:
        source: a folder with safetensors (one file or shards) or ``flax_model.msgpack``, or a GGUF file.
        config: configuration object of the family.
        head: name of the head, or none for the backbone alone.
        num_labels: outputs of the head.
        new_head: pass over the checkpoint's own head.
        stacked: give the scanned tree, where the checkpoint has all layers (else the canonical one).
        place: ``(path, leaf) → array``: makes the array, as float32 numpy if none is given.

    Returns:
        the tree ``{"backbone": …, "head": …}`` without what is missing, and the report.

    Raises:
        SourceError: no weights there, or a missing shard.
        WeightsError: damaged or unsafe files, a shape that differs (with both), or another architecture.
    """
    shapes = expected_shapes(config, head, num_labels)
    with open_tensors(source) as tensors:
        places = match(tensors, config, head, shapes)
        found = [p for p in places if p.source and not (new_head and p.in_head)]
        missing = [p for p in places if p not in found]
        used = {name for p in places for name in p.names}
        computed = _computed_names(config)
        unexpected = sorted(
            n for n in tensors.names() if n not in used | computed and not n.endswith(_BUFFERS)
        )
        _check_architecture(source, config, places, unexpected)
        differing = [(p.names[0], other) for p in found if p.names for other in differing_ties(p, tensors)]
        leaves = {p.path: leaf_of(p, p.source, tensors, config, source) for p in found if p.source}
    del tensors  # what was converted can then be freed
    narrowed = tuple(dict.fromkeys(leaf.name for leaf in leaves.values() if leaf.dtype == np.float64))
    readable = stack(leaves) if stacked and not any(_LAYER.fullmatch(p.path) for p in missing) else leaves
    params, bad = _placed(dict(readable), place)
    paths = tuple(p.path for p in missing)
    unsaid = tuple(p.path for p in missing if p.entry.optional)
    return params, Report(paths, tuple(unexpected), unsaid, bad, tuple(differing), narrowed)


def _placed(leaves: dict[str, Readable], place: Placing) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The tree of placed leaves, and the names of those that are not finite; ``leaves`` is used up."""
    params: dict[str, Any] = {}
    bad: list[str] = []
    while leaves:
        path = next(iter(leaves))
        leaf = leaves.pop(path)
        put(params, path, place(path, leaf))
        bad += [one.name for one in _layers_of(leaf) if one.nonfinite]
    return params, tuple(dict.fromkeys(bad))


def _layers_of(leaf: Any) -> Sequence[Leaf]:
    return leaf.layers if isinstance(leaf, Stack) else (leaf,)


def stack(leaves: Mapping[str, Leaf]) -> Mapping[str, Readable]:
    """The same leaves with ``layers/0/…``, ``layers/1/…`` as one ``layers/…``."""
    joined: dict[str, Any] = {}
    for path, leaf in leaves.items():
        layer = _LAYER.fullmatch(path)
        if layer is None:
            joined[path] = leaf
        else:
            of_all = joined.setdefault(f"{layer['before']}/{layer['after']}", {})
            of_all[int(layer["index"])] = leaf
    return {
        path: Stack([node[i] for i in sorted(node)]) if isinstance(node, dict) else node
        for path, node in joined.items()
    }


def _computed_names(config: Any) -> set[str]:
    """Names of tensors that a checkpoint may hold and that are computed here."""
    family = family_of_config(config)
    return {before + name for name in family.constants(config) for before in ("", family.prefix)}


def _check_architecture(source: Path, config: Any, places: list[Place], unexpected: Sequence[str]) -> None:
    backbone = [p for p in places if not p.in_head]
    absent = [p.path for p in backbone if not p.names]
    if 2 * len(absent) > len(backbone):
        raise WeightsError(
            f"the weights in {source} are not those of a {family_of_config(config).model_type} with this config.json: "
            f"{len(absent)} tensors are missing (as {', '.join(absent[:3])}) and {len(unexpected)} have no place "
            f"(as {', '.join(unexpected[:3]) or 'none'})."
        )


def say(source: str, report: Report) -> None:
    """Log what did not match, and what looks wrong."""
    missing = [path for path in report.missing if path not in report.unsaid]
    if missing:
        logger.warning("%s lacks %s: newly initialised", source, some(missing))
    if report.unexpected:
        logger.warning("%s has %s, which this model does not use", source, some(report.unexpected))
    for read, other in report.differing:
        logger.warning(
            "%s: %s and %s should be the same tensor and differ; %s is taken", source, read, other, read
        )
    if report.narrowed:
        logger.warning("%s has float64 numbers in %s, read as float32", source, some(report.narrowed))
    if report.nonfinite:
        logger.warning("%s holds NaN or infinity in %s", source, some(report.nonfinite))


def some(names: Iterable[str], most: int = 12) -> str:
    """Names in a sentence, not all of very many."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def put(tree: dict[str, Any], path: str, leaf: Any) -> None:
    """Put a leaf at a path of a nested dict."""
    *branches, last = path.split("/")
    for branch in branches:
        tree = tree.setdefault(branch, {})
    tree[last] = leaf


def find(params: Mapping[str, Any], path: str) -> tuple[Any, int | None]:
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
