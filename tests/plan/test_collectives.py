"""Collectives of real train steps against their closed forms, and the ways they are written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxtune.plan.collectives import Collective, collectives_of
from jaxtune.plan.topologies import environment, parse_topology
from tests.plan.closed_forms import CASES, HIDDEN, LAYERS, LENGTH, ROWS, Step, step_on

ACTIVATIONS = ROWS * LENGTH * HIDDEN * 4
"""Bytes of the hidden states of a step."""
A_TOKEN = ROWS * LENGTH * 4
"""Bytes of one number per token."""
SCALARS = 256
"""Most bytes of single numbers: sums of losses and weights, and parts of the gradient's norm."""


def of_arrays(step, kind):
    """(count, bytes) of the collectives of a kind that are more than a few numbers."""
    found = [c for c in step.collectives if c.kind == kind and c.bytes > SCALARS]
    return sum(c.count for c in found), sum(c.count * c.bytes for c in found)


def kinds_of(step):
    return {c.kind for c in step.collectives}


def check_data(step):
    """One sum of all gradients, 4 bytes a parameter, and of loss, accuracy and their weights."""
    assert step.totals() == {("all-reduce", ("data",)): (1, step.parameters + 4 * 4)}


def check_fsdp(step, gradients):
    """Layers are gathered for the forward and again for the backward pass, tables once; gradients are summed once."""
    assert {c.axes for c in step.collectives} == {("fsdp",)}
    count = 2 * step.arrays_of_layers + step.arrays_of_tables
    assert of_arrays(step, "all-gather") == (count, 2 * step.split_of_layers + step.split_of_tables)
    whole = step.parameters - step.split_of_layers - step.split_of_tables
    summed = sum(c.bytes * c.count for c in step.collectives if c.kind != "all-gather")
    assert 0 <= summed - step.parameters <= SCALARS
    if gradients == "reduce-scatter":
        _, scattered = of_arrays(step, "reduce-scatter")
        assert scattered == step.split_of_layers + step.split_of_tables
        assert 0 <= of_arrays(step, "all-reduce")[1] - whole <= SCALARS


def check_tensor(step, sums_of_a_layer, sums_of_a_token):
    """Megatron's sums of hidden states, and those of a softmax whose words lie on several chips.

    Args:
        sums_of_a_layer: 4 where the compiler adds up before it sums over chips: two blocks, forward and backward. 7
            where it does not, and sums the gradient of what three (query, key, value) and two (up, gate) read apart.
        sums_of_a_token: the softmax's maximum and sum and the right word's logit; 4 where the compiler also sums the
            gradient over the words, which is known.
    """
    assert {c.axes for c in step.collectives} == {("tensor",)}
    assert kinds_of(step) == {"all-reduce", "all-gather"}
    # Beside the layers' the embedding's, forward, and the head's, backward.
    hidden = (LAYERS * sums_of_a_layer + 2) * ACTIVATIONS
    _, summed = of_arrays(step, "all-reduce")
    assert 0 <= summed - hidden - sums_of_a_token * A_TOKEN <= SCALARS
    # The likeliest word, and how likely it is, of each chip.
    assert of_arrays(step, "all-gather") == (2, 2 * 8 * A_TOKEN)


def test_closed_forms_on_fake_devices():
    check_data(step_on("data", jax.devices()))
    check_fsdp(step_on("fsdp", jax.devices()), gradients="all-reduce")
    check_tensor(step_on("tensor", jax.devices()), sums_of_a_layer=7, sums_of_a_token=4)


@pytest.mark.slow
def test_closed_forms_on_tpus():
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install -e '.[plan]'")
    steps = _compiled_for("v5e:2x4")
    assert set(steps) == set(CASES)
    check_data(steps["data"])
    check_fsdp(steps["fsdp"], gradients="reduce-scatter")
    check_tensor(steps["tensor"], sums_of_a_layer=4, sums_of_a_token=3)


def _compiled_for(topology):
    found = json.loads(_run("tests.plan.closed_forms", topology)[-1])
    for values in found.values():
        made = [Collective(**{**c, "axes": tuple(c["axes"])}) for c in values["collectives"]]
        values["collectives"] = tuple(made)
    return {axis: Step(**values) for axis, values in found.items()}


