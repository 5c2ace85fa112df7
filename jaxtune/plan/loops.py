"""How often each part of a compiled program runs in one execution of it.

The entry runs once; the body of a loop as often as the loop passes, for each time the loop is reached; what is called,
fused or started runs with its caller. Of the branches of a conditional only the costliest runs.

Passes of a loop are what the compiler noted (``known_trip_count``, on CPUs). The TPU compiler notes nothing, so there the
counter is followed: where it starts, what a pass adds, and what the condition compares it with. All three must be
constants, or the number is not known and nothing is counted wrongly: it is an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

from jaxtune.errors import RunError
from jaxtune.plan.hlo import Computation, Instruction, Module

FOR_EACH_ELEMENT = (
    "reduce",
    "reduce-window",
    "scatter",
    "sort",
    "map",
    "select-and-scatter",
    "all-reduce",
    "reduce-scatter",
)
"""Operations whose ``to_apply`` is a function of numbers, not a part of the program."""
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NUMBER = re.compile(r"^\((-?\d+)\)")
_INDEX = re.compile(r"\bindex=(\d+)")
_DIRECTION = re.compile(r"\bdirection=(\w+)")
_THE_SAME = ("copy", "copy-start", "copy-done", "bitcast", "convert", "reshape")
_SWAPPED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}


def executions(module: Module, costs: Mapping[str, float]) -> dict[str, int]:
    """How often each computation runs in one execution of the program.

    Args:
        costs: of one run of a computation, without what it calls; they say which branch of a conditional to count.
            What is not named costs nothing.

    Raises:
        RunError: a loop whose number of passes cannot be read; it is named.
    """
    loops = _Loops(module)
    order = _callees_first(module)
    totals: dict[str, float] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    for name in order:
        computation = module.computations[name]
        calls[name] = [
            call
            for instruction in computation.instructions.values()
            if _runs_its_callees(instruction)
            for call in _calls(instruction, loops, computation, totals)
        ]
        totals[name] = costs.get(name, 0.0) + sum(passes * totals[callee] for callee, passes in calls[name])
    times = dict.fromkeys(order, 0)
    times[module.entry] = 1
    for name in reversed(order):
        for callee, passes in calls[name]:
            times[callee] += passes * times[name]
    return times


def _runs_its_callees(instruction: Instruction) -> bool:
    return (
        bool(instruction.called)
        and instruction.operation not in FOR_EACH_ELEMENT
        and not instruction.ends_another
    )


def _calls(
    instruction: Instruction, loops: _Loops, computation: Computation, totals: Mapping[str, float]
) -> Iterator[tuple[str, int]]:
    """Computations that an instruction runs, with how often."""
    if instruction.opcode == "while":
        passes = loops.passes(instruction, computation)
        yield instruction.called["body"][0], passes
        yield instruction.called["condition"][0], passes + 1
        return
    callees = [name for names in instruction.called.values() for name in names]
    if instruction.opcode == "conditional":
        callees = [max(callees, key=totals.__getitem__)]
    yield from ((name, 1) for name in callees)


def _callees_first(module: Module) -> list[str]:
    """All computations that the entry reaches."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in order:
            return
        for instruction in module.computations[name].instructions.values():
            if _runs_its_callees(instruction):
                for names in instruction.called.values():
                    for callee in names:
                        visit(callee)
        order[name] = None

    visit(module.entry)
    return list(order)


@dataclasses.dataclass(frozen=True)
class _Frame:
    """A computation, and the fusion that calls it with the fusion's own frame, if one does."""

    computation: Computation
    fusion: Instruction | None = None
    outer: _Frame | None = None


