"""Collectives of small programs on eight fake devices, and those written on meshes of any shape."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtune.errors import RunError
from jaxtune.plan.collectives import Collective, collectives_of

LAYERS, WIDTH = 5, 128


def mesh_of(**sizes):
    devices = np.array(jax.devices()[: math.prod(sizes.values())]).reshape(tuple(sizes.values()))
    return Mesh(devices, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def found_in(step, mesh, *given, out=None):
    """Collectives of a step of arrays, each given as a shape and how it is split."""
    abstract = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec)) for shape, spec in given
    ]
    settings = {} if out is None else {"out_shardings": NamedSharding(mesh, out)}
    text = jax.jit(step, **settings).lower(*abstract).compile().as_text()
    return collectives_of(text, dict(mesh.shape))


def shared(step, mesh, spec, shape=(64, WIDTH)):
    """Collectives of a step that says itself what it sends."""
    step = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return found_in(step, mesh, (shape, spec))


def test_what_a_loop_sends_counts_for_each_pass():
    mesh = mesh_of(data=2, tensor=4)

    def layers(x):
        return jax.lax.scan(lambda y, _: (jnp.sin(jax.lax.psum(y, "tensor")), None), x, length=LAYERS)[0]

    assert shared(layers, mesh, P("data", "tensor")) == [
        Collective("all-reduce", ("tensor",), 32 * 32 * 4, LAYERS, "f32", 4)
    ]


def test_gradients_of_scanned_layers_in_fully_sharded_training():
    def loss(weights, x):
        y, _ = jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, weights)
        return jnp.square(y).sum()

    weights = (LAYERS, 512, 512), P(None, "fsdp")
    found = found_in(jax.grad(loss), mesh_of(fsdp=8), weights, ((8, 512), P("fsdp")), out=P(None, "fsdp"))
    assert {c.axes for c in found} == {("fsdp",)}
    sent = {
        c.kind: sum(c.count * c.bytes for c in found if c.kind == kind) for c in found for kind in [c.kind]
    }
    assert sent["all-gather"] == 2 * LAYERS * 512 * 512 * 4
    assert sent["all-reduce"] == LAYERS * 512 * 512 * 4


def test_a_row_split_product_sums_over_the_axis_it_is_split_along():
    found = found_in(
        lambda x, w: x @ w,
        mesh_of(data=2, tensor=4),
        ((16, 512), P("data", "tensor")),
        ((512, WIDTH), P("tensor")),
        out=P("data"),
    )
    assert found == [Collective("all-reduce", ("tensor",), 8 * WIDTH * 4, 1, "f32", 4)]


@pytest.mark.parametrize(
    "axes", [("data",), ("fsdp",), ("tensor",), ("data", "tensor"), ("data", "fsdp", "tensor")]
)
def test_axes_whose_devices_do_not_follow_each_other(axes):
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    reduce = functools.partial(jax.lax.psum, axis_name=axes)
    (found,) = shared(reduce, mesh, P("data", "fsdp"))
    assert (found.kind, found.axes, found.group, found.bytes) == (
        "all-reduce",
        axes,
        2 ** len(axes),
        32 * 64 * 4,
    )


def test_each_kind_and_its_bytes():
    mesh = mesh_of(data=2, tensor=4)
    share = 16 * WIDTH * 4
    gather = shared(lambda x: jax.lax.all_gather(x, "tensor").sum(0), mesh, P(("tensor",)))
    assert gather == [Collective("all-gather", ("tensor",), 4 * share, 1, "f32", 4)]
    swapped = shared(lambda x: jax.lax.all_to_all(x, "tensor", 0, 0, tiled=True), mesh, P(("tensor",)))
    assert swapped == [Collective("all-to-all", ("tensor",), share, 1, "f32", 4)]
    ring = [(i, (i + 1) % 4) for i in range(4)]
    moved = shared(lambda x: jax.lax.ppermute(x, "tensor", ring), mesh, P(("tensor",)))
    assert moved == [Collective("collective-permute", ("tensor",), share, 1, "f32", 4)]
    scattered = shared(
        lambda x: jnp.tile(jax.lax.psum_scatter(x, "tensor", tiled=True), (4, 1)), mesh, P(("tensor",))
    )
    assert [(c.kind, c.axes, c.bytes) for c in scattered] == [("reduce-scatter", ("tensor",), share)]


def test_of_two_branches_what_the_costlier_sends():
    mesh = mesh_of(tensor=4)

    def step(x):
        chosen = jax.lax.axis_size("tensor") + x[0, 0] > 0
        return jax.lax.cond(
            chosen, lambda: jax.lax.psum(x, "tensor"), lambda: x + jax.lax.psum(x[0, 0], "tensor")
        )

    assert shared(step, mesh, P("tensor")) == [
        Collective("all-reduce", ("tensor",), 16 * WIDTH * 4, 1, "f32", 4)
    ]


def test_axes_of_one_device_send_nothing():
    assert shared(lambda x: jax.lax.psum(x, "data"), mesh_of(data=1, tensor=8), P("tensor")) == []


REDUCE = "HloModule made{devices}\nENTRY %main (p: bf16[8]) -> bf16[8] {{\n  %p = bf16[8]{{0}} parameter(0)\n  ROOT %r = bf16[8]{{0}} {line}\n}}\n"
NAMES = ("replica", "data", "fsdp", "tensor", "sequence")


def listed(groups):
    return "{" + ",".join("{" + ",".join(map(str, group)) + "}" for group in groups) + "}"


@st.composite
def meshes(draw):
    """Sizes, and some of the axes that are more than one device."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    longer = [i for i, size in enumerate(sizes) if size > 1]
    chosen = draw(st.sets(st.sampled_from(longer), min_size=1)) if longer else set()
    return sizes, sorted(chosen)


