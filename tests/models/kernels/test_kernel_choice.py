"""Which kernel is taken where, and what is said about it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import mesh_of, normal

from jaxtune.models.attention import AttentionSpec, plain_attention
from jaxtune.models.kernels.calls import Call
from jaxtune.models.kernels.choice import ChosenAttention, Place, choose_attention, place_on

CALL = Call(8, 512, 512, 16, 16, 64, "bfloat16", causal=True)
TPU = Place("tpu")
GPU = Place("gpu", packed=False, capability=9.0)


def test_each_platform_has_its_kernel():
    assert choose_attention(CALL, TPU).name == "splash"
    assert choose_attention(CALL, GPU).name == "cudnn"
    on_cpu = choose_attention(CALL, Place("cpu"))
    assert on_cpu.name == "plain"
    assert on_cpu.attention is plain_attention
    x = normal(0, 1, 8, 2, 4)
    ours = ChosenAttention(Place("cpu"))(x, x, x, AttentionSpec())
    np.testing.assert_array_equal(ours, plain_attention(x, x, x, AttentionSpec()))
    assert on_cpu.refused == {"splash": "it runs on tpu, not on cpu", "cudnn": "it runs on gpu, not on cpu"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bias": True}, "no additive bias"),
        ({"dropout": True}, "no dropout"),
        ({"moved": True}, "a cache"),
        ({"window": "traced"}, "layers under scan"),
        ({"queries": 64}, "there are 64"),
        ({"queries": 600, "window": 70}, "would see nothing"),
        ({"dtype": "float16"}, "not float16"),
        ({"dtype": "float32", "precision": "highest"}, "not highest"),
    ],
    ids=str,
)
def test_what_splash_attention_does_not_take_goes_to_plain(change, reason):
    choice = choose_attention(dataclasses.replace(CALL, **change), TPU)
    assert choice.name == "plain"
    assert reason in choice.refused["splash"]


@pytest.mark.parametrize(
    "change",
    [
        {"soft_cap": True},
        {"window": 128},
        {"segments": False},
        {"head_size": 80},
        {"kv_heads": 2},
        {"queries": 200, "keys": 300},
        {"dtype": "float32"},
        {"precision": "highest"},
    ],
    ids=str,
)
def test_what_splash_attention_takes(change):
    assert choose_attention(dataclasses.replace(CALL, **change), TPU).name == "splash"


def test_windows_by_layer_are_taken_where_their_numbers_are_known():
    call = dataclasses.replace(CALL, window="traced")
    assert choose_attention(call, dataclasses.replace(TPU, windows=(128, 1 << 30))).name == "splash"


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"bias": True}, {}, "additive bias"),
        ({"dropout": True}, {}, "dropout"),
        ({"soft_cap": True}, {}, "soft-cap"),
        ({"moved": True}, {}, "a cache"),
        ({"window": 70, "causal": False}, {}, "only in causal"),
        ({"window": "traced"}, {}, "of a fixed size"),
        ({}, {"packed": True}, "packed row"),
        ({"dtype": "float32"}, {}, "not float32"),
        ({}, {"capability": 7.5}, "this GPU has 7.5"),
        ({"head_size": 256}, {"capability": 8.9}, "at most 128"),
        ({"head_size": 260}, {}, "multiple of 8"),
        ({}, {"asked": "plain"}, "was asked for"),
    ],
    ids=str,
)
def test_what_cudnn_does_not_take_goes_to_plain(change, place, reason):
    choice = choose_attention(dataclasses.replace(CALL, **change), dataclasses.replace(GPU, **place))
    assert choice.name == "plain"
    assert reason in choice.refused["cudnn"]


def test_what_does_not_divide_over_the_mesh_goes_to_plain():
    place = dataclasses.replace(TPU, mesh=mesh_of(fsdp=4, tensor=2))
    assert choose_attention(CALL, place).name == "splash"
    for change in ({"rows": 6}, {"heads": 15, "kv_heads": 15}):
        choice = choose_attention(dataclasses.replace(CALL, **change), place)
        assert "do not divide over" in choice.refused["splash"]
    split = choose_attention(CALL, dataclasses.replace(GPU, mesh=mesh_of(sequence=2)))
    assert "part of a row" in split.refused["cudnn"]


def test_every_call_of_a_program_is_chosen_for_and_described():
    attention = ChosenAttention(dataclasses.replace(TPU, interpret=True))
    assert attention.describe() == ["attention on tpu: nothing is traced yet"]

    def program(x):
        y = attention(x, x, x, AttentionSpec(causal=True))
        y = y + attention(x, x, x, AttentionSpec(causal=True))
        return y + attention(x, x, x, AttentionSpec(bias=jnp.zeros((1, 128, 128))))

    jax.eval_shape(program, normal(0, 2, 128, 4, 64))
    assert sorted(choice.name for _, choice in attention.taken) == ["plain", "splash"]
    splash, plain = attention.describe()
    assert splash == (
        "attention on tpu: splash for 128 × 128 tokens, 4 heads of 64, float32, causal "
        "(not cudnn: it runs on gpu, not on tpu)"
    )
    assert plain == (
        "attention on tpu: plain for 128 × 128 tokens, 4 heads of 64, float32 "
        "(not splash: it takes no additive bias; not cudnn: it runs on gpu, not on tpu)"
    )


def test_many_shapes_are_described_shortly():
    attention = ChosenAttention(Place("cpu"))
    for length in range(8, 15):
        jax.eval_shape(lambda x: attention(x, x, x, AttentionSpec()), normal(0, 1, length, 2, 8))
    (line,) = attention.describe()
    assert line.count(" × ") == 4
    assert "and 3 more" in line


def test_a_place_is_that_of_the_devices():
    mesh = mesh_of(data=2)
    assert place_on(mesh) == Place("cpu", mesh)
    assert place_on(mesh, packed=False) == Place("cpu", mesh, packed=False)


def test_devices_that_are_alone_split_nothing():
    attention = ChosenAttention(dataclasses.replace(TPU, mesh=mesh_of(data=8), interpret=True))
    for rows in (3, 8):
        x = normal(0, rows, 128, 2, 64)
        for attend in (attention, attention.alone()):
            out = jax.eval_shape(lambda x, attend=attend: attend(x, x, x, AttentionSpec()), x)
            assert out.shape == x.shape
    names = [(call.rows, choice.name) for call, choice in attention.taken]
    assert names == [(3, "plain"), (3, "splash"), (8, "splash"), (8, "splash")]
    assert len(attention.alone().describe()) == 2
