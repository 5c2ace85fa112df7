"""The device mesh: its axes, their sizes, and which device is where."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtune.config import MeshConfig
from jaxtune.errors import ConfigError

REPLICA, DATA, FSDP, TENSOR, SEQUENCE = AXES = ("replica", "data", "fsdp", "tensor", "sequence")
"""From the slowest network to the fastest; a mesh has all of them, those that are not used with size 1."""
BATCH_AXES = (REPLICA, DATA, FSDP)
"""Mesh axes that the rows of a batch are split over."""
_MOST_SHOWN = 8


def axis_sizes(config: MeshConfig, devices: int, slices: int = 1) -> dict[str, int]:
    """The size of every axis.

    Args:
        devices: how many there are to lay out.
        slices: groups of devices with a fast network; only ``replica`` may reach beyond one.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices (names sizes that do), more than
            one axis is left to be worked out, or other axes than ``replica`` would cross slices.
    """
    asked: dict[str, Any] = {axis: getattr(config, axis) for axis in AXES}
    if asked[DATA] is None:
        asked[DATA] = "auto"
    if asked[REPLICA] == "auto":
        asked[REPLICA] = slices
    open_axes = [axis for axis, size in asked.items() if size == "auto"]
    if len(open_axes) > 1:
        raise ConfigError(
            f"`mesh.{open_axes[0]}` and `mesh.{open_axes[1]}` are both auto; expected one axis at most "
            "to be worked out from the others"
        )
    known = math.prod(size for size in asked.values() if size != "auto")
    if open_axes and devices % known == 0:
        asked[open_axes[0]] = devices // known
    if (open_axes and devices % known) or (not open_axes and known != devices):
        raise ConfigError(_no_fit(asked, devices))
    if asked[REPLICA] % slices:
        raise ConfigError(
            f"`mesh.replica` is {asked[REPLICA]}, but the devices are {slices} slices; expected a multiple of "
            f"{slices}, so that no other axis crosses the network between slices"
        )
    return asked


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with all ``AXES`` over ``config.devices`` devices, or over all of them.

    Several slices (of TPUs) are laid out so that ``replica`` alone crosses them.

    Raises:
        ConfigError: more devices asked for than there are, or sizes that do not fit; see ``axis_sizes``.
    """
    devices = list(devices if devices is not None else jax.devices())
    count = config.devices or len(devices)
    if count > len(devices):
        raise ConfigError(
            f"`mesh.devices` is {count}, but {len(devices)} {devices[0].platform} device(s) are here; "
            f"use at most {len(devices)}, or none for all"
        )
    devices = devices[:count]
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = axis_sizes(config, count, slices)
    if config.mode == "pmap" and sizes[DATA] != count:
        raise ConfigError(
            f"`mesh.mode` is pmap, and the mesh is {describe(sizes)}; pmap knows the axis `data` only"
        )
    shape = tuple(sizes[axis] for axis in AXES)
    types = (AxisType.Auto,) * len(AXES)
    if slices == 1:
        # Not `jax.make_mesh`, which lets several axes share a dimension of the torus on v5e only.
        laid_out = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
        return Mesh(laid_out, AXES, axis_types=types)
    within = (sizes[REPLICA] // slices, *shape[1:])
    across = (slices, *(1 for _ in shape[1:]))
    laid_out = mesh_utils.create_hybrid_device_mesh(
        within, across, devices=devices, allow_split_physical_axes=True
    )
    return Mesh(laid_out, AXES, axis_types=types)


def imagined_mesh(config: MeshConfig) -> AbstractMesh:
    """A mesh of the sizes asked for, without devices; ``auto`` is 1."""
    sizes = [1 if getattr(config, axis) in ("auto", None) else getattr(config, axis) for axis in AXES]
    return AbstractMesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def that_fits(config: MeshConfig, devices: int) -> MeshConfig:
    """The mesh asked for where these devices can be laid out so, else all of them along ``data``.

    A run is read (evaluated, exported) on other machines than the one it was trained on.
    """
    try:
        axis_sizes(config, config.devices or devices)
    except ConfigError:
        return MeshConfig()
    return config if (config.devices or 0) <= devices else MeshConfig()


def describe(sizes: Mapping[str, int]) -> str:
    """Sizes of the axes that are used, as ``data 2 × fsdp 4``."""
    used = [f"{axis} {size}" for axis, size in sizes.items() if size != 1]
    return " × ".join(used) or "1 device"


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices that share a batch."""
    return NamedSharding(mesh, P(BATCH_AXES))


def local_rows(sharding: NamedSharding, rows: int) -> np.ndarray:
    """Which rows of a global batch of ``rows`` this process's devices hold, in order; int64 [n]."""
    places = sharding.addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index[0]] for index in places if index is not None]))


