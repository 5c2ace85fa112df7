"""Plans as the terminal, CSV, Markdown and PNG show them, and what is advised where one does not fit."""

import csv
import dataclasses
import io

import pytest
from rich.console import Console

from jaxtune.config import Experiment, ModelConfig, TrainConfig
from jaxtune.parallel.accelerators import ACCELERATORS
from jaxtune.plan.advice import Facts, advice, lacking
from jaxtune.plan.bounds import bound_of
from jaxtune.plan.collectives import Collective
from jaxtune.plan.compiled import Compiled, Memory
from jaxtune.plan.pictures import draw_plan, plan_picture
from jaxtune.plan.report import accelerators_text, csv_text, markdown_text, print_report, terminal_text
from jaxtune.plan.topologies import Topology, parse_topology

GIB = 2**30
V5E = parse_topology("v5e:4x4")
FACTS = Facts(remat="none", scan_layers=False, accumulate=1, rows=256, optimizer="adamw")
MEMORY = Memory(GIB, 2 * GIB, GIB, round(9.3 * GIB), 6 * GIB)

GOOD = Compiled(
    {"data": 4, "fsdp": 4},
    memory=MEMORY,
    model_flops=2.1e15,
    compiled_flops=1.5e14,
    hbm_bytes=1e11,
    tokens=65536,
    attention=("splash attention (Pallas)",),
    seconds=31.4,
    collectives=(
        Collective("all-gather", ("fsdp",), 8 * 2**20, 100, "bf16", 4),
        Collective("all-gather", ("fsdp",), 2**20, 28, "f32", 4),
        Collective("reduce-scatter", ("fsdp",), 8 * 2**20, 32, "f32", 4),
        Collective("all-reduce", ("data",), 3, 2, "f32", 4),
        Collective("all-reduce", (), 3, 2, "f32", 1),
    ),
)
SLOW = dataclasses.replace(GOOD, mesh={"data": 16}, compiled_flops=3e14)
TOO_LARGE = Compiled(
    {"data": 8, "sequence": 2}, needed=round(16.85 * GIB), available=round(15.75 * GIB), seconds=20
)
NEVER = dataclasses.replace(TOO_LARGE, mesh={"data": 2, "tensor": 8}, needed=20 * GIB, seconds=0.0)
FAILED = Compiled({"tensor": 16}, error="not compiled within 300 s (--limit)")
FOUND = [(row, bound_of(row, V5E)) for row in (FAILED, NEVER, TOO_LARGE, SLOW, GOOD)]


def test_the_terminal_shows_the_best_first_and_how_much_is_lacking():
    lines = terminal_text(FOUND, V5E, FACTS).splitlines()
    assert lines[0] == "v5e:4x4, 16 chips: v5e, 197 TFLOP/s, 15.75 GiB at 819 GB/s"
    body = "\n".join(lines[1:10])
    order = [
        body.index(mesh)
        for mesh in ("data 4 × fsdp 4", "data 16", "data 8 × sequence", "data 2 × tensor", "tensor 16")
    ]
    assert order == sorted(order)
    best = next(line for line in lines if line.startswith("data 4 × fsdp 4 "))
    # 1.5e14 FLOPs at 197e12 a second; MFU is 2.1e15 / 16 of them.
    assert best.split()[5:] == [
        "yes",
        "9.30",
        "1.00",
        "2.00",
        "1.00",
        "5.30",
        "761",
        "compute",
        "88",
        "%",
        "5,379",
        "31",
    ]
    assert "no, +1.10" in body
    assert "failed" in body


@pytest.mark.parametrize("width", [100, 116])
def test_the_table_keeps_to_the_width(width):
    lines = terminal_text(FOUND, V5E, FACTS, width).splitlines()
    assert max(map(len, lines)) <= width
    # No number is broken into two lines: each row of the table has its own.
    assert sum("compute" in line and "%" in line for line in lines) == 2


