"""What a compiled program makes a device do: arithmetic of its matrix products, and traffic of its memory."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Set

from jaxtune.plan.collectives import KINDS
from jaxtune.plan.hlo import Array, Computation, Instruction, Module, parse_module
from jaxtune.plan.loops import executions

_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_ALIASED = re.compile(r"output_to_operand_aliasing=\{(.*?\)\})")
_ALIASED_OUTPUT = re.compile(r"\{(\d*)\}: \(")
_MATMUL_OF_CPU = "__onednn$matmul"
FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "iota",
    "async",
)
"""Operations that move no bytes themselves; what some of them call does."""
FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
"""Custom calls of the TPU compiler that only name memory."""
PASSING = ("parameter", *KINDS)
"""What a fusion only hands on, where the result lies where an operand does: of a collective, a part."""
SLICES = ("dynamic-slice", "slice", "gather")


def compiled_flops(hlo_text: str) -> float:
    """FLOPs of the matrix products and convolutions that one device computes in one execution.

    Two for each multiplication and addition; those that a convolution does with padding do not count, as the TPU
    compiler writes matrix products as convolutions full of it. Custom calls, as kernels are, cannot be looked into.

    Raises:
        RunError: see ``plan.hlo`` and ``plan.loops``.
    """
    module = parse_module(hlo_text)
    return _sum(module, {name: _flops_of(each) for name, each in module.computations.items()})


def hbm_traffic(hlo_text: str) -> float:
    """Bytes that one device reads from and writes to its main memory in one execution.

    Counted are operands and results of every kernel, where they lie in main memory: a fusion at its boundary, of what
    it only slices the slices, and of what it updates in place the update.

    Raises:
        RunError: see ``plan.hlo`` and ``plan.loops``.
    """
    module = parse_module(hlo_text)
    return _sum(
        module,
        {
            name: float(sum(_traffic(i, each, module) for i in each.instructions.values()))
            for name, each in module.computations.items()
            if name not in module.fused
        },
    )


def _sum(module: Module, costs: Mapping[str, float]) -> float:
    times = executions(module, costs)
    return float(sum(times.get(name, 0) * cost for name, cost in costs.items()))


def _flops_of(computation: Computation) -> float:
    return float(sum(_flops(instruction, computation) for instruction in computation.instructions.values()))


def _flops(instruction: Instruction, computation: Computation) -> int:
    if instruction.operation == "dot":
        left = computation.instructions[instruction.operands[0]].results[0]
        contracted = _CONTRACTED.search(instruction.rest)
        dims = [int(d) for d in contracted[1].split(",") if d] if contracted else []
        return 2 * instruction.results[-1].size * math.prod(left.shape[d] for d in dims)
    if instruction.operation == "convolution":
        return _convolution_flops(instruction, computation)
    if instruction.operation == "custom-call" and _target(instruction) == _MATMUL_OF_CPU:
        left = computation.instructions[instruction.operands[0]].results[0]
        return 2 * instruction.results[0].size * left.shape[-1]
    return 0


def _target(call: Instruction) -> str:
    found = _TARGET.search(call.rest)
    return found[1] if found else ""


def _convolution_flops(instruction: Instruction, computation: Computation) -> int:
    labels = _LABELS.search(instruction.rest)
    assert labels is not None, instruction.rest[:200]
    left, right = (computation.instructions[name].results[0] for name in instruction.operands[:2])
    out = instruction.results[0]
    window = _window(instruction.rest)
    pairs = 1
    for digit in sorted(filter(str.isdigit, labels[1])):
        sizes = left.shape[labels[1].index(digit)], out.shape[labels[3].index(digit)]
        pairs *= _products(*sizes, right.shape[labels[2].index(digit)], *_settings(window, int(digit)))
    plain = out.shape[labels[3].index("b")] * out.shape[labels[3].index("f")]
    # Of grouped ones the kernel holds what one group reads, and of batch groups an output is of one group only.
    return 2 * pairs * plain * right.shape[labels[2].index("i")]


def _window(text: str) -> Mapping[str, list[str]]:
    found = _WINDOW.search(text)
    parts = (part.partition("=") for part in found[1].split()) if found else ()
    return {name: values.split("x") for name, _, values in parts}


def _settings(window: Mapping[str, list[str]], dim: int) -> tuple[int, int, int, int]:
    """Padding before the input, stride, and dilation of input and kernel."""

    def setting(name: str, default: str) -> str:
        return window[name][dim] if name in window else default

    low = int(setting("pad", "0_0").partition("_")[0])
    stride, inner, outer = (int(setting(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    return low, stride, inner, outer


@functools.lru_cache(maxsize=4096)
def _products(size: int, out: int, kernel: int, low: int, stride: int, inner: int, outer: int) -> int:
    """How many pairs of an output's place and a kernel's place meet an element of the input.

    They meet where ``place * stride + k * outer - low`` is no padding, nor a gap of a dilated input: for each place
    of the kernel, every ``inner / gcd(stride, inner)``-th place of the output within a range.
    """
    last = (size - 1) * inner
    common = math.gcd(stride, inner)
    period = inner // common
    inverse = pow(stride // common, -1, period) if period > 1 else 0
    total = 0
    for k in range(kernel):
        ahead = low - k * outer
        if ahead % common:
            continue
        begin = max(0, -(-ahead // stride))
        end = min(out - 1, (last + ahead) // stride)
        begin += (ahead // common * inverse - begin) % period
        total += max(0, (end - begin) // period + 1)
    return total


def _traffic(instruction: Instruction, computation: Computation, module: Module) -> int:
    operation = instruction.operation
    if operation in FREE or instruction.ends_another:
        return 0
    if operation == "custom-call" and _target(instruction) in FREE_CALLS:
        return 0
    read = computation.arrays(instruction.operands)
    match operation:
        case "fusion":
            inside = module.computations[instruction.called["calls"][0]]
            return _fusion_traffic(instruction, computation, inside)
        case "dynamic-slice" | "slice" | "gather":
            part = _not_repeated(instruction, read)[:1]
            return _bytes(part, where=read[0]) + _in_hbm(part)
        case "dynamic-update-slice":
            return _in_hbm(read[1:2]) + _bytes(read[1:2], where=instruction.results[0])
        case "send" | "recv":  # a send's result is its operand, and a recv has none
            return _in_hbm(read) if operation == "send" else _in_hbm(instruction.results)
        case "copy" if instruction.opcode == "copy-start":
            return _in_hbm(read) + _in_hbm(instruction.results[:1])
    return _in_hbm(read) + _in_hbm(_not_repeated(instruction, read))


def _not_repeated(instruction: Instruction, read: list[Array]) -> tuple[Array, ...]:
    """Results; what starts something has its operands before them, but for an all-reduce."""
    if instruction.opcode == instruction.operation or len(instruction.results) <= len(read):
        return instruction.results
    return instruction.results[len(read) :]


def _fusion_traffic(instruction: Instruction, computation: Computation, inside: Computation) -> int:
    """What goes through the boundary of a fusion."""
    target = _target(inside.root) if inside.root.opcode == "custom-call" else ""
    if target == "AsyncCollectiveDone":
        return _in_hbm(instruction.results)
    roots = _roots(inside)
    kept = {roots[i].name for i in _aliased(instruction) if i < len(roots) and roots[i].opcode in PASSING}
    ignored = kept | {inside.root.name} if kept else kept
    users = _users(inside)
    total = 0
    for number, name in _parameters(inside):
        outer = computation.instructions[instruction.operands[number]].results
        total += _read_of(name, outer, users, ignored)
    if target == "AsyncCollectiveStart":  # what it gives is written when it ends
        return total
    if len(roots) != len(instruction.results):
        return total + _in_hbm(instruction.results)
    written = zip(instruction.results, roots, strict=True)
    return total + sum(_written(array, part, inside) for array, part in written if part.name not in kept)


def _aliased(fusion: Instruction) -> set[int]:
    """Numbers of the results that lie where an operand does."""
    found = _ALIASED.search(fusion.rest)
    return {int(number or 0) for number in _ALIASED_OUTPUT.findall(found[1])} if found else set()


def _parameters(inside: Computation) -> Iterator[tuple[int, str]]:
    for instruction in inside.instructions.values():
        if instruction.opcode == "parameter":
            yield int(instruction.rest[1 : instruction.rest.index(")")]), instruction.name


def _users(inside: Computation) -> Mapping[str, list[Instruction]]:
    users: dict[str, list[Instruction]] = {name: [] for name in inside.instructions}
    for instruction in inside.instructions.values():
        for operand in dict.fromkeys(instruction.operands):
            users[operand].append(instruction)
    return users


def _read_of(
    name: str, outer: Iterable[Array], users: Mapping[str, list[Instruction]], ignored: Set[str]
) -> int:
    """Bytes that are read of a parameter, seen through reshapes; users that are ignored read nothing."""
    whole = _in_hbm(outer)
    total, names = 0, [name]
    while names and whole:
        current = names.pop()
        for user in users[current]:
            if user.opcode == "bitcast":
                names.append(user.name)
            elif user.opcode in SLICES and user.operands[0] == current:
                total += sum(array.bytes for array in user.results)
            elif user.name not in ignored and (
                user.opcode != "dynamic-update-slice" or current in user.operands[1:]
            ):
                return whole
    return min(total, whole)


def _roots(inside: Computation) -> list[Instruction]:
    """What gives each result."""
    root = inside.root
    found = [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return [_through(instruction, inside) for instruction in found]


def _through(instruction: Instruction, inside: Computation) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = inside.instructions[instruction.operands[0]]
    return instruction


def _written(array: Array, part: Instruction, inside: Computation) -> int:
    if part.opcode == "dynamic-update-slice":
        return _bytes(inside.arrays(part.operands[1:2]), where=array)
    return _in_hbm((array,))


def _bytes(arrays: Iterable[Array], where: Array) -> int:
    """Of parts of an array, if that lies in main memory."""
    return sum(array.bytes for array in arrays) if where.space == 0 else 0


def _in_hbm(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)
