"""The train step under ``jax.pmap``, for those who come from it: same loss, same metrics, data parallel only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtune.parallel.mesh import BATCH_AXES, replicated

PMAP_AXIS = "devices"


class MappedStep:
    """``(state, batch) -> (state, metrics)`` on global arrays, as the jitted step has it.

    The rows of a batch are dealt to the devices in order; the state is the same on all of them.
    """

    def __init__(self, step: Callable[..., Any], mesh: Mesh) -> None:
        devices = list(mesh.devices.flat)
        count = len(devices)
        self._step = jax.pmap(step, axis_name=PMAP_AXIS, in_axes=(None, 0), out_axes=None, devices=devices)
        self._dealt = jax.jit(
            lambda batch: jax.tree.map(lambda a: a.reshape(count, a.shape[0] // count, *a.shape[1:]), batch),
            out_shardings=NamedSharding(mesh, P(BATCH_AXES)),
        )
        self._everywhere = replicated(mesh)

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """One step; compiled at the first call with a batch of a shape."""
        return jax.device_put(self._step(state, self._dealt(batch)), self._everywhere)

    def lower(self, state: Any, batch: Any) -> MappedStep:
        """Nothing is compiled ahead of time; here so that the loop treats both steps alike."""
        return self

    def compile(self, compiler_options: Mapping[str, str] | None = None) -> MappedStep:
        return self
