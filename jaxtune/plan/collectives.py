"""Collectives of a compiled program: which, how often, how many bytes, and over which mesh axes.

Reported is what is really there, which need not be what was written: compilers merge collectives, gather an array by an
all-reduce of zeros with one part filled in, or, on CPUs, keep the whole of an all-reduce and slice it.

Forms of the TPU compiler, as seen in its output:

- A fusion of an all-reduce with the slices of its results is a reduce-scatter.
- An asynchronous collective that is spread over fusions with other work has a copy of itself in each of them; it counts
  once, in the fusion that starts it. Channels do not tell: different collectives may share one.
- The program for several slices is that of one of them: its devices are numbered within the slice, and what crosses
  slices is a ``send`` to ``xla_megascale_runtime``, and a ``recv`` from it, with the collective's kind as an attribute.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from jaxtune.errors import RunError
from jaxtune.plan.hlo import Computation, Instruction, Module, parse_module
from jaxtune.plan.loops import executions

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
UNKNOWN = ("?",)
_LIKE = {"ragged-all-to-all": "all-to-all", "collective-broadcast": "collective-permute"}
"""Rare collectives, and those of ``KINDS`` that cost as much."""
_SPREAD, _ENDS, _END = "async_collective_fusion", "async-collective-done", '"AsyncCollectiveDone"'
"""Names of what goes on with a collective that a fusion called async-collective-start began."""
_SEEN_THROUGH = ("get-tuple-element", "bitcast", "reshape", "copy", "convert", "transpose")
_BETWEEN_SLICES = re.compile(r'\b_xla_megascale_transfer_type="(\w+)"')
_TARGET = re.compile(r"\b_xla_megascale_target=\{\{([\d,]+)\}")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*\)?)\))? \{([^}]*)\}")
_DEVICES = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_NAMED_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of a program that are alike.

    Attributes:
        kind: one of ``KINDS``.
        axes: mesh axes along which the devices of a group differ, in the order of the mesh; a group may be smaller
            than their product. ("?",) where the groups are written in a form that is not known.
        bytes: of one execution: of an all-gather the whole result, else the operand of one device.
        count: executions in one step, with the passes of loops multiplied in.
        dtype: of the largest operand, as "f32".
        group: devices that take part together.
    """

    kind: str
    axes: tuple[str, ...]
    bytes: int
    count: int
    dtype: str
    group: int