class _Loops:
    """Reads how often loops pass."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._loop_of: dict[str, tuple[Instruction, Computation]] = {}
        """By the name of a body or condition, its loop and where that is; what several loops share is not in it."""
        shared = set()
        for computation in module.computations.values():
            for instruction in computation.instructions.values():
                if instruction.opcode != "while":
                    continue
                for (name,) in (instruction.called["body"], instruction.called["condition"]):
                    shared |= {name} & self._loop_of.keys()
                    self._loop_of[name] = instruction, computation
        for name in shared:
            del self._loop_of[name]

    def passes(self, loop: Instruction, where: Computation) -> int:
        """Of a loop each time it is reached.

        Raises:
            RunError: its counter is not a plain one.
        """
        if noted := _TRIPS.search(loop.rest):
            return int(noted[1])
        found = self._counted(loop, where)
        if found is None:
            raise RunError(
                f"the loop %{loop.name} of the compiled program does not say how often it passes; expected a "
                "known_trip_count, or a counter that starts at a constant, is stepped by one and compared with one. "
                "A while_loop over data cannot be planned: use a scan or a fori_loop with a fixed number of passes"
            )
        return found

    def _counted(self, loop: Instruction, where: Computation) -> int | None:
        condition = self._module.computations[loop.called["condition"][0]]
        frame, compare = self._source(_Frame(condition), condition.root.name)
        direction = _DIRECTION.search(compare.rest)
        if compare.opcode != "compare" or direction is None:
            return None
        sides = [self._sum(frame, name) for name in compare.operands]
        limits = [self._constant(condition, side) for side in sides]
        towards = direction[1]
        if limits[0] is not None:  # limit < counter
            sides.reverse()
            limits.reverse()
            towards = _SWAPPED.get(towards, towards)
        counter, limit = sides[0], limits[1]
        if counter is None or limit is None:
            return None
        element, ahead = counter
        if element is None:
            return None
        start = self._element(where, loop.operands[0], element)
        step = self._step(loop, element)
        if start is None or step is None:
            return None
        return _passes(start + ahead, limit, step, towards)

    def _step(self, loop: Instruction, element: int) -> int | None:
        """What one pass adds to an element of the loop's state."""
        body = self._module.computations[loop.called["body"][0]]
        if body.root.opcode != "tuple":
            return None
        found = self._sum(_Frame(body), body.root.operands[element])
        return found[1] if found is not None and found[0] == element else None

    def _element(self, where: Computation, state: str, element: int) -> int | None:
        """The constant that an element of a loop's first state is."""
        given = where.instructions[state]
        if given.opcode != "tuple":
            return None
        return self._constant(where, self._sum(_Frame(where), given.operands[element]))

    def _constant(self, computation: Computation, found: tuple[int | None, int] | None) -> int | None:
        """What ``_sum`` found, where it is the same in all passes."""
        if found is None:
            return None
        element, added = found
        if element is None:
            return added
        kept = self._kept(computation, element)
        return None if kept is None else kept + added

    def _kept(self, computation: Computation, element: int) -> int | None:
        """The constant that an element of a loop's state is in all passes of it."""
        if computation.name not in self._loop_of:
            return None
        loop, where = self._loop_of[computation.name]
        if self._step(loop, element) != 0:
            return None
        return self._element(where, loop.operands[0], element)

    def _sum(self, frame: _Frame, name: str) -> tuple[int | None, int] | None:
        """A number as an element of the computation's only parameter, or none, and what is added to it."""
        frame, source = self._source(frame, name)
        match source.opcode:
            case "constant":
                number = _NUMBER.match(source.rest)
                return None if number is None else (None, int(number[1]))
            case "get-tuple-element":
                of = frame.computation.instructions[source.operands[0]]
                whole = of.opcode == "parameter" and frame.fusion is None
                return (_index(source), 0) if whole else None
            case "add" | "subtract":
                left, right = (self._sum(frame, operand) for operand in source.operands)
                if left is None or right is None:
                    return None
                if right[0] is None:
                    return left[0], left[1] + (right[1] if source.opcode == "add" else -right[1])
                return (right[0], left[1] + right[1]) if left[0] is None and source.opcode == "add" else None
        return None

    def _source(self, frame: _Frame, name: str) -> tuple[_Frame, Instruction]:
        """Where a number comes from, seen through copies and into and out of fusions."""
        while True:
            instruction = frame.computation.instructions[name]
            if instruction.opcode in _THE_SAME:
                name = instruction.operands[0]
            elif instruction.opcode == "parameter" and frame.fusion is not None and frame.outer is not None:
                number = _NUMBER.match(instruction.rest)
                assert number is not None
                name, frame = frame.fusion.operands[int(number[1])], frame.outer
            elif instruction.opcode == "fusion":
                frame = self._into(frame, instruction)
                name = frame.computation.root.name
            elif instruction.opcode == "get-tuple-element":
                of = frame.computation.instructions[instruction.operands[0]]
                inside = self._into(frame, of) if of.opcode == "fusion" else None
                if inside is None or inside.computation.root.opcode != "tuple":
                    return frame, instruction
                frame, name = inside, inside.computation.root.operands[_index(instruction)]
            else:
                return frame, instruction

    def _into(self, frame: _Frame, fusion: Instruction) -> _Frame:
        return _Frame(self._module.computations[fusion.called["calls"][0]], fusion, frame)


def _index(instruction: Instruction) -> int:
    found = _INDEX.search(instruction.rest)
    assert found is not None, instruction.rest[:200]
    return int(found[1])


def _passes(start: int, limit: int, step: int, direction: str) -> int | None:
    """How often ``start, start + step, …`` holds before it does not; none where it never ends."""
    if direction in ("GT", "GE"):
        start, limit, step = -start, -limit, -step
        direction = _SWAPPED[direction]
    if direction == "NE":
        distance, rest = divmod(limit - start, step) if step else (-1, 0)
        return distance if distance >= 0 and not rest else None
    if direction not in ("LT", "LE"):
        return None
    first_out = limit + (direction == "LE")
    if start >= first_out:
        return 0
    return -((start - first_out) // step) if step > 0 else None
