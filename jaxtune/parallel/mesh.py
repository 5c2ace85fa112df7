"""The device mesh, and the shardings of batches and state on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtune.config import MeshConfig
from jaxtune.errors import ConfigError

AXES = ("data",)
BATCH_AXES = ("data",)
"""Mesh axes that the leading axis of a batch is split over."""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over ``config.data`` devices, or over all of them.

    Raises:
        ConfigError: more devices asked for than there are.
    """
    devices = list(devices if devices is not None else jax.devices())
    size = config.data or len(devices)
    if size > len(devices):
        raise ConfigError(
            f"`mesh.data` is {size}, but {len(devices)} {devices[0].platform} device(s) are here; "
            f"use at most {len(devices)}, or none for all"
        )
    return jax.make_mesh((size,), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:size])


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices that share a batch."""
    return NamedSharding(mesh, P(BATCH_AXES))


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows as part of global arrays."""
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def check_rows(rows: int, mesh: Mesh, accumulate: int) -> None:
    """Check that the rows of a batch divide over devices and microbatches.

    Raises:
        ConfigError: they do not; names the nearest numbers of rows that do.
    """
    parts = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES])) * accumulate
    if rows % parts:
        below, above = rows // parts * parts, -(-rows // parts) * parts
        near = f"{above}" if below == 0 else f"{below} or {above}"
        raise ConfigError(
            f"a batch has {rows} rows, which do not divide over {mesh.size} device(s) × "
            f"`train.accumulate` {accumulate}; use {near} rows "
            "(`train.batch_size` or `data.max_tokens`, or `data.rows` when packed)"
        )
