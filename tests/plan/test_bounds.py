"""Bounds against sums done by hand: 45 GB/s is a link of v5e and v4, 90 GB/s one of v5p and v6e."""

import dataclasses

import pytest

from jaxtune.errors import ConfigError
from jaxtune.plan.bounds import best_first, bound_of, seconds_of
from jaxtune.plan.collectives import Collective
from jaxtune.plan.compiled import Compiled, Memory
from jaxtune.plan.topologies import Topology, parse_topology

MB = 10**6
MEMORY = Memory(parameters=1, optimizer=2, gradients=1, peak=8, temporaries=4)


def seconds(kind, axes, size, mesh, topology, count=1):
    group = 1
    for axis in axes:
        group *= mesh.get(axis, 16)
    return seconds_of(Collective(kind, axes, size, count, "f32", group), mesh, parse_topology(topology))


def near(value):
    return pytest.approx(value, rel=1e-12)


def test_all_reduce_over_eight_chips_of_v5e():
    # 2 × 4 chips, no ring: one link along each of two dimensions, 90 GB/s in all. 440 MB go twice, but for an eighth.
    assert seconds("all-reduce", ("data",), 440 * MB, {"data": 8}, "v5e:2x4") == near(
        2 * 440e6 * 7 / 8 / 90e9
    )
    assert seconds("all-reduce", ("data",), 440 * MB, {"data": 8}, "v5e:2x4") == pytest.approx(
        8.556e-3, rel=1e-4
    )


@pytest.mark.parametrize("kind", ["all-gather", "reduce-scatter"])
def test_a_line_of_four_is_as_in_the_scaling_book(kind):
    # "Sharded matrices", question on a 4 × 4 slice of v5e: 34 MB along one axis take 560 µs, for want of a ring.
    found = seconds(kind, ("fsdp",), 2 * 2048 * 8192, {"data": 4, "fsdp": 4}, "v5e:4x4")
    assert found == pytest.approx(560e-6, rel=2e-3)


def test_rings_carry_both_ways_and_dimensions_add_up():
    whole = {"data": 4, "fsdp": 4, "tensor": 4}
    one = seconds("all-gather", ("tensor",), 64 * MB, whole, "v4:4x4x4")
    assert one == near(64e6 * 3 / 4 / (2 * 45e9))
    three = seconds("all-gather", ("data", "fsdp", "tensor"), 64 * MB, whole, "v4:4x4x4")
    assert three == near(64e6 * 63 / 64 / (6 * 45e9))
    assert seconds("all-gather", ("fsdp",), 640 * MB, {"fsdp": 256}, "v6e:16x16") == near(
        640e6 * 255 / 256 / (4 * 90e9)
    )


def test_groups_that_lie_between_each_other_share_links():
    # Two axes on one dimension of four: fsdp has every second chip, and two groups share each link.
    mesh = {"data": 4, "fsdp": 2, "tensor": 2}
    assert seconds("all-gather", ("tensor",), 90 * MB, mesh, "v5e:4x4") == near(45e6 / 45e9)
    assert seconds("all-gather", ("fsdp",), 90 * MB, mesh, "v5e:4x4") == near(45e6 / 22.5e9)
    assert seconds("collective-permute", ("fsdp",), 90 * MB, mesh, "v5e:4x4") == near(90e6 / 22.5e9)


def test_all_to_all_is_bound_by_the_middle():
    # A line of four: two chips each send half of 90 MB over the one link in the middle.
    assert seconds("all-to-all", ("sequence",), 90 * MB, {"data": 4, "sequence": 4}, "v5e:4x4") == near(
        90e6 / 45e9
    )
    # A ring has two links there, a quarter of an all-gather of all four operands.
    found = seconds("all-to-all", ("tensor",), 90 * MB, {"data": 4, "fsdp": 4, "tensor": 4}, "v4:4x4x4")
    assert found == near(4 * 90e6 / 4 / 90e9)


def test_small_messages_take_their_hops():
    assert seconds("all-reduce", ("data",), 4, {"data": 16}, "v5e:4x4", count=10) == near(10 * 2 * 6 * 1e-6)
    assert seconds("collective-permute", ("data",), 4, {"data": 16}, "v5e:4x4") == near(1e-6)


