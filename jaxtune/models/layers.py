"""Layers that every family shares: Linear, norms, Embedding, activations and dropout.

Epsilon, variance form and activation always come from the checkpoint's config.json; Flax's own
defaults differ from BERT's (its LayerNorm has another epsilon, its GELU is the tanh approximation).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from jaxtune.models.axes import TABLE, constrain

DropoutKey = UInt32[Array, "2"]
VOCAB_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class Policy:
    """Mixed precision: what is stored, what is computed in, and what comes out.

    Reductions (softmax, norms, losses) are float32 whatever the policy says.
    """

    param_dtype: Any = jnp.float32
    compute_dtype: Any = jnp.float32
    output_dtype: Any = jnp.float32
    matmul_precision: str = "default"


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


class Linear(nn.Module):
    """``y = x W + b``. Every matrix product with a weight goes through here.

    Parameters: ``kernel`` [D, F], and ``bias`` [F] if ``use_bias``.
    """

    features: int
    policy: Policy = Policy()
    use_bias: bool = True
    stddev: float = 0.02

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        policy = self.policy
        kernel = self.param(
            "kernel", nn.initializers.normal(self.stddev), (x.shape[-1], self.features), policy.param_dtype
        )
        y = jnp.einsum(
            "...d,df->...f",
            x.astype(policy.compute_dtype),
            kernel.astype(policy.compute_dtype),
            precision=policy.matmul_precision,
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), policy.param_dtype)
            y = y + bias.astype(policy.compute_dtype)
        return y


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) over the last axis, statistics in float32 in two passes.

    Parameters: ``scale`` [D], and ``bias`` [D] if ``use_bias``.
    """

    epsilon: float
    policy: Policy = Policy()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.policy.param_dtype)
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        # E[(x-m)^2], not E[x^2]-m^2: the one-pass form cancels catastrophically for large means.
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon) * scale.astype(jnp.float32)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape, self.policy.param_dtype)
            y = y + bias.astype(jnp.float32)
        return y.astype(self.policy.compute_dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang & Sennrich 2019) over the last axis, statistics in float32.

    Parameter: ``scale`` [D]. With ``offset`` 1 the factor is 1 + scale, as Gemma stores it.
    """

    epsilon: float
    policy: Policy = Policy()
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        start = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", start, (x.shape[-1],), self.policy.param_dtype)
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.epsilon)
        return (y * (self.offset + scale.astype(jnp.float32))).astype(self.policy.compute_dtype)


class Embedding(nn.Module):
    """A table of ``rows`` vectors. Parameter: ``embedding`` [V, D].

    ``pad_rows`` rounds V up to a multiple of 128 so that the table divides on every mesh; the
    extra rows are zero, are never looked up and are cut off on export.
    """

    rows: int
    features: int
    policy: Policy = Policy()
    stddev: float = 0.02
    pad_rows: bool = False

    def setup(self) -> None:
        self.embedding = self.param("embedding", self._init, self.policy.param_dtype)

    def __call__(self, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        # Columns are gathered, rows stay: with both split, XLA would rather send the vectors around.
        table = constrain(self.embedding, TABLE if self.pad_rows else (None, None))
        return jnp.take(table, ids, axis=0, mode="clip").astype(self.policy.compute_dtype)

    @property
    def table(self) -> Float[Array, "V D"]:
        """All rows, padding included: the output matrix of a model with tied embeddings."""
        return self.embedding

    def _init(self, key: Array, dtype: Any) -> Float[Array, "V D"]:
        table = self.stddev * jax.random.normal(key, (self.rows, self.features), dtype)
        return pad_vocab(table) if self.pad_rows else table


def padded_vocab(rows: int) -> int:
    """The next multiple of 128."""
    return math.ceil(rows / VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def pad_vocab(table: Float[Array, "V *D"]) -> Float[Array, "P *D"]:
    """Append zero rows up to the next multiple of 128."""
    extra = padded_vocab(table.shape[0]) - table.shape[0]
    return jnp.pad(table, ((0, extra),) + ((0, 0),) * (table.ndim - 1))


def vocabulary_logits(
    x: Float[Array, "*B D"],
    table: Float[Array, "P D"],
    vocab_size: int,
    policy: Policy,
    *,
    bias: Float[Array, "P"] | None = None,
    soft_cap: float | None = None,
) -> Float[Array, "*B P"]:
    """Scores of every word: ``x`` against the rows of a (padded) table, float32.

    The columns that only pad the table get the most negative finite number, so that neither a
    softmax nor an argmax ever sees them.
    """
    logits = jnp.einsum(
        "...d,vd->...v",
        x.astype(policy.compute_dtype),
        table.astype(policy.compute_dtype),
        precision=policy.matmul_precision,
        preferred_element_type=jnp.float32,
    )
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    is_word = jnp.arange(table.shape[0]) < vocab_size
    return jnp.where(is_word, logits, jnp.finfo(jnp.float32).min)


def _mix(x: UInt32[Array, "*B"]) -> UInt32[Array, "*B"]:
    """A 32-bit finaliser with low bias (multipliers found by C. Wellons, "Prospecting for hash functions")."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def dropout_key(seed: Array | int, step: Array | int, microbatch: Array | int = 0) -> DropoutKey:
    """The key of one microbatch: a hash of (seed, step, microbatch). Nothing is stored or threaded."""
    words = [jnp.uint32(w) if isinstance(w, int) else w.astype(jnp.uint32) for w in (seed, step, microbatch)]
    low, high = jnp.uint32(0x243F6A88), jnp.uint32(0x85A308D3)
    for word in words:
        low = _mix(low ^ word)
        high = _mix(high + low)
    return jnp.stack([low, high])


def dropout_bits(shape: tuple[int, ...], key: DropoutKey, site: Array | int) -> UInt32[Array, ...]:
    """Uniform 32-bit words, each a hash of (key, site, global element index).

    The index is that of the whole array, so the bits do not depend on how it is sharded. Rows
    (the leading axis) get keys of their own: the index within a row then never wraps.
    """
    site = jnp.asarray(site).astype(jnp.uint32)
    low = _mix(key[0] ^ _mix(site + jnp.uint32(0x9E3779B9)))
    high = _mix(key[1] + low)
    row = jax.lax.iota(jnp.uint32, shape[0])
    row_low = _mix(row + low)
    row_high = _mix(row_low ^ high)
    per_row = (shape[0],) + (1,) * (len(shape) - 1)
    index = jnp.zeros((1, *shape[1:]), jnp.uint32)
    for axis in range(1, len(shape)):
        stride = math.prod(shape[axis + 1 :])
        index = index + jax.lax.broadcasted_iota(jnp.uint32, (1, *shape[1:]), axis) * jnp.uint32(stride)
    bits = _mix(index + row_low.reshape(per_row))
    # A second, differently keyed word: two sites whose counters overlap still get unrelated bits.
    bits = (bits ^ row_high.reshape(per_row)) * jnp.uint32(0x9E3779B1)
    return bits ^ (bits >> 15)


def dropout(
    x: Float[Array, ...], rate: float, key: DropoutKey | None, site: Array | int
) -> Float[Array, ...]:
    """Zero a share ``rate`` of the elements and scale the rest by 1/(1-rate); no key means no dropout.

    Args:
        site: a number that tells apart the dropouts of one forward pass (may be traced, under scan).
    """
    if key is None or rate == 0.0:
        return x
    keep = dropout_bits(x.shape, key, site) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))
