"""How fast a step can be at best, by three clocks: arithmetic, memory and network.

Compute: the larger of the FLOPs found in the compiled program and the model's own share of a chip, at the chip's
peak. HBM: the bytes the program reads and writes, at the bandwidth of the memory. Interconnect: the collectives one
after the other, by the model below. If the three overlap fully the step takes as long as the longest; if not at all,
as long as their sum. A real step lies between the two or above: peaks are those of data sheets.

The network within a slice is a torus of two-way links (https://jax-ml.github.io/scaling-book/tpus/). Where each
mesh axis lies on it is worked out with JAX's own layout (``jax.experimental.mesh_utils``), so a group of ``n`` chips
has a place: the dimensions it stretches along, and how far apart its chips are there. With ``w`` bytes/s over a link
in one direction, a dimension gives a group

- ``2 w`` where the group fills it and its ends are joined (a ring: both directions at once),
- ``w`` where they are not (a line: its end has one link to hear all through),
- a ``k``-th of that where the group's chips are ``k`` apart, as ``k`` groups then share the links,

and a group along several dimensions uses them all at once
(https://jax-ml.github.io/scaling-book/sharding/, "A deeper dive into TPU communication primitives"). Let ``W`` be
the sum. With ``V`` bytes in the whole array and ``B`` those of one chip's operand:

- all-gather and reduce-scatter take ``V (n − 1) / n / W``, an all-reduce twice that;
- an all-to-all takes the longer of ``B (n − 1) / n / W`` and what must cross the middle of the widest dimension,
  ``a B / (4 · its share of W)`` for ``a`` chips along it;
- a collective-permute takes ``B / w``, times ``k``: to a neighbour, on one link.

None is faster than its hops of 1 µs. A group that is no box on the torus, or whose axes are not known, gets ``w``
only. GPUs of one host are joined by a switch: ``W`` is all that a GPU can send.

Only ``replica`` crosses slices. A collective over it is taken to do its part within the slice first, so that each of
the ``m`` chips of the group in a slice carries an ``m``-th of the bytes over the data-centre network; the two parts are
added.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from jaxtune.errors import ConfigError
from jaxtune.parallel.accelerators import Accelerator
from jaxtune.parallel.mesh import AXES, REPLICA
from jaxtune.plan.collectives import Collective
from jaxtune.plan.compiled import Compiled
from jaxtune.plan.topologies import Topology

HOP = 1e-6
"""Seconds that a message takes over one link, however short (scaling book, "A note on ICI latency")."""
COMPUTE, HBM, INTERCONNECT = "compute", "HBM", "interconnect"


@dataclasses.dataclass(frozen=True)
class Bound:
    """Least seconds of a step, by what they are spent on.

    Attributes:
        compute, hbm, interconnect: seconds; see the module.
        by_axes: of ``interconnect``, by the mesh axes the collectives are over, joined with ``+``.
        mfu: share of all chips' peak that the model's own FLOPs are, in a step of ``step`` seconds.
        tokens_per_chip: tokens/s of a chip in such a step.
    """

    compute: float
    hbm: float
    interconnect: float
    by_axes: Mapping[str, float]
    mfu: float
    tokens_per_chip: float

    @property
    def step(self) -> float:
        """Seconds where the three overlap fully."""
        return max(self.compute, self.hbm, self.interconnect)

    @property
    def apart(self) -> float:
        """Seconds where they do not overlap at all."""
        return self.compute + self.hbm + self.interconnect

    @property
    def binds(self) -> str:
        """Which of the three is the longest."""
        times = {COMPUTE: self.compute, HBM: self.hbm, INTERCONNECT: self.interconnect}
        return max(times, key=lambda name: times[name])


@dataclasses.dataclass(frozen=True)
class Reach:
    """The links that a group of chips in one slice has for itself.

    Attributes:
        chips: in the group.
        dimensions: of the torus that it stretches along: (chips, bytes/s to share out, ring).
        apart: distance of neighbours, the largest of all dimensions.
        link: bytes/s over one link.
    """

    chips: int
    dimensions: tuple[tuple[int, float, bool], ...]
    apart: int
    link: float

    @property
    def bandwidth(self) -> float:
        """Bytes/s of all dimensions together."""
        return sum(share for _, share, _ in self.dimensions)

    @property
    def hops(self) -> int:
        """From the first chip to the farthest."""
        return sum(self.apart * (size // 2 if ring else size - 1) for size, _, ring in self.dimensions)


def bound_of(compiled: Compiled, topology: Topology) -> Bound | None:
    """The bound of a compiled step; none where it was not compiled, or the chip has no figures.

    Raises:
        ConfigError: several slices of chips whose network between slices has no public figure.
    """
    chip = topology.accelerator
    if chip is None or not compiled.fits or not compiled.model_flops:
        return None
    chips = math.prod(compiled.mesh.values()) or 1
    by_axes: dict[str, float] = {}
    for collective in compiled.collectives:
        name = "+".join(collective.axes)
        by_axes[name] = by_axes.get(name, 0.0) + seconds_of(collective, compiled.mesh, topology)
    compute = max(compiled.compiled_flops, compiled.model_flops / chips) / (chip.peak_flops / chip.devices)
    hbm = compiled.hbm_bytes / (chip.hbm_bandwidth / chip.devices)
    interconnect = sum(by_axes.values())
    step = max(compute, hbm, interconnect)
    return Bound(
        compute=compute,
        hbm=hbm,
        interconnect=interconnect,
        by_axes={name: seconds for name, seconds in by_axes.items() if seconds},
        mfu=compiled.model_flops / (chips * chip.peak_flops / chip.devices * step),
        tokens_per_chip=compiled.tokens / chips / step,
    )


def seconds_of(collective: Collective, mesh: Mapping[str, int], topology: Topology) -> float:
    """Least seconds of all executions of a collective, by the module's model.

    Args:
        mesh: sizes of the mesh axes; those left out are 1.

    Raises:
        ConfigError: it crosses slices, and the chip's network between slices has no public figure.
    """
    chip = topology.accelerator
    if chip is None or collective.group < 2:
        return 0.0
    sizes = tuple(int(mesh.get(axis, 1)) for axis in AXES)
    everywhere = REPLICA in collective.axes or "?" in collective.axes
    crossing = min(topology.slices, collective.group) if everywhere else 1
    within = max(1, collective.group // crossing)
    reach = _reach(topology, sizes, frozenset(collective.axes), within)
    once = _within_slice(collective, reach) if within > 1 else 0.0
    if crossing > 1:
        once += _between_slices(collective, crossing, within, _dcn(chip))
    return collective.count * once


def _within_slice(collective: Collective, reach: Reach) -> float:
    """Seconds of one execution among the chips of one slice."""
    size, chips = float(collective.bytes), reach.chips
    moved = size * (chips - 1) / chips
    wait = HOP * reach.hops
    match collective.kind:
        case "all-reduce":
            return 2 * max(wait, moved / reach.bandwidth)
        case "all-to-all":
            # Half of the chips send half of what they have through each dimension's n / a lines; a ring is cut twice,
            # which its share counts already.
            middle = (along * size / (4 * share) for along, share, _ in reach.dimensions)
            return max(wait, moved / reach.bandwidth, *middle)
        case "collective-permute":
            return max(HOP * reach.apart, size * reach.apart / reach.link)
        case _:
            return max(wait, moved / reach.bandwidth)


def _between_slices(collective: Collective, slices: int, within: int, dcn: float) -> float:
    """Seconds of one execution over the data-centre network, for a chip's part of the bytes."""
    size = float(collective.bytes)
    share = size * (slices - 1) / slices
    match collective.kind:
        case "all-reduce":
            return 2 * share / within / dcn
        case "all-to-all":
            return share / dcn
        case "collective-permute":
            return size / dcn
        case _:
            return share / within / dcn


