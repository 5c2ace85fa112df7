"""Parameters onto devices, one at a time, each device given only its own part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding, SingleDeviceSharding

from jaxtune.hub.tensor_files.leaves import Index, Readable

ShardingOf = Callable[[str, tuple[int, ...]], Sharding]
"""``(path, shape)`` of a parameter → where it goes."""

PARAM_DTYPES = ("float32", "bfloat16", "auto")


def placer(param_dtype: str, sharding: ShardingOf | None) -> Callable[[str, Readable], jax.Array]:
    """What ``read_weights`` calls for each parameter.

    Args:
        param_dtype: of the arrays; ``auto`` keeps bfloat16 where the checkpoint has it and is float32 elsewhere.
        sharding: where each parameter goes; none puts all on the default device.
    """

    def place(path: str, leaf: Readable) -> jax.Array:
        dtype = dtype_of(param_dtype, leaf.dtype)
        if sharding is None:
            array = jax.device_put(leaf.block(_whole(leaf.shape), dtype))
        else:
            array = _spread(leaf, dtype, sharding(path, leaf.shape))
        # The copy to the device must have ended before the next parameter is read, or several lie in memory.
        return jax.block_until_ready(array)

    return place


def dtype_of(param_dtype: str, stored: Any) -> Any:
    """Type that a parameter takes which is stored as ``stored``."""
    if param_dtype == "auto":
        param_dtype = "bfloat16" if jnp.dtype(stored) == jnp.bfloat16 else "float32"
    return jnp.dtype(param_dtype)


def _whole(shape: tuple[int, ...]) -> Index:
    return tuple(slice(0, n) for n in shape)


def _spread(leaf: Readable, dtype: Any, sharding: Sharding) -> jax.Array:
    devices_of: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index or (), leaf.shape))
        devices_of.setdefault(bounds, []).append(device)
    parts = []
    for bounds, devices in devices_of.items():
        block = leaf.block(tuple(slice(*bound) for bound in bounds), dtype)
        # One block in memory at a time, however many devices and replicas there are.
        parts += [jax.device_put(block, SingleDeviceSharding(device)) for device in devices]
        jax.block_until_ready(parts)
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts, dtype=dtype)
