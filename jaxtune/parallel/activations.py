"""How activations lie on a mesh: what the axis names of the models mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxtune.parallel.mesh import BATCH_AXES, SEQUENCE, TENSOR

MEANING: Mapping[str, tuple[str, ...]] = {
    "batch": BATCH_AXES,
    "sequence": (SEQUENCE,),
    "keys": (),
    "embed": (),
    "heads": (TENSOR,),
    "kv_heads": (TENSOR,),
    "mlp": (TENSOR,),
    "vocabulary": (TENSOR,),
}
"""Mesh axes of each named axis. ``keys`` are whole: every share of the queries sees all keys and values."""


class OnMesh:
    """Lays out activations by the names of their axes; see ``models.axes``."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def __call__(self, x: Array, names: Sequence[str | None]) -> Array:
        axes = [self._axes_of(name, size) for name, size in zip(names, x.shape, strict=True)]
        return jax.lax.with_sharding_constraint(x, NamedSharding(self._mesh, P(*axes)))

    def _axes_of(self, name: str | None, size: int) -> tuple[str, ...] | None:
        """Mesh axes for a dimension; none where it does not divide (a single row, one key/value head)."""
        axes = () if name is None else MEANING[name]
        parts = math.prod(self._mesh.shape[axis] for axis in axes)
        return axes if parts > 1 and size % parts == 0 else None
