"""Splash attention over eight devices against plain attention on one."""

import jax
import jax.numpy as jnp
import pytest
from attention_cases import compare, mesh_of, normal, packed, padded

from jaxtune.models.attention import AttentionSpec
from jaxtune.models.kernels.splash import make_splash


def test_rows_heads_and_queries_of_a_batch_on_eight_devices():
    ids = packed(2, 256)
    splash = make_splash(mesh_of(data=2, tensor=2, sequence=2), interpret=True)
    compare(splash, AttentionSpec(ids, ids, causal=True), rows=2, heads=4, kv_heads=2)


MESHES = [
    {"data": 8},
    {"replica": 2, "fsdp": 4},
    {"tensor": 4},
    {"sequence": 4},
    {"fsdp": 2, "tensor": 2, "sequence": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize(
    "mask", [{}, {"causal": True}, {"causal": True, "window": 300}, {"window": 70}], ids=str
)
def test_every_mask_on_every_mesh(mask, sizes):
    rows = sizes.get("data", 1) * sizes.get("replica", 1) * sizes.get("fsdp", 1)
    length = max(256, 128 * sizes.get("sequence", 1))
    ids = packed(rows, length)
    splash = make_splash(mesh_of(**sizes), interpret=True)
    compare(
        splash, AttentionSpec(ids, ids, soft_cap=2.0, **mask), rows=rows, queries=length, heads=4, kv_heads=2
    )


@pytest.mark.slow
def test_fewer_key_value_heads_than_tensor_shards():
    splash = make_splash(mesh_of(tensor=4), interpret=True)
    compare(splash, AttentionSpec(causal=True), heads=8, kv_heads=2)
    compare(splash, AttentionSpec(), heads=4, kv_heads=1)


@pytest.mark.slow
def test_a_length_that_does_not_divide_over_the_devices():
    splash = make_splash(mesh_of(sequence=4), interpret=True)
    ids = padded(1, 300)
    compare(splash, AttentionSpec(ids, ids), queries=300)
    compare(splash, AttentionSpec(causal=True), queries=300)


@pytest.mark.slow
def test_windows_that_differ_between_layers_on_a_mesh():
    splash = make_splash(mesh_of(data=2, sequence=2), interpret=True, windows=(70, 1 << 30))
    compare(splash, AttentionSpec(causal=True, window=jnp.asarray(70)), rows=2)


@pytest.mark.slow
def test_within_pmap_each_device_is_alone():
    def splash(q, k, v, spec):
        alone = make_splash(interpret=True)
        dealt = [x.reshape(2, 1, *x.shape[1:]) for x in (q, k, v)]
        devices = jax.devices()[:2]
        return jax.pmap(lambda q, k, v: alone(q, k, v, spec), devices=devices)(*dealt).reshape(q.shape)

    compare(splash, AttentionSpec(causal=True), rows=2, queries=128)


def test_what_does_not_divide_is_refused():
    splash = make_splash(mesh_of(data=4, tensor=2), interpret=True)
    with pytest.raises(ValueError, match="3 rows do not divide over 4"):
        splash(*3 * (normal(0, 3, 128, 2, 64),), AttentionSpec())
    with pytest.raises(ValueError, match="3 heads do not divide over tensor=2"):
        splash(*3 * (normal(0, 4, 128, 3, 64),), AttentionSpec())


def test_keys_are_gathered_over_the_sequence_axis_and_queries_are_not():
    mesh = mesh_of(sequence=2)
    splash = make_splash(mesh, interpret=True)
    shards = jax.NamedSharding(mesh, jax.P(None, "sequence"))
    q = jax.ShapeDtypeStruct((1, 256, 1, 64), jnp.float32, sharding=shards)
    text = jax.jit(lambda q, k, v: splash(q, k, v, AttentionSpec())).lower(q, q, q).compile().as_text()
    gathers = [line for line in text.splitlines() if " all-gather(" in line]
    assert len(gathers) == 2, "one of the keys and one of the values"