@given(meshes(), st.sampled_from(["listed", "iota", "named"]), st.randoms())
def test_any_axes_of_any_mesh_are_found(mesh, form, random):
    sizes, chosen = mesh
    others = [i for i in range(len(sizes)) if i not in chosen]
    order = [*others, *chosen]
    group = math.prod(sizes[i] for i in chosen)
    rows = np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(-1, group).tolist()
    if form == "listed":  # neither groups nor the devices in one have an order
        random.shuffle(rows)
        for row in rows:
            random.shuffle(row)
        groups = listed(rows)
    elif form == "iota":
        groups = f"[{len(rows)},{group}]<=[{','.join(map(str, sizes))}]T({','.join(map(str, order))})"
    else:
        axes = ",".join(f"'axis_{i}'={size}" for i, size in enumerate(sizes))
        named = ",".join(f"'axis_{i}'" for i in chosen)
        groups = f"mesh[{axes}] {{{named}}}" if chosen else listed(rows)
    text = REDUCE.format(
        devices="", line=f"all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add"
    )
    shape = dict(zip(NAMES, sizes, strict=False))
    taking_part = tuple(NAMES[i] for i in chosen)
    expected = [Collective("all-reduce", taking_part, 16, 1, "bf16", group)] if chosen else []
    assert collectives_of(text, shape) == expected


@given(st.integers(2, 4), st.integers(2, 4), st.sampled_from(["fsdp", "tensor"]), st.booleans())
def test_rings_are_along_the_axis_they_turn(fsdp, tensor, axis, closed):
    shape = {"fsdp": fsdp, "tensor": tensor}
    ids = np.arange(fsdp * tensor).reshape(fsdp, tensor)
    lines = ids if axis == "tensor" else ids.T
    pairs = [
        pair for line in lines.tolist() for pair in itertools.pairwise([*line, line[0]] if closed else line)
    ]
    text = REDUCE.format(
        devices="", line=f"collective-permute(%p), channel_id=1, source_target_pairs={listed(pairs)}"
    )
    assert collectives_of(text, shape) == [
        Collective("collective-permute", (axis,), 16, 1, "bf16", shape[axis])
    ]


def test_what_another_computation_starts_counts_once():
    inside = "%gathers (a: bf16[8]) -> bf16[32] {\n  %a = bf16[8]{0} parameter(0)\n  ROOT %g = bf16[32]{0} all-gather(%a), replica_groups=[2,4]<=[8], dimensions={0}\n}\n"
    text = (
        f"HloModule made\n{inside}\nENTRY %main (p: bf16[8]) -> bf16[32] {{\n  %p = bf16[8]{{0}} parameter(0)\n"
        "  %s = ((bf16[8]{0}), bf16[32]{0}, u32[]) async-start(%p), calls=%gathers\n"
        "  %u = ((bf16[8]{0}), bf16[32]{0}, u32[]) async-update(%s), calls=%gathers\n"
        "  ROOT %d = bf16[32]{0} async-done(%u), calls=%gathers\n}\n"
    )
    assert collectives_of(text, {"data": 2, "fsdp": 4}) == [
        Collective("all-gather", ("fsdp",), 64, 1, "bf16", 4)
    ]


def test_several_arrays_at_once_are_one_of_all_their_bytes():
    line = "all-reduce(%p, %p, %q), channel_id=1, replica_groups={}, to_apply=%add"
    text = REDUCE.format(devices="", line=line).replace("  ROOT", "  %q = f32[3]{0} parameter(1)\n  ROOT")
    assert collectives_of(text, {"data": 8}) == [Collective("all-reduce", ("data",), 44, 1, "bf16", 8)]


def test_a_program_for_other_devices_than_the_mesh():
    text = REDUCE.format(devices=", num_partitions=8", line="negate(%p)")
    with pytest.raises(RunError, match="for 8 devices; expected the 12 of the mesh"):
        collectives_of(text, {"data": 3, "fsdp": 4})
    with pytest.raises(RunError, match="for 8 devices; expected the 4 of the mesh"):
        collectives_of(text, {"fsdp": 4})
    assert collectives_of(text, {"data": 2, "fsdp": 4}) == []
