"""Inputs of attention, and a kernel held to plain attention on them: what comes out, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from jaxtune.models.attention import plain_attention

AXES = ("replica", "data", "fsdp", "tensor", "sequence")
FORWARD, GRADIENT = 1e-5, 1e-4


def mesh_of(**sizes):
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def packed(rows, length, seed=0):
    """Three examples of random lengths in each row, then padding."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((rows, length), np.int32)
    for row in ids:
        first, second, third = np.sort(rng.choice(np.arange(8, length - 8), 3, replace=False))
        row[:first], row[first:second], row[second:third] = 1, 2, 3
    return jnp.asarray(ids)


def padded(rows, length, seed=0):
    """One example in each row, then padding."""
    ends = np.random.default_rng(seed).integers(length // 2, length, size=(rows, 1))
    return jnp.asarray((np.arange(length)[None] < ends).astype(np.int32))


def compare(kernel, spec, *, rows=1, queries=256, keys=None, heads=2, kv_heads=None, size=64):
    """Assert that ``kernel`` gives what plain attention gives, padding queries apart, which are finite."""
    keys, kv_heads = keys or queries, kv_heads or heads
    q, weights = normal(0, rows, queries, heads, size), normal(1, rows, queries, heads, size)
    k, v = normal(2, rows, keys, kv_heads, size), normal(3, rows, keys, kv_heads, size)
    real = jnp.ones((rows, queries)) if spec.query_segments is None else spec.query_segments != 0
    real = real[:, :, None, None].astype(jnp.float32)

    def of(attention):
        def loss(q, k, v):
            out = attention(q, k, v, spec)
            return (out * weights * real).sum(), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        return out, gradients

    out, gradients = of(kernel)
    expected, expected_gradients = of(plain_attention)
    assert out.shape == expected.shape
    assert jnp.isfinite(out).all(), "padding queries must be finite"
    np.testing.assert_allclose(out * real, expected * real, atol=FORWARD, rtol=0)
    for name, ours, theirs in zip("qkv", gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=GRADIENT, rtol=0, err_msg=name)
