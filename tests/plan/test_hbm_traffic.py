"""Traffic of a device's main memory in compiled programs, form by form."""

import jax
import jax.numpy as jnp
import pytest

from jaxtune.plan.compiled_flops import hbm_traffic

DEPTH, ROWS, WIDTH = 5, 4, 16


def program(*lines, extra=""):
    """One that has ``lines``, of which the last is what it gives."""
    inside = "\n".join(f"  {line}" for line in (*lines[:-1], f"ROOT {lines[-1]}"))
    return f"HloModule made\n{extra}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{inside}\n}}\n"


def compiled(step, *shapes):
    return jax.jit(step).lower(*map(jnp.ones, shapes)).compile().as_text()


def layers(weights, x):
    return jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, weights)[0].sum()


def test_traffic_of_a_real_kernel_is_what_goes_in_and_out():
    assert hbm_traffic(compiled(lambda x, y: jnp.sin(x) + y, (1000,), (1000,))) == 3 * 4000


FUSED = {
    "slice": "%f (a: f32[64,128], i: s32[]) -> f32[1,128] {\n  %a = f32[64,128]{1,0} parameter(0)\n  %i = s32[] parameter(1)\n"
    "  %z = s32[] constant(0)\n  ROOT %s = f32[1,128]{1,0} dynamic-slice(%a, %i, %z), dynamic_slice_sizes={1,128}\n}\n",
    "update": "%f (a: f32[64,128], i: s32[]) -> f32[64,128] {\n  %a = f32[64,128]{1,0} parameter(0)\n  %i = s32[] parameter(1)\n"
    "  %z = s32[] constant(0)\n  %o = f32[1,128]{1,0} broadcast(%z), dimensions={}\n"
    "  ROOT %s = f32[64,128]{1,0} dynamic-update-slice(%a, %o, %i, %z)\n}\n",
    "two": "%f (a: f32[64,128], i: s32[]) -> (f32[64], f32[64]) {\n  %a = f32[64,128]{1,0} parameter(0)\n  %i = s32[] parameter(1)\n"
    "  ROOT %r = (f32[64]{0}, f32[64]{0}) reduce(%a, %a, %i, %i), dimensions={1}, to_apply=%g\n}\n",
}


@pytest.mark.parametrize(
    ("inside", "result", "size"),
    [
        ("slice", "f32[1,128]{1,0}", 2 * 512 + 4),
        ("slice", "f32[1,128]{1,0:S(1)}", 512 + 4),
        ("update", "f32[64,128]{1,0}", 512 + 4),
        ("two", "(f32[64]{0}, f32[64]{0:S(1)})", 64 * 512 + 4 + 256),
    ],
)
def test_a_fusion_counts_at_its_boundary(inside, result, size):
    text = program(
        "%x = f32[64,128]{1,0} parameter(0)",
        "%n = s32[] parameter(1)",
        f"%r = {result} fusion(%x, %n), kind=kLoop, calls=%f",
        extra=FUSED[inside],
    )
    assert hbm_traffic(text) == size


X = "%x = f32[64,128]{1,0} parameter(0)"
ON_CHIP = '%v = f32[64,128]{1,0:T(8,128)S(1)} custom-call(), custom_call_target="AllocateBuffer"'
WHOLE, ROW = 64 * 128 * 4, 128 * 4


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        (["%b = f32[8192]{0} bitcast(%x)"], 0),
        (["%c = f32[64,128]{0,1} copy(%x)"], 2 * WHOLE),
        (["%c = (f32[64,128]{1,0:S(1)}, f32[64,128]{1,0}, u32[]{:S(2)}) copy-start(%x)", "%d = f32[64,128]{1,0:S(1)} copy-done(%c)"], WHOLE),
        (["%c = ((f32[64,128]{1,0}), f32[1,128]{1,0:S(1)}, u32[]{:S(2)}) slice-start(%x), slice={[0:1], [0:128]}", "%d = f32[1,128]{1,0:S(1)} slice-done(%c)"], ROW),
        (["%c = (f32[64,128]{1,0}, f32[512,128]{1,0}) all-gather-start(%x), replica_groups={}", "%d = f32[512,128]{1,0} all-gather-done(%c)"], 9 * WHOLE),
        (["%c = f32[64,128]{1,0} all-reduce-start(%x), replica_groups={}, to_apply=%g", "%d = f32[64,128]{1,0} all-reduce-done(%c)"], 2 * WHOLE),
        ([ON_CHIP, "%y = f32[64,128]{1,0} add(%x, %v)"], 2 * WHOLE),
        ([ON_CHIP, "%u = f32[64,128]{1,0} dynamic-update-slice(%x, %v, %z, %z)"], WHOLE),
        (["%h = f32[1,128]{1,0:S(1)} slice(%x), slice={[0:1], [0:128]}"], ROW),
        (["%h = f32[128,128]{1,0} custom-call(%x, %x), custom_call_target=\"ConcatBitcast\""], 0),
        (["%t = token[] after-all()", "%s = (f32[64,128]{1,0}, u32[], token[]) send(%x, %t), channel_id=1", "%e = token[] send-done(%s)"], WHOLE),
    ],
)  # fmt: skip
def test_traffic_of_what_only_moves(lines, size):
    scalar = "%z = s32[]{:S(6)} parameter(1)"
    assert hbm_traffic(program(X, scalar, *lines)) == size