def _dcn(chip: Accelerator) -> float:
    if chip.dcn is None:
        raise ConfigError(
            f"{chip.name} has no public figure for the network between slices; expected one slice of it"
        )
    return chip.dcn


@functools.lru_cache(maxsize=1024)
def _reach(topology: Topology, sizes: tuple[int, ...], axes: frozenset[str], chips: int) -> Reach:
    """The links of the first group over these axes; all groups have alike ones."""
    chip = topology.accelerator
    assert chip is not None
    if chip.links == 1:
        return Reach(chips, ((chips, chip.interconnect, True),), 1, chip.interconnect)
    alone = Reach(chips, ((chips, chip.link, False),), 1, chip.link)
    if "?" in axes:
        return alone
    places = _places(topology, sizes)
    if places is None:
        return alone
    group = places[tuple(slice(None) if axis in axes else 0 for axis in AXES)].reshape(-1, places.shape[-1])
    values = [sorted(set(group[:, d].tolist())) for d in range(group.shape[1])]
    if math.prod(map(len, values)) != len(group) or len(group) != chips:
        return alone
    wraps = (*topology.wraps, False)
    dimensions, apart = [], 1
    for dimension, found in enumerate(values):
        if len(found) == 1:
            continue
        gap = max(later - earlier for earlier, later in itertools.pairwise(found))
        filled = len(found) * gap == topology.shape[dimension]
        ring = filled and wraps[dimension]
        dimensions.append((len(found), chip.link * (2 if ring else 1) / gap, ring))
        apart = max(apart, gap)
    return Reach(chips, tuple(dimensions), apart, chip.link)


