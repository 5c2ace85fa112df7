"""Arithmetic and memory traffic of compiled programs against numbers worked out by hand."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.plan.compiled_flops import compiled_flops, hbm_traffic
from jaxtune.plan.topologies import environment, parse_topology

N, LAYERS = 64, 5


def text_of(function, *shapes):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*given).compile().as_text()


def program(lines, parameters, before=""):
    given = "".join(
        f"  %{name} = {kind} parameter({i})\n" for i, (name, kind) in enumerate(parameters.items())
    )
    return f"HloModule made\n{before}\nENTRY %main (p: f32[]) -> f32[] {{\n{given}  {lines}\n}}\n"


def test_scanned_layers_count_as_unrolled_ones():
    def scanned(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    def unrolled(x, w):
        for i in range(LAYERS):
            x = jnp.tanh(x @ w[i])
        return x

    shapes = (8, N), (LAYERS, N, N)
    expected = LAYERS * 2 * 8 * N * N
    assert compiled_flops(text_of(scanned, *shapes)) == compiled_flops(text_of(unrolled, *shapes)) == expected


def test_gradients_cost_twice_the_forward_pass():
    def loss(x, w):
        return jnp.square(x @ w).sum()

    forward = 2 * 8 * N * N
    assert compiled_flops(text_of(jax.grad(loss, argnums=(0, 1)), (8, N), (N, N))) == 3 * forward


def test_batched_products():
    product = text_of(lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k), (2, 16, 4, 8), (2, 16, 4, 8))
    assert compiled_flops(product) == 2 * (2 * 4 * 16 * 16) * 8


@pytest.mark.parametrize(
    ("line", "left", "right", "expected"),
    [
        # A matrix product as the TPU compiler writes it: 128 features are contracted.
        (
            "ROOT %c = f32[64,32] convolution(%l, %r), dim_labels=bf_io->bf",
            "f32[64,128]",
            "f32[128,32]",
            2 * 64 * 32 * 128,
        ),
        # One with heads: the window of 32 slides over a dimension of 1, so all but one place is padding.
        (
            "ROOT %c = bf16[4,256,32,16] convolution(%l, %r), window={size=1x32 pad=0_0x31_31 rhs_reversal=0x1}, "
            "dim_labels=0bf1_1oi0->0b1f",
            "bf16[4,256,64,1]",
            "bf16[32,16,64,1]",
            2 * (4 * 256) * 32 * 16 * 64,
        ),
        # A real convolution, over 10 places with a kernel of 3 and a place of padding at each end.
        (
            "ROOT %c = f32[2,10,8] convolution(%l, %r), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f",
            "f32[2,10,4]",
            "f32[3,4,8]",
            2 * 2 * 8 * 4 * (10 + 9 + 9),
        ),
        # Two groups of features: each output sees half of them.
        (
            "ROOT %c = f32[2,10,8] convolution(%l, %r), window={size=1}, dim_labels=b0f_0io->b0f, feature_group_count=2",
            "f32[2,10,4]",
            "f32[1,2,8]",
            2 * 2 * 8 * 2 * 10,
        ),
    ],
)
def test_convolutions(line, left, right, expected):
    assert compiled_flops(program(line, {"l": left, "r": right})) == expected


def test_traffic_is_what_crosses_the_boundary_of_kernels():
    x, y = "f32[64,64]{1,0}", "f32[64,64]{1,0}"
    added = program(f"ROOT %s = {x} add(%x, %y)", {"x": x, "y": y})
    assert hbm_traffic(added) == 3 * 64 * 64 * 4
    on_chip = program("ROOT %s = f32[64,64]{1,0:S(1)} add(%x, %y)", {"x": "f32[64,64]{1,0:S(1)}", "y": y})
    assert hbm_traffic(on_chip) == 64 * 64 * 4


def test_traffic_of_slices_is_that_of_the_slice():
    stack, one = "f32[10,64]{1,0}", "f32[1,64]{1,0}"
    sliced = f"ROOT %s = {one} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={{1,64}}"
    assert hbm_traffic(program(sliced, {"x": stack, "i": "s32[]"})) == 2 * 64 * 4
    updated = f"ROOT %s = {stack} dynamic-update-slice(%x, %u, %i, %i)"
    assert hbm_traffic(program(updated, {"x": stack, "u": one, "i": "s32[]"})) == 2 * 64 * 4
    inside = (
        f"%fused (a: f32[10,64], b: f32[1,64], c: s32[]) -> f32[10,64] {{\n  %a = {stack} parameter(0)\n"
        f"  %b = {one} parameter(1)\n  %c = s32[] parameter(2)\n  %n = {one} negate(%b)\n"
        f"  ROOT %d = {stack} dynamic-update-slice(%a, %n, %c, %c)\n}}\n"
    )
    fused = f"ROOT %s = {stack} fusion(%x, %u, %i), kind=kLoop, calls=%fused"
    assert hbm_traffic(program(fused, {"x": stack, "u": one, "i": "s32[]"}, inside)) == 2 * 64 * 4 + 4


def hand_made(*lines):
    """A program of ``lines``, of which the last is what it gives."""
    inside = "\n".join(f"  {line}" for line in (*lines[:-1], f"ROOT {lines[-1]}"))
    return f"HloModule made\n\nENTRY %main (p: f32[8]) -> f32[8] {{\n{inside}\n}}\n"


@pytest.mark.parametrize(
    ("equation", "left", "right", "products"),
    [
        ("mk,kn->mn", (4, 5), (5, 6), 4 * 5 * 6),
        ("km,nk->mn", (5, 4), (6, 5), 4 * 5 * 6),
        ("bqhd,bkhd->bhqk", (2, 3, 4, 8), (2, 7, 4, 8), 2 * 3 * 4 * 8 * 7),
        ("bsd,dhk->bshk", (2, 16, 24), (24, 3, 8), 2 * 16 * 24 * 3 * 8),
    ],
)
def test_products_are_two_for_each_multiplication(equation, left, right, products):
    text = text_of(lambda a, b: jnp.einsum(equation, a, b), left, right)
    assert compiled_flops(text) == 2.0 * products


DEPTH, ROWS, WIDTH = 5, 4, 16


def layers(weights, x):
    y, _ = jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, weights)
    return y.sum()


def unrolled(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x.sum()


def test_a_scanned_program_has_the_flops_of_the_unscanned():
    shapes = (DEPTH, WIDTH, WIDTH), (ROWS, WIDTH)
    once = 2.0 * ROWS * WIDTH * WIDTH * DEPTH
    assert compiled_flops(text_of(layers, *shapes)) == once
    assert compiled_flops(text_of(unrolled, *shapes)) == once
    # backward: one product for the weights, one for what goes in, and that not for the first layer
    gradients = text_of(jax.grad(layers), *shapes), text_of(jax.grad(unrolled), *shapes)
    assert compiled_flops(gradients[0]) == 3 * once
    assert compiled_flops(gradients[1]) == 3 * once - once / DEPTH


def conv(x, k, **settings):
    return jax.lax.conv_general_dilated(x, k, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings)


@pytest.mark.parametrize(
    ("settings", "x", "k", "products"),
    [
        (
            {"window_strides": (1, 1), "padding": "VALID"},
            (2, 6, 5, 3),
            (3, 2, 3, 4),
            2 * 4 * 4 * 4 * 3 * 2 * 3,
        ),
        (
            {"window_strides": (2, 1), "padding": "VALID"},
            (2, 7, 5, 3),
            (3, 2, 3, 4),
            2 * 3 * 4 * 4 * 3 * 2 * 3,
        ),
        (
            {"window_strides": (1, 1), "padding": "VALID", "feature_group_count": 2},
            (2, 6, 5, 4),
            (3, 2, 2, 6),
            2 * 4 * 4 * 6 * 3 * 2 * 2,
        ),
        (
            {"window_strides": (1, 1), "padding": "VALID", "batch_group_count": 2},
            (4, 6, 5, 3),
            (3, 2, 3, 4),
            2 * 4 * 4 * 4 * 3 * 2 * 3,
        ),
    ],
)
def test_convolutions_and_their_groups(settings, x, k, products):
    assert compiled_flops(text_of(lambda a, b: conv(a, b, **settings), x, k)) == 2.0 * products


def test_a_product_that_the_tpu_compiler_writes_as_a_convolution():
    # The queries of 32 heads, 512 × 1024 by 1024 × (32 · 128), with heads as the window: all but one place is padding.
    text = hand_made(
        "%x = bf16[512,1024,1]{1,0,2:T(8,128)(2,1)} parameter(0)",
        "%w = bf16[32,128,1024]{2,1,0:T(8,128)(2,1)} parameter(1)",
        "%q = bf16[512,32,128]{2,0,1:T(8,128)(2,1)} convolution(%x, %w), window={size=32 pad=31_31 rhs_reversal=1}, dim_labels=bf0_0oi->b0f",
    )
    assert compiled_flops(text) == 2.0 * 512 * 1024 * 32 * 128


def test_a_batched_product_that_is_a_convolution():
    # Scores of 32 heads: the batch lies in a dilated window whose places meet at one element each.
    text = hand_made(
        "%q = bf16[32,512,128]{2,1,0} parameter(0)",
        "%k = bf16[32,512,128]{2,1,0} parameter(1)",
        "%s = f32[32,512,512]{2,1,0} convolution(%q, %k), window={size=32 stride=31 lhs_dilate=32}, dim_labels=0bf_0oi->0bf",
    )
    assert compiled_flops(text) == 2.0 * 32 * 512 * 512 * 128


@given(
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(-2, 6),
    st.integers(-2, 6),
    *[st.integers(1, 4)] * 3,
)
def test_only_what_meets_an_element_counts(size, kernel, low, high, stride, inner, outer):
    padded = (size - 1) * inner + 1 + low + high
    places = (padded - (kernel - 1) * outer - 1) // stride + 1
    if places < 1:
        return
    met = [
        0 <= at <= (size - 1) * inner and at % inner == 0
        for o, k in itertools.product(range(places), range(kernel))
        for at in [o * stride + k * outer - low]
    ]
    window = f"size={kernel} stride={stride} pad={low}_{high} lhs_dilate={inner} rhs_dilate={outer}"
    text = hand_made(
        f"%x = f32[3,{size},5]{{2,1,0}} parameter(0)",
        f"%k = f32[{kernel},5,2]{{2,1,0}} parameter(1)",
        f"%y = f32[3,{places},2]{{2,1,0}} convolution(%x, %k), window={{{window}}}, dim_labels=b0f_0io->b0f",
    )
    assert compiled_flops(text) == 2.0 * sum(met) * 3 * 5 * 2


def test_of_two_branches_the_costlier_counts():
    def step(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: jnp.sin(x))

    assert compiled_flops(text_of(step, (8, 16), (16, 16))) == 2.0 * 2 * 8 * 16 * 16


# Of the TPU compiler

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from jaxtune.plan.compiled_flops import compiled_flops, hbm_traffic
from jaxtune.plan.topologies import devices, parse_topology

from tests.plan.test_compiled_flops import layers, unrolled

there = SingleDeviceSharding(devices(parse_topology(sys.argv[1]))[0])

def attention(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).sum()

def count(step, *shapes):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=there) for shape in shapes]
    text = jax.jit(step).lower(*given).compile().as_text()
    return compiled_flops(text), hbm_traffic(text)

stack, rows, heads = (5, 256, 256), (64, 256), (2, 128, 4, 128)
print(json.dumps({
    "scanned": count(jax.grad(layers), stack, rows),
    "unrolled": count(jax.grad(unrolled), stack, rows),
    "attention": count(jax.grad(attention, (0, 1, 2)), heads, heads, heads),
    "sum": count(lambda x, y: jnp.sin(x) + y, (8192, 8192), (8192, 8192)),
}))
"""


@pytest.mark.slow
def test_flops_on_tpus():
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install -e '.[plan]'")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "v5e:2x4"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment(parse_topology("v5e:2x4"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    once = 2.0 * 64 * 256 * 256
    assert found["scanned"][0] == 3 * 5 * once
    assert found["unrolled"][0] == (3 * 5 - 1) * once
    # The sum of the values is not needed: of six products five are left.
    assert found["attention"][0] == 5 * 2.0 * 2 * 4 * 128 * 128 * 128
    # 256 MiB each cannot lie on the chip.
    assert found["sum"] == [0.0, 3 * 4.0 * 8192 * 8192]
