"""Plans as tables: for the terminal, CSV and Markdown. Pictures are in ``pictures.py``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from jaxtune.parallel.accelerators import accelerator_rows
from jaxtune.parallel.mesh import describe
from jaxtune.plan.advice import GIB, Facts, advice, lacking
from jaxtune.plan.bounds import Bound, best_first
from jaxtune.plan.collectives import Collective
from jaxtune.plan.compiled import Compiled
from jaxtune.plan.topologies import Topology

Found = tuple[Compiled, Bound | None]
NONE = "–"
WIDTH = 116
"""Columns where the output is no terminal."""

_LEFT = ("mesh", "fits", "binds")
_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
_NOTE = (
    "Bounds are the least a step can take by data-sheet rates: compute, HBM and interconnect overlapped fully "
    "(bound) or not at all (no overlap). MFU and tokens/s are those of the bound."
)
_OF_CHIPS = """Peaks are dense bfloat16 (float16 on v100 and t4), of a chip. Links and DCN: what a chip can send, one direction.
Usable is what the TPU compiler lets a program have. Figures of data sheets; nothing is measured here. Sources:"""


def csv_text(found: Iterable[Found], topology: Topology, facts: Facts) -> str:
    """One row per mesh, best first; plain numbers in bytes, seconds and FLOPs."""
    rows = [_plain(compiled, bound, topology, facts) for compiled, bound in best_first(found)]
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown_text(found: Iterable[Found], topology: Topology, facts: Facts, title: str = "") -> str:
    """A heading, the table, and what is behind each row."""
    ordered = best_first(found)
    lines = [f"# {title or 'Plan'}", "", _headline(topology), ""]
    if ordered:
        lines += _markdown_table(_rows(ordered, topology))
        lines += ["", _NOTE, ""]
    for compiled, bound in ordered:
        lines += [f"## {describe(compiled.mesh)}", ""]
        lines += [f"- **{name}**: {text}" for name, text in details(compiled, bound, topology, facts)]
        lines.append("")
    return "\n".join(lines)


def terminal_text(found: Iterable[Found], topology: Topology, facts: Facts, width: int | None = None) -> str:
    """What ``print_report`` prints, without colours.

    Args:
        width: columns; none for ``WIDTH``.
    """
    buffer = io.StringIO()
    print_report(found, topology, facts, Console(file=buffer, width=width or WIDTH, color_system=None))
    return _trimmed(buffer.getvalue())


def print_report(
    found: Iterable[Found], topology: Topology, facts: Facts, console: Console | None = None
) -> None:
    """The table, best mesh first, and below it what is behind each row."""
    console = console or _console()
    ordered = best_first(found)
    console.print(_headline(topology), style="bold", highlight=False)
    table = Table(pad_edge=False, box=None, header_style="bold")
    rows = _rows(ordered, topology)
    for name in rows[0] if rows else ():
        justify: JustifyMethod = "left" if name in _LEFT else "right"
        header = "\n".join(name.replace("/chip", " /chip").rsplit(" ", 1))
        table.add_column(
            header, justify=justify, no_wrap=name in _LEFT[1:], overflow="fold", vertical="bottom"
        )
    for (compiled, _), row in zip(ordered, rows, strict=True):
        table.add_row(*row.values(), style="" if compiled.fits else "dim")
    console.print(table)
    console.print(f"\n{_NOTE}", style="dim", highlight=False)
    for compiled, bound in ordered:
        console.print(f"\n[bold]{describe(compiled.mesh)}[/bold]", highlight=False)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=12, style="dim")
        grid.add_column(overflow="fold")
        before = ""
        for name, text in details(compiled, bound, topology, facts):
            grid.add_row("" if name == before else name, text)
            before = name
        console.print(grid)


def accelerators_text(format: str = "terminal") -> str:
    """The table of known chips, for ``jaxtune plan --accelerators``.

    Args:
        format: ``terminal``, ``markdown`` or ``csv``.
    """
    rows = accelerator_rows()
    if format == "markdown":
        return "\n".join(_markdown_table(rows)) + "\n"
    buffer = io.StringIO()
    if format == "csv":
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()
    sources = [(row["chip"], row.pop("source")) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "chip" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console = Console(file=buffer, width=WIDTH, color_system=None)
    console.print(table)
    lines = [f"{chip:<9}{source}" for chip, source in sources]
    return "\n".join([_trimmed(buffer.getvalue()), _OF_CHIPS, "", *lines, ""])


def details(
    compiled: Compiled, bound: Bound | None, topology: Topology, facts: Facts
) -> list[tuple[str, str]]:
    """What is behind a row, as names and texts: FLOPs, collectives, the parts of the bound, or what to change."""
    lines: list[tuple[str, str]] = []
    if not compiled.fits:
        if compiled.error:
            lines.append(("failed", compiled.error))
        if lack := lacking(compiled):
            alone = " for parameters, optimizer and gradients alone" if compiled.seconds == 0.0 else ""
            lines.append(("does not fit", f"{lack}{alone}"))
        return lines + [("try" if n == 0 else "or", text) for n, text in enumerate(advice(compiled, facts))]
    lines.append(("memory", _memory_line(compiled, topology)))
    lines.append(
        (
            "FLOPs",
            f"model {_scaled(compiled.model_flops)} a step ({_scaled(compiled.model_flops / _chips(compiled))} "
            f"a chip), compiled {_scaled(compiled.compiled_flops)} a chip without custom calls",
        )
    )
    lines += [("collectives", text) for text in _collective_lines(compiled.collectives)] or [
        ("collectives", "none")
    ]
    if bound is not None:
        lines.append(("bound", _bound_line(bound)))
    if compiled.measured is not None:
        lines.append(("measured", _milliseconds(compiled.measured) + " ms a step"))
    if compiled.attention:
        lines.append(("attention", "; ".join(compiled.attention)))
    return lines


def capacity_of(found: Sequence[Compiled], topology: Topology) -> int | None:
    """Bytes of HBM that a program gets on a chip: as the compiler said, else by the table; none of a CPU."""
    said = [compiled.available for compiled in found if compiled.available]
    return said[0] if said else topology.capacity


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _headline(topology: Topology) -> str:
    slices = f" in {topology.slices} slices" if topology.slices > 1 else ""
    chip = topology.accelerator
    figures = (
        ""
        if chip is None
        else f": {chip.name}, {chip.peak_flops / 1e12:,.0f} TFLOP/s, {chip.capacity / GIB:.2f} GiB at "
        f"{chip.hbm_bandwidth / 1e9:,.0f} GB/s"
    )
    return f"{topology.name}, {topology.chips} chips{slices}{figures}"


def _rows(found: Sequence[Found], topology: Topology) -> list[dict[str, str]]:
    """The table that people read: a row per mesh, all with the same columns."""
    capacity = capacity_of([compiled for compiled, _ in found], topology)
    hbm = f"GiB of {_gib(capacity)}" if capacity else "GiB"
    measured = any(compiled.measured is not None for compiled, _ in found)
    return [_cells(compiled, bound, hbm, measured) for compiled, bound in found]


def _cells(compiled: Compiled, bound: Bound | None, hbm: str, measured: bool) -> dict[str, str]:
    memory = compiled.memory
    used = memory.peak if memory else compiled.needed
    row = {
        "mesh": describe(compiled.mesh),
        "fits": _fits(compiled),
        hbm: _gib(used),
        "params": _gib(memory.parameters if memory else None),
        "optim": _gib(memory.optimizer if memory else None),
        "grads": _gib(memory.gradients if memory else None),
        "acts": _gib(memory.activations if memory else None),
        "bound ms": _milliseconds(bound.step if bound else None),
        "binds": bound.binds if bound else NONE,
        "MFU": f"{100 * bound.mfu:.0f} %" if bound else NONE,
        "tok/s/chip": f"{bound.tokens_per_chip:,.0f}" if bound else NONE,
    }
    if measured:
        row["measured ms"] = _milliseconds(compiled.measured)
    row["compile s"] = f"{compiled.seconds:.0f}" if compiled.seconds else NONE
    return row


def _plain(compiled: Compiled, bound: Bound | None, topology: Topology, facts: Facts) -> dict[str, Any]:
    """A row for machines: bytes, seconds, FLOPs."""
    memory = compiled.memory
    row: dict[str, Any] = {
        "topology": topology.name,
        "mesh": describe(compiled.mesh),
        "fits": compiled.fits,
        "hbm_needed": memory.peak if memory else compiled.needed,
        "hbm_capacity": capacity_of([compiled], topology),
        "parameters": memory and memory.parameters,
        "optimizer": memory and memory.optimizer,
        "gradients": memory and memory.gradients,
        "activations": memory and memory.activations,
        "temporaries": memory and memory.temporaries,
        "model_flops": compiled.model_flops or None,
        "compiled_flops_per_chip": compiled.compiled_flops or None,
        "hbm_traffic": compiled.hbm_bytes or None,
        "collectives": "; ".join(_collective_lines(compiled.collectives)),
    }
    parts = ("compute", "hbm", "interconnect", "step", "apart", "binds", "mfu", "tokens_per_chip")
    row |= {f"bound_{name}": getattr(bound, name) if bound else None for name in parts}
    return row | {
        "measured": compiled.measured,
        "compile_seconds": compiled.seconds or None,
        "advice": "; ".join(advice(compiled, facts)),
        "error": compiled.error,
    }


def _fits(compiled: Compiled) -> str:
    if compiled.fits:
        return "yes"
    if compiled.needed is None or compiled.available is None:
        return "failed"
    return f"no, +{(compiled.needed - compiled.available) / GIB:.2f}"


def _memory_line(compiled: Compiled, topology: Topology) -> str:
    memory, capacity = compiled.memory, capacity_of([compiled], topology)
    assert memory is not None
    text = f"{_gib(memory.peak)} GiB at the peak"
    if capacity:
        text += f", {100 * memory.peak / capacity:.0f} % of {_gib(capacity)}"
    return f"{text}; {_gib(memory.temporaries)} of temporary buffers"


def _collective_lines(collectives: Iterable[Collective]) -> list[str]:
    """One line per axes: kinds, how often, and how many bytes in all."""
    by_axes: dict[str, list[Collective]] = {}
    for collective in collectives:
        if collective.group > 1:
            by_axes.setdefault("+".join(collective.axes), []).append(collective)
    lines = []
    for axes, members in by_axes.items():
        kinds: dict[str, tuple[int, int]] = {}
        for member in members:
            count, size = kinds.get(member.kind, (0, 0))
            kinds[member.kind] = (count + member.count, size + member.count * member.bytes)
        texts = (f"{kind} × {count:,} ({_size(size)})" for kind, (count, size) in kinds.items())
        lines.append(f"{axes}: {', '.join(texts)}")
    return lines


def _bound_line(bound: Bound) -> str:
    parts = f"compute {_milliseconds(bound.compute)}, HBM {_milliseconds(bound.hbm)}"
    axes = ", ".join(f"{name} {_milliseconds(seconds)}" for name, seconds in bound.by_axes.items())
    network = f"interconnect {_milliseconds(bound.interconnect)}" + (f" ({axes})" if axes else "")
    return f"{parts}, {network} ms; {bound.binds} binds; {_milliseconds(bound.apart)} ms without overlap"


def _chips(compiled: Compiled) -> int:
    count = 1
    for size in compiled.mesh.values():
        count *= size
    return count


def _markdown_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    body = [[row.get(name, "").replace("|", "\\|") for name in names] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *body)]


def _trimmed(text: str) -> str:
    """Lines without the spaces that fill them up."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _gib(size: int | None) -> str:
    return NONE if size is None else f"{size / GIB:.2f}"


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(size: float) -> str:
    for unit, name in ((2**40, "TiB"), (GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def _scaled(flops: float) -> str:
    for unit, name in _UNITS:
        if flops >= unit:
            return f"{flops / unit:.3g} {name}FLOP"
    return f"{flops:.0f} FLOP"