def rows_here(sharding: NamedSharding) -> Callable[[int], list[int]]:
    """``local_rows`` as a function of the number of rows, worked out once for each."""
    return functools.cache(lambda rows: local_rows(sharding, rows).tolist())


def put_batch(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding, rows: int | None = None
) -> dict[str, jax.Array]:
    """This process's rows, those of ``local_rows``, as part of global arrays.

    Args:
        rows: of the global batch, where there are several processes; none says that all are here.
    """
    return {name: _put(values, sharding, rows) for name, values in batch.items()}


def _put(values: np.ndarray, sharding: NamedSharding, rows: int | None) -> jax.Array:
    if rows is None or sharding.is_fully_addressable:
        return jax.device_put(values, sharding)
    here = local_rows(sharding, rows)

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        return values[np.searchsorted(here, np.arange(rows)[index[0]])]

    return jax.make_array_from_callback((rows, *values.shape[1:]), sharding, part)


def check_rows(rows: int, mesh: Mesh, accumulate: int) -> None:
    """Check that the rows of a batch divide over devices and microbatches.

    Raises:
        ConfigError: they do not; names the nearest numbers of rows that do.
    """
    shared = {axis: mesh.shape[axis] for axis in BATCH_AXES}
    parts = math.prod(shared.values()) * accumulate
    if rows % parts:
        below, above = rows // parts * parts, -(-rows // parts) * parts
        near = f"{above}" if below == 0 else f"{below} or {above}"
        raise ConfigError(
            f"a batch has {rows} rows, which do not divide over {math.prod(shared.values())} device(s) "
            f"({describe(shared)}) × `train.accumulate` {accumulate}; use {near} rows "
            "(`train.batch_size` or `data.max_tokens`, or `data.rows` when packed)"
        )


def check_length(length: int, mesh: Mesh) -> None:
    """Check that the tokens of a row divide over ``sequence``.

    Raises:
        ConfigError: they do not; names the nearest lengths that do.
    """
    parts = mesh.shape[SEQUENCE]
    if length % parts:
        above = -(-length // parts) * parts
        raise ConfigError(
            f"a row has {length} tokens, which do not divide over `mesh.sequence` {parts}; use "
            f"`data.max_length` (or `data.row_length` when packed) {above}"
        )


def _no_fit(asked: Mapping[str, Any], devices: int) -> str:
    used = {axis: size for axis, size in asked.items() if size != "auto"}
    needed = math.prod(used.values())
    fitting = sorted(_factorisations(devices, len(AXES)), key=lambda sizes: _distance(sizes, asked))
    near = [describe(dict(zip(AXES, sizes))) for sizes in fitting[:_MOST_SHOWN]]
    multiple = " or a multiple" if "auto" in asked.values() else ""
    fewer = f"; `mesh.devices` {needed} uses only so many" if needed < devices else ""
    return (
        f"the mesh {describe(used)} needs {needed} device{'' if needed == 1 else 's'}{multiple}, and {devices} are here; "
        f"sizes that fit: {'; '.join(near)}{fewer}"
    )


def _distance(sizes: Sequence[int], asked: Mapping[str, Any]) -> tuple[int, float]:
    """How far sizes are from what was asked: axes that differ, then by how much."""
    wanted = [asked[axis] for axis in AXES]
    different = sum(w not in (s, "auto") for w, s in zip(wanted, sizes))
    return different, sum(abs(math.log2(s / w)) for w, s in zip(wanted, sizes) if w != "auto")


def _factorisations(number: int, parts: int) -> Iterator[tuple[int, ...]]:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    for sizes in itertools.product(divisors, repeat=parts - 1):
        if number % math.prod(sizes) == 0:
            yield (*sizes, number // math.prod(sizes))