def collectives_of(hlo_text: str, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """The collectives in which a device takes part in one execution of a program.

    Those of groups of one device move nothing and are left out. Devices are numbered as in ``mesh.devices.flat``, of
    which each of several slices is a stretch.

    Args:
        hlo_text: of the optimised program.
        mesh_shape: sizes of the mesh axes, in the order of the mesh.

    Raises:
        RunError: see ``plan.hlo`` and ``plan.loops``; or the program is for a number of devices the mesh cannot have.
    """
    module = parse_module(hlo_text)
    axes = _Axes(mesh_shape, module.devices)
    found = {name: list(each) for name, each in _by_computation(module, axes)}
    costs = {name: float(sum(collective.bytes for collective in each)) for name, each in found.items()}
    counts: dict[Collective, int] = {}
    for name, times in executions(module, costs).items():
        for collective in found.get(name, ()):
            counts[collective] = counts.get(collective, 0) + times
    return [dataclasses.replace(one, count=count) for one, count in counts.items() if count]


def _by_computation(module: Module, axes: _Axes) -> Iterator[tuple[str, Iterator[Collective]]]:
    """What each computation holds, once."""
    parts = _later_parts(module)
    for computation in module.computations.values():
        inside = [each for each in computation.instructions.values() if _is_collective(each)]
        if inside and computation.name not in parts:
            fused = computation.name in module.fused
            every = (_collective(each, computation, axes, fused) for each in inside)
            yield computation.name, (collective for collective in every if collective.group > 1)


def _later_parts(module: Module) -> set[str]:
    """Fusions that go on with, or end, a collective that another one began."""
    later = set()
    for computation in module.computations.values():
        for instruction in computation.instructions.values():
            for name in instruction.called.get("calls", ()):
                if name.startswith(_SPREAD) or instruction.name.startswith(_ENDS):
                    later.add(name)
            if instruction.opcode == "custom-call" and _END in instruction.rest:
                later.add(computation.name)
    return later


def _is_collective(instruction: Instruction) -> bool:
    operation = instruction.operation
    return (
        operation in KINDS
        or operation in _LIKE
        or (operation == "send" and _BETWEEN_SLICES.search(instruction.rest) is not None)
    )


def _collective(instruction: Instruction, computation: Computation, axes: _Axes, fused: bool) -> Collective:
    """One, once."""
    kind = _LIKE.get(instruction.operation, instruction.operation)
    operands = instruction.operands
    if kind == "send":
        kind = _kind_between_slices(instruction)
        taking_part, group = axes.across_slices(instruction)
    else:
        taking_part, group = axes.of(instruction)
    if instruction.operation in ("send", "ragged-all-to-all"):
        operands = operands[:1]  # the others say when, and where to
    if kind == "all-reduce" and fused and _is_sliced(instruction, computation):
        kind = "reduce-scatter"
    arrays = computation.arrays(operands)
    size = sum(array.bytes for array in arrays) * (group if kind == "all-gather" else 1)
    largest = max(arrays, key=lambda array: array.bytes)
    return Collective(kind, taking_part, size, 1, largest.dtype, group)


def _kind_between_slices(send: Instruction) -> str:
    """As ``ALL_REDUCE``; ``ONE_TO_ONE``, and what is not known, costs as a permutation."""
    found = _BETWEEN_SLICES.search(send.rest)
    kind = found[1].lower().replace("_", "-") if found else ""
    return kind if kind in KINDS else "collective-permute"


def _is_sliced(reduced: Instruction, computation: Computation) -> bool:
    """Whether only slices are kept of its results."""
    names, sliced = {reduced.name}, False
    for instruction in computation.instructions.values():  # users come behind what they use
        if names.isdisjoint(instruction.operands):
            continue
        if instruction.opcode in ("dynamic-slice", "slice") and instruction.operands[0] in names:
            sliced = True
        elif instruction.opcode in _SEEN_THROUGH and not instruction.root:
            names.add(instruction.name)
        else:
            return False
    return sliced


class _Axes:
    """Finds the mesh axes that groups of devices reach along.

    Args:
        mesh_shape: sizes of the mesh axes.
        devices: that the program numbers, which are those of one slice; none where they are those of the mesh.
    """

    def __init__(self, mesh_shape: Mapping[str, int], devices: int | None) -> None:
        total = math.prod(mesh_shape.values())
        self._count = devices or total
        self._slices = left = total // self._count
        within: dict[str, int] = {}
        for axis, size in mesh_shape.items():  # the first axes are those across slices
            part = math.gcd(size, left)
            left //= part
            within[axis] = size // part
        if math.prod(within.values()) != self._count:
            raise RunError(
                f"the compiled program is for {self._count} devices; expected the {total} of the mesh "
                f"{dict(mesh_shape)}, or as many as one of its slices has"
            )
        self._across = tuple(axis for axis, size in mesh_shape.items() if within[axis] < size)
        self._sizes = {axis: size for axis, size in within.items() if size > 1}

    def of(self, instruction: Instruction) -> tuple[tuple[str, ...], int]:
        """Axes along which the devices of any group differ, and how many devices are in a group."""
        pairs = _PAIRS.search(instruction.rest)
        groups = _groups(instruction.rest, self._count) if pairs is None else _pairs(pairs[1])
        if groups is None or (groups.size and groups.max() >= self._count):
            return UNKNOWN, self._count
        if groups.shape[1] < 2 or not self._sizes:
            return (), 1
        places = np.stack(np.unravel_index(groups, tuple(self._sizes.values())))
        differ = (places != places[:, :, :1]).any(axis=(1, 2))
        names = tuple(name for name, moves in zip(self._sizes, differ, strict=True) if moves)
        if pairs is not None:  # a ring is written as its steps
            return names, math.prod(self._sizes[name] for name in names)
        return names, groups.shape[1]

    def across_slices(self, send: Instruction) -> tuple[tuple[str, ...], int]:
        """The same, of what crosses slices."""
        listed = _TARGET.search(send.rest)
        return self._across or UNKNOWN, len(listed[1].split(",")) if listed else self._slices


def _pairs(text: str) -> np.ndarray:
    """Source and target of each message [messages, 2]."""
    found = re.findall(r"\{(\d+),(\d+)\}", text)
    return np.array(found, np.int64).reshape(-1, 2)


def _groups(text: str, count: int) -> np.ndarray | None:
    """Device numbers [groups, devices in each]; none where they are not understood."""
    if found := _IOTA.search(text):
        shape, dims = _numbers(found[1]), _numbers(found[2])
        ids = np.arange(math.prod(dims)).reshape(dims)
        if found[3] is not None:
            ids = ids.transpose(_numbers(found[3]))
        return ids.reshape(shape[0], -1)
    if found := _MESH.search(text):
        return _groups_of_mesh(found[1], found[2], found[3])
    if found := _LISTED.search(text):
        if not found[1]:
            return np.arange(count)[None]
        rows = [_numbers(row) for row in re.findall(r"\{([\d,]+)\}", found[1])]
        return np.array(rows) if len({len(row) for row in rows}) == 1 else None
    return None


def _groups_of_mesh(sizes: str, devices: str | None, axes: str) -> np.ndarray:
    """Of the form ``mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}``.

    An axis may be a part of one, as ``'b':(2)2``: behind 2, of 2.
    """
    named = {name: int(size) for name, size in _MESH_AXIS.findall(sizes)}
    parts: list[tuple[int, bool]] = []
    chosen = {
        name: (int(before or 1), int(size) if size else named[name])
        for name, before, size in _NAMED_AXIS.findall(axes)
    }
    for name, whole in named.items():
        if name not in chosen:
            parts.append((whole, False))
            continue
        before, size = chosen[name]
        parts += [(before, False), (size, True), (whole // (before * size), False)]
    ids = _device_ids(math.prod(named.values()), devices).reshape([size for size, _ in parts])
    order = sorted(range(len(parts)), key=lambda i: parts[i][1])
    group = math.prod(size for size, taken in parts if taken)
    return ids.transpose(order).reshape(-1, group)


def _device_ids(count: int, text: str | None) -> np.ndarray:
    """In the order of a mesh: counted up, transposed, or listed."""
    if text is None:
        return np.arange(count)
    if (shaped := _DEVICES.fullmatch(text)) is None:
        return np.array(_numbers(text))
    ids = np.arange(count).reshape(_numbers(shaped[1]))
    return ids if shaped[2] is None else ids.transpose(_numbers(shaped[2]))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