def test_what_is_behind_a_row():
    text = " ".join(terminal_text(FOUND, V5E, FACTS).split())
    assert "fsdp: all-gather × 128 (828 MiB), reduce-scatter × 32 (256 MiB)" in text
    assert "data: all-reduce × 2 (6 B)" in text
    assert "model 2.1 PFLOP a step (131 TFLOP a chip), compiled 150 TFLOP a chip" in text
    assert "9.30 GiB at the peak, 59 % of 15.75; 6.00 of temporary buffers" in text
    assert "compute 761, HBM 122, interconnect " in text
    assert "compute binds" in text
    assert "splash attention (Pallas)" in text
    assert "16.85 of 15.75 GiB, 1.10 too many try model.remat full (now none)" in text
    assert "20.00 of 15.75 GiB, 4.25 too many for parameters, optimizer and gradients alone" in text
    assert "not compiled within 300 s (--limit)" in text


def test_csv_has_plain_numbers():
    rows = list(csv.DictReader(io.StringIO(csv_text(FOUND, V5E, FACTS))))
    assert [row["mesh"] for row in rows] == [
        "data 4 × fsdp 4",
        "data 16",
        "data 8 × sequence 2",
        "data 2 × tensor 8",
        "tensor 16",
    ]
    best, lost = rows[0], rows[2]
    assert (best["topology"], best["fits"], best["bound_binds"]) == ("v5e:4x4", "True", "compute")
    assert int(best["parameters"]) + int(best["activations"]) == GIB + MEMORY.activations
    assert float(best["bound_step"]) == pytest.approx(1.5e14 / 197e12)
    assert float(best["bound_mfu"]) == pytest.approx(0.875)
    assert (lost["fits"], lost["bound_step"], lost["parameters"]) == ("False", "", "")
    assert (int(lost["hbm_needed"]), int(lost["hbm_capacity"])) == (TOO_LARGE.needed, TOO_LARGE.available)
    assert lost["advice"].startswith("model.remat full")
    assert rows[4]["error"].startswith("not compiled within")


def test_markdown_has_a_table_and_a_part_per_mesh():
    text = markdown_text(FOUND, V5E, FACTS, "BERT")
    assert text.startswith("# BERT\n\nv5e:4x4, 16 chips")
    assert (
        "| data 4 × fsdp 4 | yes | 9.30 | 1.00 | 2.00 | 1.00 | 5.30 | 761 | compute | 88 % | 5,379 | 31 |"
        in text
    )
    assert "| mesh | fits | GiB of 15.75 | params |" in text
    assert text.count("\n## ") == len(FOUND)
    assert "- **does not fit**: 16.85 of 15.75 GiB, 1.10 too many" in text


def test_measured_steps_are_shown_beside_the_bound():
    measured = dataclasses.replace(GOOD, measured=1.25)
    text = markdown_text([(measured, bound_of(measured, V5E)), (FAILED, None)], V5E, FACTS)
    assert "| measured ms |" in text
    assert "| 1,250 | 31 |" in text
    assert "- **measured**: 1,250 ms a step" in text


def test_fake_devices_have_neither_capacity_nor_bound():
    here = Topology("cpu", (16,))
    lines = terminal_text([(GOOD, bound_of(GOOD, here))], here, FACTS).splitlines()
    assert lines[0] == "cpu:16, 16 chips"
    row = next(line for line in lines if line.startswith("data 4 × fsdp 4 "))
    assert row.split()[5:] == ["yes", "9.30", "1.00", "2.00", "1.00", "5.30", "–", "–", "–", "–", "31"]


def test_an_empty_plan_is_no_crash():
    assert "v5e:4x4" in terminal_text([], V5E, FACTS)
    assert "v5e:4x4" in markdown_text([], V5E, FACTS)
    assert csv_text([], V5E, FACTS) == "\n"
    assert plan_picture([], V5E).startswith(b"\x89PNG")


