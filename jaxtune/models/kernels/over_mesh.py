"""How a kernel that knows nothing of meshes runs on one: each device its rows, heads and queries.

The compiler cannot look into a kernel, so it cannot split one either; ``jax.shard_map`` says how.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

ROW_AXES = ("replica", "data", "fsdp")
HEAD_AXIS = "tensor"
SEQUENCE_AXIS = "sequence"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which mesh axes split the rows, heads and tokens of attention; none of a size of 1.

    Attributes:
        mesh: none where one device (or ``pmap``) runs the kernel on all it is given.
    """

    mesh: Mesh | None = None
    row_axes: tuple[str, ...] = ()
    head_axis: str | None = None
    sequence_axis: str | None = None

    @property
    def row_shards(self) -> int:
        """Parts that the rows of a batch lie in."""
        return math.prod(self._size(axis) for axis in self.row_axes)

    @property
    def head_shards(self) -> int:
        """Parts that the heads lie in."""
        return self._size(self.head_axis)

    @property
    def sequence_shards(self) -> int:
        """Parts that the tokens of a row lie in."""
        return self._size(self.sequence_axis)

    @property
    def queries(self) -> P:
        """Of queries [B, S, H, C], and of what attention makes of them."""
        return P(self.row_axes, self.sequence_axis, self.head_axis, None)

    @property
    def keys(self) -> P:
        """Of keys and values [B, T, K, C]: each device has whole rows, for all queries."""
        return P(self.row_axes, None, self.head_axis, None)

    @property
    def query_tokens(self) -> P:
        """Of a [B, S] array about the queries."""
        return P(self.row_axes, self.sequence_axis)

    @property
    def key_tokens(self) -> P:
        """Of a [B, T] array about the keys."""
        return P(self.row_axes)

    def _size(self, axis: str | None) -> int:
        return 1 if self.mesh is None or axis is None else self.mesh.shape[axis]

    def refuses(self, rows: int, heads: int) -> str | None:
        """Why a call cannot be split so, or none."""
        if rows % self.row_shards:
            return f"{rows} rows do not divide over {self.row_shards} parts of the mesh"
        if heads % self.head_shards:
            return f"{heads} heads do not divide over {HEAD_AXIS}={self.head_shards}"
        return None

    def run(self, function: Callable[..., Any], in_specs: tuple[Any, ...], *args: Any) -> Array:
        """``function`` of each device's part of ``args``; its result is laid out as the queries are."""
        if self.mesh is None:
            return function(*args)
        # A kernel does not say over which axes its results vary, so that cannot be checked.
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=self.queries, check_vma=False
        )
        return mapped(*args)


def layout_of(mesh: Mesh | None) -> Layout:
    """The layout on a mesh; axes that it does not have, or of size 1, split nothing."""
    if mesh is None or mesh.size == 1:
        return Layout()
    there = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    return Layout(
        mesh,
        tuple(axis for axis in ROW_AXES if axis in there),
        HEAD_AXIS if HEAD_AXIS in there else None,
        SEQUENCE_AXIS if SEQUENCE_AXIS in there else None,
    )


def spread_kv_heads(x: Float[Array, "B T K C"], heads: int, shards: int) -> Float[Array, "B T L C"]:
    """Keys or values with each head repeated until they divide over ``shards`` as the queries' do.

    With fewer of them than shards, each device gets a copy of the one that its queries share.
    """
    kv_heads = x.shape[2]
    for copies in range(1, heads // kv_heads + 1):
        if (kv_heads * copies) % shards == 0 and heads % (kv_heads * copies) == 0:
            return x if copies == 1 else jnp.repeat(x, copies, axis=2)
    raise ValueError(f"{heads} heads do not divide over {shards} shards")
