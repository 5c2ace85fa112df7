"""Optimised HLO as text, read: computations, and the instructions in them.

The text is that of ``compiled.as_text()``, of CPUs and of TPUs: https://openxla.org/xla/hlo_dumps. Only as much of the
language is understood as its readers need. It is read line by line, in time linear in its length: some 20 MB a second.
How often each computation runs is the matter of ``plan.loops``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping

from jaxtune.errors import RunError

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_PARTITIONS = re.compile(r"\b(?:num_partitions|replica_count)=(\d+)")
_NAMES = re.compile(r"%([\w.\-]+)")
_OPCODE = re.compile(r" *([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations|called_computations)="
    r"(?:%([\w.\-]+)|\{([^}]*)\})"
)
_BRACKETS = re.compile(r"[()]")
_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16}


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of an array.

    Attributes:
        space: memory it lies in: 0 is HBM (or RAM), others are on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @functools.cached_property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @functools.cached_property
    def bytes(self) -> int:
        """Of all elements, without the padding of a layout."""
        return (self.size * _bits(self.dtype) + 7) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        results: arrays it gives, those of tuples in order.
        operands: names of other instructions of the computation.
        rest: the line from its operands on.
        called: role → computations, as ``{"body": ("loop",)}``.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    called: Mapping[str, tuple[str, ...]]
    root: bool = False

    @functools.cached_property
    def operation(self) -> str:
        """The opcode without what says that it only starts here: ``all-gather-start`` is an ``all-gather``."""
        return self.opcode.removesuffix("-start")

    @property
    def ends_another(self) -> bool:
        """Whether it only waits for one that was started before, and is counted there."""
        return self.opcode.endswith(("-done", "-update"))


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: Mapping[str, Instruction]

    def arrays(self, names: Iterable[str]) -> list[Array]:
        """What these instructions give, one after the other."""
        return [array for name in names for array in self.instructions[name].results]

    @functools.cached_property
    def root(self) -> Instruction:
        """What it gives."""
        return next(instruction for instruction in self.instructions.values() if instruction.root)


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
        entry: name of the computation that is the program.
        computations: by name, in the order of the text.
        devices: it is for, which are those of one slice; none where the text does not say.
    """

    entry: str
    computations: Mapping[str, Computation]
    devices: int | None = None

    @functools.cached_property
    def fused(self) -> frozenset[str]:
        """Names of computations that are one kernel each."""
        return frozenset(
            name
            for computation in self.computations.values()
            for instruction in computation.instructions.values()
            if instruction.operation == "fusion"
            for name in instruction.called.get("calls", ())
        )


def parse_module(text: str) -> Module:
    """A program from its text.

    Raises:
        RunError: there is no entry computation in it, or a line that cannot be read; it is quoted.
    """
    computations: dict[str, Computation] = {}
    entry, name, inside = "", "", dict[str, Instruction]()
    lines = text.splitlines()
    for line in lines:
        if line.startswith(" "):
            if (instruction := _instruction(line)) is not None:
                inside[instruction.name] = instruction
        elif line.startswith("}"):
            computations[name] = Computation(name, inside)
        elif header := _HEADER.match(line):
            name, inside = header[2], {}
            entry = name if header[1] else entry
    if entry not in computations:
        raise RunError("the text is no HLO program: it has no ENTRY computation; expected compiled.as_text()")
    counts = [int(count) for count in _PARTITIONS.findall(lines[0])]
    return Module(entry, computations, math.prod(counts) if counts else None)


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.strip().partition(" = ")
    if not equals:
        return None
    kind_ends = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
    opcode = _OPCODE.match(right, max(kind_ends, 0))
    if opcode is None:
        raise RunError(f"a line of the compiled program cannot be read: {line.strip()[:200]}")
    begin = opcode.end() - 1
    end = _closing(right, begin)
    called = {
        role: (one,) if one else tuple(_NAMES.findall(several))
        for role, one, several in _CALLED.findall(right, end)
    }
    return Instruction(
        left.removeprefix("ROOT ").removeprefix("%"),
        opcode[1],
        arrays_in(right[:kind_ends]),
        tuple(_NAMES.findall(right, begin, end)),
        right[begin:],
        called,
        left.startswith("ROOT "),
    )


def arrays_in(text: str) -> tuple[Array, ...]:
    """The arrays of a type, as ``(f32[8]{0}, bf16[2,4]{1,0:T(8,128)S(1)})``."""
    return tuple(_array(*match) for match in _ARRAY.findall(text))


@functools.lru_cache(maxsize=65536)
def _array(dtype: str, shape: str, layout: str) -> Array:
    space = _SPACE.search(layout)
    # A size that is only known while it runs is written as its bound: <=8.
    sizes = tuple(int(size.removeprefix("<=")) for size in shape.split(",")) if shape else ()
    return Array(dtype, sizes, int(space[1]) if space else 0)


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)  # f32, s4, u64, c64, f8e4m3fn
    return int(digits[0]) if digits else 0


def _closing(text: str, begin: int) -> int:
    """Where the bracket that opens at ``begin`` closes."""
    depth = 0
    for match in _BRACKETS.finditer(text, begin):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)
