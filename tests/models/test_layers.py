"""Dropout bits, norms and activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtune.models.layers import ACTIVATIONS, LayerNorm, dropout, dropout_bits, dropout_key, pad_vocab


def test_dropout_keeps_the_mean_and_the_share():
    x = jnp.ones((64, 32, 128))
    y = np.asarray(dropout(x, 0.1, dropout_key(0, 3), site=5))
    assert set(np.unique(y).round(5)) == {0.0, np.float32(1 / 0.9).round(5)}
    assert (y == 0).mean() == pytest.approx(0.1, abs=0.002)


def test_dropout_without_a_key_or_a_rate_changes_nothing():
    x = jnp.arange(6.0).reshape(2, 3)
    assert dropout(x, 0.5, None, 0) is x
    assert dropout(x, 0.0, dropout_key(0, 0), 0) is x


@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_dropout_bits_look_uniform_and_unrelated(seed, step):
    bits = np.asarray(dropout_bits((16, 64, 64), dropout_key(seed, step), 1)).astype(np.float64) / 2**32
    other = np.asarray(dropout_bits((16, 64, 64), dropout_key(seed, step + 1), 1)) / 2**32
    site = np.asarray(dropout_bits((16, 64, 64), dropout_key(seed, step), 2)) / 2**32
    # Five standard errors of the mean of 65,536 uniform numbers, and of a correlation of them.
    assert abs(bits.mean() - 0.5) < 5 * 0.2887 / 256
    for a, b in ((bits, other), (bits, site), (bits[:, 1:], bits[:, :-1]), (bits[1:], bits[:-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / 256


def test_dropout_bits_do_not_depend_on_the_mesh():
    key, shape = dropout_key(7, 11), (16, 24, 8)
    whole = dropout_bits(shape, key, 3)
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    sharded = jax.jit(lambda k: dropout_bits(shape, k, 3), out_shardings=NamedSharding(mesh, P("a", "b")))
    np.testing.assert_array_equal(np.asarray(sharded(key)), np.asarray(whole))


def test_dropout_keys_differ_by_seed_step_and_microbatch():
    keys = [dropout_key(s, t, m) for s in (0, 1) for t in (0, 1) for m in (0, 1)]
    assert len({tuple(np.asarray(k).tolist()) for k in keys}) == 8


def test_layer_norm_survives_a_large_mean():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 64)) + 1e4, jnp.float32)
    norm = LayerNorm(epsilon=1e-12)
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    np.testing.assert_allclose(y, exact, atol=2e-3)


def test_gelu_is_the_exact_one_and_gelu_new_the_approximation():
    # Values of 0.5 x (1 + erf(x / sqrt 2)) and of the tanh form, to eight digits.
    assert float(ACTIVATIONS["gelu"](jnp.float32(1.0))) == pytest.approx(0.84134475, abs=1e-7)
    assert float(ACTIVATIONS["gelu_new"](jnp.float32(1.0))) == pytest.approx(0.84119199, abs=1e-7)


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 30522])
def test_padded_tables_have_a_multiple_of_128_rows(rows):
    padded = pad_vocab(jnp.ones((rows, 2)))
    assert padded.shape[0] % 128 == 0
    assert padded.shape[0] - rows < 128
    assert float(padded.sum()) == 2 * rows
