"""Which meshes are worth compiling for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

from jaxtune.config import MeshConfig
from jaxtune.parallel.rules import divisors

MOST_TENSOR = 8
"""Its sums are on the critical path of every layer, so it stays among close neighbours."""
MOST_SEQUENCE = 8
LONG = 2048
"""Tokens of a row from which it may be split over ``sequence``."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a model and a batch allow.

    Attributes:
        heads, kv_heads: of each layer.
        rows: of a microbatch.
        length: tokens of a row.
    """

    heads: int
    kv_heads: int
    rows: int
    length: int


def sensible_meshes(config: MeshConfig, chips: int, slices: int, limits: Limits) -> list[MeshConfig]:
    """Meshes over all chips, simplest first: those of one axis, then of two, then of three.

    ``replica`` is the number of slices. ``tensor`` goes up to 8 and divides the heads; ``sequence`` up to 8, for
    rows of 2,048 tokens or more, and not together with ``tensor``; the rows divide over ``data`` × ``fsdp``.

    Args:
        config: gives all other settings of the mesh.
    """
    within = chips // slices
    found = [
        dataclasses.replace(config, replica=slices, data=data, fsdp=fsdp, tensor=tensor, sequence=sequence)
        for data, fsdp, tensor, sequence in _splits(within, limits)
        if limits.rows % (slices * data * fsdp) == 0
    ]
    return sorted(found, key=_order)


def _splits(chips: int, limits: Limits) -> Iterator[tuple[int, int, int, int]]:
    common = math.gcd(limits.heads, limits.kv_heads)
    tensors = [t for t in divisors(chips, MOST_TENSOR) if common % t == 0]
    sequences = [
        s
        for s in divisors(chips, MOST_SEQUENCE)
        if s == 1 or (limits.length >= LONG and limits.length % s == 0)
    ]
    for tensor, sequence in itertools.product(tensors, sequences):
        if (tensor > 1 and sequence > 1) or chips % (tensor * sequence):
            continue
        rest = chips // (tensor * sequence)
        for fsdp in divisors(rest, rest):
            yield rest // fsdp, fsdp, tensor, sequence


def _order(mesh: MeshConfig) -> tuple[int, int, int, int]:
    sizes = (mesh.data, mesh.fsdp, mesh.tensor, mesh.sequence)
    number = sum(size not in (1, "auto", None) for size in sizes)
    return number, int(mesh.tensor), int(mesh.sequence), -int(mesh.fsdp)