@dataclasses.dataclass(frozen=True)
class _StandIn:
    """What ``mesh_utils`` asks of a device."""

    id: int
    coords: tuple[int, int, int]
    device_kind: str
    platform: str = "tpu"
    core_on_chip: int = 0
    process_index: int = 0


@functools.lru_cache(maxsize=256)
def _places(topology: Topology, sizes: tuple[int, ...]) -> Any:
    """Coordinates [*mesh axes, 3] of the chips of one slice, or none where JAX finds no layout."""
    chip = topology.accelerator
    within = (max(1, sizes[0] // topology.slices), *sizes[1:])
    shape = (*topology.shape, 1, 1)[:3]
    if chip is None or math.prod(within) != math.prod(topology.shape):
        return None
    stand_ins = [
        _StandIn(number, (x, y, z), chip.device_kinds[0])
        for number, (z, y, x) in enumerate(np.ndindex(shape[::-1]))
    ]
    try:
        laid_out = mesh_utils.create_device_mesh(within, stand_ins, allow_split_physical_axes=True)
    except (NotImplementedError, ValueError, AssertionError):
        return None
    flat = np.array([device.coords for device in laid_out.flat])
    return flat.reshape(*within, 3)


def best_first(found: Iterable[tuple[Compiled, Bound | None]]) -> list[tuple[Compiled, Bound | None]]:
    """Those that fit by tokens/s per chip, then those that do not by how little they lack, then those that failed.

    What was measured goes before what is bounded. Of equal ones the first is the one whose three times add up to less:
    it has less to overlap.
    """

    def order(row: tuple[Compiled, Bound | None]) -> tuple[int, float, float]:
        compiled, bound = row
        if compiled.measured is not None:
            return 0, -compiled.tokens / compiled.measured, 0.0
        if compiled.fits:
            return (0, -bound.tokens_per_chip, bound.apart) if bound else (0, 0.0, 0.0)
        if compiled.needed is not None and compiled.available is not None:
            return 1, float(compiled.needed - compiled.available), 0.0
        return 2, 0.0, 0.0

    return sorted(found, key=order)
