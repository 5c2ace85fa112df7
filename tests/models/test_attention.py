"""Plain attention against a loop over queries written with NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.attention import AttentionSpec, plain_attention
from jaxtune.models.layers import dropout_key

B, S, H, K = 2, 7, 3, 4
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 3, 3, 3]])


def inputs():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(B, S, H, K)).astype(np.float32) for _ in range(3)]


def naive(q, k, v, allowed, bias=0.0, soft_cap=None, scale=K**-0.5):
    out = np.zeros_like(q)
    for b in range(B):
        for h in range(H):
            scores = q[b, :, h] @ k[b, :, h].T * scale
            if soft_cap:
                scores = soft_cap * np.tanh(scores / soft_cap)
            scores = np.where(allowed[b], scores + bias, -np.inf)
            for s in range(S):
                if allowed[b, s].any():
                    weights = np.exp(scores[s] - scores[s].max())
                    out[b, s, h] = weights @ v[b, :, h] / weights.sum()
    return out


def allowed_pairs(segments=None, causal=False, window=None):
    allowed = np.ones((B, S, S), bool)
    i, j = np.arange(S)[:, None], np.arange(S)[None, :]
    if segments is not None:
        allowed &= (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] != 0)
    if causal:
        allowed &= j <= i
    if window:
        allowed &= abs(i - j) < window
    return allowed


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ({}, {}),
        ({"query_segments": SEGMENTS, "key_segments": SEGMENTS}, {"segments": SEGMENTS}),
        ({"causal": True}, {"causal": True}),
        ({"window": 3}, {"window": 3}),
        (
            {"query_segments": SEGMENTS, "key_segments": SEGMENTS, "causal": True, "window": 2},
            {"segments": SEGMENTS, "causal": True, "window": 2},
        ),
    ],
)
def test_who_sees_whom(spec, options):
    q, k, v = inputs()
    spec = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in spec.items()}
    out = np.asarray(plain_attention(q, k, v, AttentionSpec(**spec)))
    allowed = allowed_pairs(**options)
    sees = allowed.any(-1)
    np.testing.assert_allclose(out[sees], naive(q, k, v, allowed)[sees], atol=1e-6)
    assert np.isfinite(out).all(), "padding queries, which see nothing, must not be NaN"


def test_bias_soft_cap_and_scale():
    q, k, v = inputs()
    bias = np.random.default_rng(1).normal(size=(S, S)).astype(np.float32)
    everything = allowed_pairs()
    spec = AttentionSpec(bias=jnp.asarray(bias)[None], scale=1.0)
    np.testing.assert_allclose(
        plain_attention(q, k, v, spec), naive(q, k, v, everything, bias, scale=1.0), atol=1e-6
    )
    np.testing.assert_allclose(
        plain_attention(q, k, v, AttentionSpec(soft_cap=0.5)),
        naive(q, k, v, everything, soft_cap=0.5),
        atol=1e-6,
    )


def test_dropout_hits_the_probabilities():
    q, k, _ = inputs()
    v = np.ones((B, S, H, K), np.float32)
    spec = AttentionSpec(dropout_rate=0.5, dropout_key=dropout_key(0, 0), dropout_site=1)
    out = np.asarray(plain_attention(q, k, v, spec))
    # With values of one the output is the kept probability mass, doubled: it varies, around one.
    assert out.std() > 0.1
    assert out.mean() == pytest.approx(1.0, abs=0.2)