def test_parts_of_a_gather_that_runs_beside_other_work_read_and_write_once():
    gather = "all-gather(%a), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}"
    inside = f"""
%starts (a: f32[64,128]) -> (f32[64,128], f32[512,128], u32[]) {{
  %a = f32[64,128]{{1,0}} parameter(0)
  %g = f32[512,128]{{1,0}} {gather}
  ROOT %s = (f32[64,128]{{1,0}}, f32[512,128]{{1,0}}, u32[]{{:S(2)}}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}

%async_collective_fusion.1 (a: f32[64,128], b: f32[512,128], c: u32[], d: f32[16]) -> (f32[16], f32[64,128], f32[512,128], f32[512,128], u32[]) {{
  %d = f32[16]{{0}} parameter(3)
  %e = f32[16]{{0}} negate(%d)
  %a = f32[64,128]{{1,0}} parameter(0)
  %b = f32[512,128]{{1,0}} parameter(1)
  %g = f32[512,128]{{1,0}} {gather}
  %c = u32[]{{:S(2)}} parameter(2)
  ROOT %t = (f32[16]{{0}}, f32[64,128]{{1,0}}, f32[512,128]{{1,0}}, f32[512,128]{{1,0}}, u32[]{{:S(2)}}) tuple(%e, %a, %b, %g, %c)
}}

%ends (a: f32[64,128], b: f32[512,128]) -> f32[512,128] {{
  %a = f32[64,128]{{1,0}} parameter(0)
  %b = f32[512,128]{{1,0}} parameter(1)
  %g = f32[512,128]{{1,0}} {gather}
  ROOT %e = f32[512,128]{{1,0}} custom-call(%a, %b, %g), custom_call_target="AsyncCollectiveDone"
}}
"""
    text = program(
        X,
        "%w = f32[16]{0} parameter(1)",
        "%async-collective-start = (f32[64,128]{1,0}, f32[512,128]{1,0}, u32[]{:S(2)}) fusion(%x), kind=kCustom, calls=%starts",
        *[
            f"%o{i} = {kind} get-tuple-element(%async-collective-start), index={i}"
            for i, kind in enumerate(("f32[64,128]{1,0}", "f32[512,128]{1,0}", "u32[]{:S(2)}"))
        ],
        "%fusion.1 = (f32[16]{0}, f32[64,128]{1,0}, f32[512,128]{1,0}, f32[512,128]{1,0}, u32[]{:S(2)}) fusion(%o0, %o1, %o2, %w), kind=kOutput, output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {}), {3}: (1, {}), {4}: (2, {})}, calls=%async_collective_fusion.1",
        "%q0 = f32[64,128]{1,0} get-tuple-element(%fusion.1), index=1",
        "%q1 = f32[512,128]{1,0} get-tuple-element(%fusion.1), index=3",
        "%async-collective-done = f32[512,128]{1,0} fusion(%q0, %q1), kind=kCustom, output_to_operand_aliasing={{}: (1, {})}, calls=%ends",
        extra=inside,
    )
    assert hbm_traffic(text) == (1 + 8) * WHOLE + 2 * 64


def test_passes_of_loops_multiply():
    text = compiled(layers, (DEPTH, WIDTH, WIDTH), (ROWS, WIDTH))
    deeper = compiled(layers, (2 * DEPTH, WIDTH, WIDTH), (ROWS, WIDTH))
    once = hbm_traffic(deeper) - hbm_traffic(text)
    # A layer reads its weights and the rows at least, and writes rows; the stack of weights is not read in each.
    assert WIDTH * WIDTH + 2 * ROWS * WIDTH <= once / (4 * DEPTH) < 4 * (WIDTH * WIDTH + 2 * ROWS * WIDTH)
