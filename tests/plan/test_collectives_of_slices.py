"""What crosses from slice to slice in programs of the TPU compiler: sends to Megascale, and how they are read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxtune.plan.collectives import Collective, collectives_of
from jaxtune.plan.topologies import environment, parse_topology

# From gradients compiled for two slices of v5e:2x4, shortened.
PROGRAM = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[1024,512]{1,0})->f32[1024,512]{1,0}}, num_partitions=8

ENTRY %main.1_spmd (p: f32[1024,512]) -> f32[1024,512] {
  %p = f32[1024,512]{1,0:T(8,128)} parameter(0)
  %reduce-scatter.2 = f32[512,512]{1,0:T(8,128)} reduce-scatter(%p), channel_id=4, replica_groups={{0,4},{1,5},{2,6},{3,7}}, use_global_device_ids=true, dimensions={0}, to_apply=%add.1.clone
  %bitcast = f32[256,8,128]{2,1,0:T(8,128)} bitcast(%reduce-scatter.2)
  %after-all = token[] after-all()
  %send = (f32[256,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%bitcast, %after-all), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.3_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[256,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%after-all), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.3_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %recv-done = (f32[256,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %get-tuple-element = f32[256,8,128]{2,1,0:T(8,128)} get-tuple-element(%recv-done), index=0
  %bitcast.1 = f32[512,512]{1,0:T(8,128)} bitcast(%get-tuple-element)
  ROOT %all-gather.21 = f32[1024,512]{1,0:T(8,128)S(1)} all-gather(%bitcast.1), channel_id=4, replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}, use_global_device_ids=true
}
"""
WHOLE = 1024 * 512 * 4


def test_a_sum_over_slices_is_a_sum_in_each_and_one_across():
    assert collectives_of(PROGRAM, {"replica": 2, "data": 2, "fsdp": 4}) == [
        Collective("reduce-scatter", ("data",), WHOLE, 1, "f32", 2),
        Collective("all-reduce", ("replica",), WHOLE // 2, 1, "f32", 2),
        Collective("all-gather", ("data",), WHOLE, 1, "f32", 2),
    ]


def test_an_axis_that_lies_partly_in_a_slice():
    found = collectives_of(PROGRAM, {"replica": 4, "fsdp": 4})
    assert [(c.kind, c.axes, c.group) for c in found] == [
        ("reduce-scatter", ("replica",), 2),
        ("all-reduce", ("replica",), 2),
        ("all-gather", ("replica",), 2),
    ]


TARGETS = {
    "ALL_REDUCE": '"{1,2}x{0:7}"',
    "ALL_GATHER": '"{1,2}x{0:7}"',
    "REDUCE_SCATTER": '"{1,2}x{0:7}"',
    "ALL_TO_ALL": "{{100000,100007,200000,200007},{100001,100006,200001,200006}}",
    "ONE_TO_ONE": "{{100007->200000},{200007->100000}}",
}


@pytest.mark.parametrize(
    ("kind", "collective"),
    [
        ("ALL_REDUCE", Collective("all-reduce", ("replica",), WHOLE // 2, 1, "f32", 2)),
        ("ALL_GATHER", Collective("all-gather", ("replica",), WHOLE, 1, "f32", 2)),
        ("REDUCE_SCATTER", Collective("reduce-scatter", ("replica",), WHOLE // 2, 1, "f32", 2)),
        ("ALL_TO_ALL", Collective("all-to-all", ("replica",), WHOLE // 2, 1, "f32", 4)),
        ("ONE_TO_ONE", Collective("collective-permute", ("replica",), WHOLE // 2, 1, "f32", 2)),
    ],
)
def test_kinds_between_slices(kind, collective):
    text = PROGRAM.replace('"ALL_REDUCE"', f'"{kind}"').replace('"{1,2}x{0:7}"', TARGETS[kind])
    assert collectives_of(text, {"replica": 2, "data": 2, "fsdp": 4})[1] == collective


def test_what_goes_to_the_host_is_no_collective():
    text = PROGRAM.replace(',_xla_megascale_transfer_type="ALL_REDUCE"', "")
    assert [c.kind for c in collectives_of(text, {"replica": 2, "data": 2, "fsdp": 4})] == [
        "reduce-scatter",
        "all-gather",
    ]


@pytest.mark.slow
def test_of_a_train_step_on_two_slices_only_replica_crosses():
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install -e '.[plan]'")
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.two_slices", "2xv5e:2x4"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment(parse_topology("2xv5e:2x4"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(steps) == 4
    for step in steps:
        assert step["slices"] == [[0], [1]]
        axes = {tuple(axes) for _, axes, _ in step["collectives"]}
        assert ("replica",) in axes
        assert not any("?" in each or ("replica" in each and len(each) > 1) for each in axes)
        # Between slices nothing but sums of gradients and of the loss.
        assert {kind for kind, axes, _ in step["collectives"] if axes == ["replica"]} == {"all-reduce"}
