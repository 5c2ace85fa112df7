"""Splash attention, interpreted step by step on the CPU, against plain attention."""

import jax
import jax.numpy as jnp
import pytest
from attention_cases import compare, normal, packed, padded

from jaxtune.models.attention import ATTENTION_OUTPUT, AttentionSpec
from jaxtune.models.kernels.splash import make_splash

SPLASH = make_splash(interpret=True)


def test_everybody_sees_everybody_of_the_own_segment():
    ids = packed(1, 128)
    compare(SPLASH, AttentionSpec(ids, ids), queries=128)


def test_causal_with_grouped_queries_soft_cap_and_scale():
    spec = AttentionSpec(causal=True, soft_cap=2.0, scale=0.2)
    compare(SPLASH, spec, queries=256, heads=4, kv_heads=2)


def test_causal_window_of_a_length_that_is_padded():
    ids = padded(1, 200)
    compare(SPLASH, AttentionSpec(ids, ids, causal=True, window=70), queries=200, kv_heads=1)


MASKS = {
    "full": {},
    "causal": {"causal": True},
    "window": {"window": 70},
    "causal window": {"causal": True, "window": 70},
    "window of everything": {"window": 1 << 30},
}


@pytest.mark.slow
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("segments", [None, packed], ids=["whole", "packed"])
@pytest.mark.parametrize("mask", list(MASKS))
def test_every_combination(mask, segments, soft_cap):
    ids = None if segments is None else segments(2, 256)
    spec = AttentionSpec(ids, ids, soft_cap=soft_cap, **MASKS[mask])
    compare(SPLASH, spec, rows=2, heads=4, kv_heads=2)


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 4, 128), (4, 1, 64), (6, 2, 80), (1, 1, 256)])
def test_heads_of_every_kind(heads, kv_heads, size):
    compare(SPLASH, AttentionSpec(causal=True), heads=heads, kv_heads=kv_heads, size=size)


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "keys"), [(150, 300), (300, 150), (128, 640)])
def test_cross_attention(queries, keys):
    """Queries without segments see all keys that are no padding; with them, their own example's."""
    compare(SPLASH, AttentionSpec(None, padded(2, keys)), rows=2, queries=queries, keys=keys)
    spec = AttentionSpec(padded(2, queries), padded(2, keys))
    compare(SPLASH, spec, rows=2, queries=queries, keys=keys)


@pytest.mark.slow
def test_lengths_of_odd_numbers_of_blocks():
    compare(SPLASH, AttentionSpec(causal=True), queries=640, heads=1)
    compare(SPLASH, AttentionSpec(), queries=1100, heads=1)


@pytest.mark.slow
@pytest.mark.parametrize("window", [70, 1 << 30])
def test_windows_that_differ_between_scanned_layers(window):
    splash = make_splash(interpret=True, windows=(70, 1 << 30))
    compare(splash, AttentionSpec(causal=True, window=jnp.asarray(window)))


@pytest.mark.parametrize(
    ("spec", "options", "reason"),
    [
        ({"bias": jnp.zeros((1, 256, 256))}, {}, "additive bias"),
        ({"dropout_rate": 0.1, "dropout_key": jnp.zeros(2, jnp.uint32)}, {}, "dropout"),
        ({"offset": jnp.asarray(3)}, {}, "offset"),
        ({"window": jnp.asarray(3)}, {}, "traced"),
        ({}, {"precision": "highest"}, "precision"),
    ],
)
def test_what_it_does_not_take_is_refused(spec, options, reason):
    q = normal(0, 1, 256, 2, 64)
    with pytest.raises(ValueError, match=f"{reason}.*plain_attention"):
        SPLASH(q, q, q, AttentionSpec(**spec), **options)


def test_a_remat_policy_can_keep_what_its_backward_pass_reads(capsys):
    """Its output and the logarithms of its sums: with them the forward kernel need not run again."""
    q = normal(0, 1, 128, 2, 64)

    def layer(q):
        return jnp.tanh(SPLASH(jnp.sin(q), q, q, AttentionSpec(causal=True)))

    def kept(*names):
        policy = jax.checkpoint_policies.save_only_these_names(*names)
        jax.ad_checkpoint.print_saved_residuals(jax.checkpoint(layer, policy=policy), q)
        shapes = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        return sorted(shape for shape in shapes if shape.startswith("f32"))

    assert kept() == ["f32[1,128,2,64]"], "only what came in"
    assert kept(ATTENTION_OUTPUT) == ["f32[1,128,2,64]", "f32[1,2,128,64]", "f32[1,2,128]"]