def test_colours_are_for_terminals_only():
    plain, coloured = io.StringIO(), io.StringIO()
    print_report(FOUND, V5E, FACTS, Console(file=plain, width=110, color_system=None))
    print_report(
        FOUND, V5E, FACTS, Console(file=coloured, width=110, force_terminal=True, color_system="standard")
    )
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[" in coloured.getvalue()


def test_the_picture_has_memory_and_time_of_every_mesh():
    figure = draw_plan(FOUND, V5E, "BERT on v5e:4x4")
    memory, time = figure.axes
    assert [label.get_text() for label in memory.get_yticklabels()][:2] == ["data 4 × fsdp 4", "data 16"]
    stacked = sum(bar.get_width() for bars in memory.containers[:4] for bar in list(bars)[:1])
    assert stacked == pytest.approx(9.3, rel=1e-6)
    capacity = next(line.get_xdata()[0] for line in memory.lines)
    assert capacity == pytest.approx(15.75)
    lacking_bars = memory.containers[4]
    assert [bar.get_width() for bar in lacking_bars] == pytest.approx([16.85, 20.0])
    assert [bars.get_label() for bars in time.containers] == ["compute", "HBM", "interconnect"]
    assert time.containers[0][0].get_width() == pytest.approx(1000 * 1.5e14 / 197e12)
    assert plan_picture(FOUND, V5E) == plan_picture(FOUND, V5E)


@pytest.mark.parametrize("format", ["terminal", "markdown", "csv"])
def test_the_table_of_chips_names_each_and_its_source(format):
    text = accelerators_text(format)
    for chip in ACCELERATORS.values():
        assert chip.name in text
        assert chip.source in text
    assert "197" in next(line for line in text.splitlines() if "v5e" in line)


def facts(**changes):
    return dataclasses.replace(FACTS, **changes)


def test_what_lacks_is_named():
    assert lacking(TOO_LARGE) == "16.85 of 15.75 GiB, 1.10 too many"
    assert lacking(GOOD) == lacking(FAILED) == ""


def test_advice_goes_by_what_is_left_to_change():
    first = advice(TOO_LARGE, FACTS)
    assert [line.split(" (now")[0] for line in first] == [
        "model.remat full",
        "model.scan_layers true: one layer's buffers are reused for all",
        "train.accumulate 2",
        "mesh.fsdp 2 to 8",
    ]
    later = advice(TOO_LARGE, facts(remat="full", scan_layers=True, accumulate=16, rows=256))
    assert [line.split(" (now")[0] for line in later] == ["train.accumulate 32", "mesh.fsdp 2 to 8"]
    # One row a chip and microbatch: no more can be had from accumulation.
    last = advice(TOO_LARGE, facts(remat="full", scan_layers=True, accumulate=32))
    assert [line.split(" (now")[0] for line in last] == ["mesh.fsdp 2 to 8"]


def test_advice_where_parameters_alone_are_too_large():
    lines = advice(NEVER, FACTS)
    assert [line.split(" (now")[0] for line in lines] == ["mesh.fsdp 2", "optim.name adafactor or lion"]


def test_advice_where_all_is_used_up():
    split = dataclasses.replace(TOO_LARGE, mesh={"fsdp": 2, "tensor": 8})
    used = facts(remat="full", scan_layers=True, rows=2)
    assert advice(split, used) == [
        "more chips, or chips with more HBM: remat, accumulation and fsdp are used up"
    ]


def test_there_is_no_advice_for_what_fits_or_failed_otherwise():
    assert advice(GOOD, FACTS) == advice(FAILED, FACTS) == []


def test_facts_come_from_the_experiment():
    experiment = Experiment(
        name="x",
        task="causal_lm",
        model=ModelConfig(source="gpt2", remat="dots", scan_layers=True),
        train=TrainConfig(batch_size=24, accumulate=3),
    )
    assert Facts.of(experiment) == Facts("dots", True, 3, 24, experiment.optim.name)
    assert Facts.of(experiment, rows=8).rows == 8