def test_only_replica_crosses_slices():
    mesh = {"replica": 2, "fsdp": 16}
    dcn = 6.4e12 / 8 / 256
    assert seconds("all-reduce", ("replica",), 10 * MB, mesh, "2xv5e:4x4") == near(2 * 5e6 / dcn)
    within = seconds("all-gather", ("fsdp",), 10 * MB, mesh, "2xv5e:4x4")
    assert within == near(10e6 * 15 / 16 / 90e9)
    both = seconds("all-reduce", ("replica", "fsdp"), 10 * MB, mesh, "2xv5e:4x4")
    assert both == near(2 * within + 2 * 5e6 / 16 / dcn)
    assert seconds("all-gather", ("replica",), 10 * MB, mesh, "2xv5e:4x4") == near(5e6 / dcn)
    assert seconds("all-to-all", ("replica",), 10 * MB, mesh, "2xv5e:4x4") == near(5e6 / dcn)
    assert seconds("collective-permute", ("replica",), 10 * MB, mesh, "2xv5e:4x4") == near(10e6 / dcn)


def test_axes_that_are_not_known_get_one_link():
    assert seconds("all-reduce", ("?",), 160 * MB, {"data": 16}, "v5e:4x4") == near(2 * 150e6 / 45e9)


def test_gpus_of_a_host_are_joined_by_a_switch():
    host = Topology("h100", (8,))
    found = seconds_of(Collective("all-gather", ("fsdp",), 800 * MB, 1, "bf16", 8), {"fsdp": 8}, host)
    assert found == near(700e6 / 450e9)


def test_a_group_of_one_takes_no_time():
    assert seconds_of(Collective("all-reduce", (), 10**9, 5, "f32", 1), {}, parse_topology("v5e:1x1")) == 0


def step(**changes):
    compiled = Compiled(
        {"data": 4, "fsdp": 4},
        memory=MEMORY,
        model_flops=16 * 197e12,
        compiled_flops=1.5 * 197e12,
        hbm_bytes=819e9,
        tokens=3200,
        collectives=(
            Collective("all-gather", ("fsdp",), 6 * 10**9, 5, "bf16", 4),
            Collective("reduce-scatter", ("fsdp",), 6 * 10**9, 5, "bf16", 4),
            Collective("all-reduce", ("data",), 3 * 10**9, 1, "f32", 4),
        ),
    )
    return dataclasses.replace(compiled, **changes)


def test_the_bound_of_a_step():
    found = bound_of(step(), parse_topology("v5e:4x4"))
    # A model step of one second; half as much again was compiled (recomputation).
    assert found.compute == near(1.5)
    assert found.hbm == near(1.0)
    assert found.by_axes == {"fsdp": near(1.0), "data": near(0.1)}
    assert found.interconnect == near(1.1)
    assert (found.binds, found.step, found.apart) == ("compute", near(1.5), near(3.6))
    assert found.mfu == near(1 / 1.5)
    assert found.tokens_per_chip == near(3200 / 16 / 1.5)


def test_what_binds_is_the_longest():
    topology = parse_topology("v5e:4x4")
    assert bound_of(step(hbm_bytes=2 * 819e9), topology).binds == "HBM"
    many = tuple(dataclasses.replace(c, count=10 * c.count) for c in step().collectives)
    assert bound_of(step(collectives=many), topology).binds == "interconnect"
    # Custom calls (splash attention) are not in the compiled FLOPs: the model's own are the least there is.
    assert bound_of(step(compiled_flops=0.0), topology).compute == near(1.0)


def test_there_is_no_bound_without_figures_or_program():
    assert bound_of(step(), Topology("cpu", (16,))) is None
    assert bound_of(step(memory=None, needed=2, available=1), parse_topology("v5e:4x4")) is None
    with pytest.raises(ConfigError, match="v3 has no public figure for the network between slices"):
        bound_of(
            step(mesh={"replica": 2}, collectives=(Collective("all-reduce", ("replica",), 8, 1, "f32", 2),)),
            Topology("v3", (1, 1), 2),
        )


def test_the_best_is_first():
    topology = parse_topology("v5e:4x4")
    rows = [
        step(memory=None, error="no"),
        step(memory=None, needed=9, available=1),
        step(memory=None, needed=3, available=1),
        step(tokens=100),
        step(collectives=()),
        step(),
    ]
    found = best_first([(row, bound_of(row, topology)) for row in rows])
    assert [row for row, _ in found] == [rows[4], rows[5], rows[3], rows[2], rows[1], rows[0]]
