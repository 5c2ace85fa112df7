"""Compiled programs as text, read."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.errors import RunError
from jaxtune.plan.hlo import Array, arrays_in, parse_module

# From a T5 step compiled for v5e, shortened.
TPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=8

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%a, %b)
}

%fused_computation.1392 (param_0.4257: bf16[1,1024,256]) -> (bf16[1,1024,256], bf16[1,1024,16384], s32[2], u32[]) {
  %param_0.4257 = bf16[1,1024,256]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.153 = bf16[1,1024,16384]{2,1,0:T(8,128)(2,1)} all-gather(%param_0.4257), channel_id=148, replica_groups=mesh['axis_0'=1,'axis_1'=64] {'axis_1'}, dimensions={2}, use_global_device_ids=true, metadata={op_name="jit(step)/while(body)/...d,df->...f/dot_general" stack_frame_id=357}
  ROOT %custom-call.22 = (bf16[1,1024,256]{2,1,0:T(8,128)(2,1)S(1)}, bf16[1,1024,16384]{2,1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}, /*index=3*/u32[]{:S(2)}) custom-call(%all-gather.153), custom_call_target="AsyncCollectiveStart"
}

ENTRY %main.88_spmd (param.1: f32[8]) -> f32[8] {
  %param.1 = f32[8]{0:T(256)} parameter(0), sharding={replicated}
  %constant.2 = f32[2,2]{1,0} constant({ { 1, 2 }, { 3, 4 } })
  ROOT %all-reduce.9 = f32[8]{0:T(256)} all-reduce(f32[8]{0:T(256)} %param.1), channel_id=2, replica_groups={}, to_apply=%region_0.1, backend_config={"flag_configs":[],"barrier_config":{"barrier_type":"CUSTOM","id":"0"}}
}
"""


def test_computations_and_the_entry():
    module = parse_module(TPU)
    assert module.entry == "main.88_spmd"
    assert list(module.computations) == ["region_0.1", "fused_computation.1392", "main.88_spmd"]
    assert module.devices == 8


def test_layouts_of_tpus_with_tiles_and_memory_spaces():
    start = parse_module(TPU).computations["fused_computation.1392"].root
    assert start.opcode == "custom-call"
    assert start.operands == ("all-gather.153",)
    assert start.results == (
        Array("bf16", (1, 1024, 256), 1),
        Array("bf16", (1, 1024, 16384), 1),
        Array("s32", (2,), 4),
        Array("u32", (), 2),
    )


def test_operands_with_their_types_and_what_is_called():
    root = parse_module(TPU).computations["main.88_spmd"].root
    assert root.operands == ("param.1",)
    assert root.called == {"to_apply": ("region_0.1",)}
    assert root.results == (Array("f32", (8,), 0),)


def test_nothing_of_the_metadata_is_taken_for_a_call():
    gather = parse_module(TPU).computations["fused_computation.1392"].instructions["all-gather.153"]
    assert gather.called == {}
    assert gather.operands == ("param_0.4257",)


def test_starts_and_ends():
    lines = """HloModule made
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %slice-start.1 = ((f32[8]{0}), f32[2]{0:S(1)}, u32[]{:S(2)}) slice-start(%p), slice={[0:2]}
  %slice-done.1 = f32[2]{0:S(1)} slice-done(%slice-start.1)
  ROOT %u = f32[8]{0} dynamic-update-slice(%p, %slice-done.1, %c)
}
"""
    _, start, done, update = parse_module(lines).computations["main"].instructions.values()
    assert (start.operation, start.ends_another) == ("slice", False)
    assert done.ends_another
    assert (update.operation, update.ends_another) == ("dynamic-update-slice", False)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("f32[3,5]{1,0}", 60),
        ("bf16[3,5]{1,0:T(8,128)(2,1)}", 30),
        ("pred[7]", 7),
        ("s4[3]{0:T(128)E(4)}", 2),
        ("u2[9]", 3),
        ("f8e4m3fn[10]{0}", 10),
        ("f4e2m1fn[10]", 5),
        ("c64[2]", 16),
        ("f64[]", 8),
        ("token[]", 0),
        ("s32[<=6]{0}", 24),
        ("u32[0,4]{1,0}", 0),
    ],
)
def test_bytes(written, size):
    (array,) = arrays_in(written)
    assert array.bytes == size


DTYPES = st.sampled_from(["f32", "bf16", "s32", "u8", "pred", "f8e5m2"])
ARRAYS = st.builds(Array, DTYPES, st.lists(st.integers(0, 4096), max_size=4).map(tuple), st.integers(0, 4))


def written(array):
    order = ",".join(str(i) for i in reversed(range(len(array.shape))))
    space = f"S({array.space})" if array.space else ""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]{{{order}:T(8,128)(2,1){space}}}"


@given(st.lists(ARRAYS, min_size=1, max_size=12))
def test_types_are_read_as_they_are_written(arrays):
    several = ", ".join(
        f"/*index={i}*/{written(a)}" if i % 5 == 4 else written(a) for i, a in enumerate(arrays)
    )
    kind = f"({several})" if len(arrays) > 1 else several
    text = f'HloModule made\nENTRY %main () -> f32[] {{\n  ROOT %x.1 = {kind} custom-call(), custom_call_target="f("\n}}\n'
    root = parse_module(text).computations["main"].root
    assert (root.name, root.opcode, root.results, root.operands) == ("x.1", "custom-call", tuple(arrays), ())


def test_text_that_is_no_program():
    with pytest.raises(RunError, match="no ENTRY computation"):
        parse_module("HloModule empty\n")
    with pytest.raises(RunError, match="no ENTRY computation"):
        parse_module("")


def test_a_line_that_cannot_be_read_is_quoted():
    broken = TPU.replace("all-reduce(f32[8]{0:T(256)} %param.1)", "")
    with pytest.raises(RunError, match=r"cannot be read: ROOT %all-reduce\.9"):
        parse_module(broken)


def test_every_line_of_a_real_program_is_an_instruction():
    def loss(weights, x):
        y, _ = jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), y.sum()), x, weights)
        return jnp.sort(y, axis=0)[0].sum() + jax.lax.top_k(y, 2)[0].sum()

    text = jax.jit(jax.grad(loss)).lower(jnp.ones((3, 8, 8)), jnp.ones((4, 8))).compile().as_text()
    module = parse_module(text)
    found = Counter(
        instruction.opcode
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
    )
    lines = [line for line in text.splitlines() if re.match(r"  (ROOT )?%\S+ = ", line)]
    assert sum(found.values()) == len(lines)
    for opcode in ("dot", "while", "fusion", "parameter", "get-tuple-element"):
        assert found[opcode] == len(re.findall(rf" {opcode}\(", text)), opcode
    for computation in module.computations.values():
        for instruction in computation.instructions.values():
            assert set(instruction.operands) <= computation.instructions.keys()
            for names in instruction.called.values():
                assert set(names) <= module.computations.keys()