def _run(module, topology):
    """Lines that a program prints which compiles for these chips: the compiler wants a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, topology],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment(parse_topology(topology))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def program(line, extra=""):
    return f"HloModule made\n{extra}\nENTRY %main (p: f32[4,8]) -> f32[4,8] {{\n  %p = f32[4,8]{{1,0}} parameter(0)\n  {line}\n}}\n"


MESH = {"replica": 1, "data": 2, "fsdp": 4}
REDUCE = "ROOT %r = f32[4,8]{1,0} all-reduce(%p), channel_id=1, replica_groups="


@pytest.mark.parametrize(
    ("groups", "axes", "size"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", ("fsdp",), 4),
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",), 2),
        ("{{0,1},{2,3},{4,5},{6,7}}", ("fsdp",), 2),  # half of an axis
        ("{}", ("data", "fsdp"), 8),
        ("{{0,1,2,3,4,5,6,7}}", ("data", "fsdp"), 8),
        ("[2,4]<=[8]", ("fsdp",), 4),
        ("[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("[1,8]<=[8]", ("data", "fsdp"), 8),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("fsdp",), 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", ("data",), 2),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", ("data", "fsdp"), 8),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", ("data",), 2),
        ("mesh['axis_0'=8] {'axis_0':(1)2}", ("data",), 2),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", ("fsdp",), 4),
    ],
)
def test_groups_are_read_in_every_form(groups, axes, size):
    (found,) = collectives_of(program(f"{REDUCE}{groups}, to_apply=%add"), MESH)
    assert found == Collective("all-reduce", axes, 4 * 8 * 4, 1, "f32", size)


def test_groups_of_one_are_nothing():
    assert collectives_of(program(f"{REDUCE}{{{{0}},{{1}},{{2}}}}, to_apply=%add"), MESH) == []


def test_bytes_are_those_of_the_whole_array():
    gathered = "ROOT %r = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}"
    scattered = "ROOT %r = f32[1,8]{1,0} reduce-scatter(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add"
    ring = "ROOT %r = f32[4,8]{1,0} collective-permute(%p), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    (gather,), (scatter,), (permute,) = (
        collectives_of(program(line), MESH) for line in (gathered, scattered, ring)
    )
    assert gather == Collective("all-gather", ("fsdp",), 16 * 8 * 4, 1, "f32", 4)
    assert scatter == Collective("reduce-scatter", ("fsdp",), 4 * 8 * 4, 1, "f32", 4)
    assert permute == Collective("collective-permute", ("fsdp",), 4 * 8 * 4, 1, "f32", 4)


def test_what_is_spread_over_fusions_is_one():
    def part(name):
        line = (
            "ROOT %g = f32[16,8]{1,0} all-gather(%q), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}"
        )
        return f"%{name} (q: f32[4,8]) -> f32[16,8] {{\n  %q = f32[4,8]{{1,0}} parameter(0)\n  {line}\n}}\n"

    names = ("fused_computation.1", "async_collective_fusion.2", "fused_computation.3")
    called = ("async-collective-start", "fusion.2", "async-collective-done")
    lines = [
        f"%{caller} = f32[16,8]{{1,0}} fusion(%p), kind=kCustom, calls=%{name}"
        for caller, name in zip(called, names)
    ]
    (found,) = collectives_of(
        program("\n  ".join([*lines[:2], f"ROOT {lines[2]}"]), "\n".join(map(part, names))), MESH
    )
    assert found.count == 1


def test_reductions_that_keep_a_part_are_scatters():
    inside = (
        "%all-reduce-scatter.1 (q: f32[4,8]) -> f32[1,8] {\n  %q = f32[4,8]{1,0} parameter(0)\n"
        "  %a = f32[4,8]{1,0} all-reduce(%q), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add\n"
        "  ROOT %s = f32[1,8]{1,0} slice(%a), slice={[0:1], [0:8]}\n}\n"
    )
    two = (
        "%f = f32[1,8]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1\n"
        "  ROOT %h = f32[1,8]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1"
    )
    (found,) = collectives_of(program(two, inside), MESH)
    assert found == Collective("reduce-scatter", ("fsdp",), 4 * 8 * 4, 2, "f32", 4)
