"""Multi-head attention as every family has it: projections around the replaceable attention function."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import flax.struct
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention, AttentionSpec, merge_heads, plain_attention, split_heads
from jaxtune.models.axes import KEYS, QUERIES, constrain
from jaxtune.models.cache import Cache, KeyValues, write
from jaxtune.models.layers import DropoutKey, Linear, Policy
from jaxtune.models.rotary import rotate


@flax.struct.dataclass
class Sight:
    """What all attentions of a layer stack share.

    Attributes:
        query_segments, key_segments: see ``AttentionSpec``.
        offset: slots of the cache that lie before the queries; none without a cache. (Not 0, which remat
            would trace: a kernel must know when it compiles that nothing lies before them.)
        dropout_key: none runs without dropout.
    """

    query_segments: Int[Array, "B S"] | None = None
    key_segments: Int[Array, "B T"] | None = None
    offset: Int[Array, ""] | None = None
    dropout_key: DropoutKey | None = None


def whole_rows(segment_ids: Int[Array, "B S"], key: DropoutKey | None = None) -> Sight:
    """Self-attention within rows that are all there."""
    return Sight(segment_ids, segment_ids, dropout_key=key)


def next_tokens(cache: Cache, segment_ids: Int[Array, "B S"]) -> tuple[Sight, Cache]:
    """Self-attention of the next S tokens to themselves and the cache, and the cache that counts them."""
    advanced = cache.advance(segment_ids)
    return Sight(segment_ids, advanced.segment_ids, offset=cache.index), advanced


class MultiHeadAttention(nn.Module):
    """Attention of heads of ``head_size`` over x itself, or over keys and values from elsewhere.

    Attributes:
        features: width D of input and output.
        num_kv_heads: K; none means as many as ``num_heads``.
        use_bias, output_bias: of the three input projections, and of the output's.
        stddev, query_stddev: of fresh kernels; none gives the query's that of the others (T5's is smaller).
        norm: makes a norm over each head's query and key, given its name (Qwen3, Gemma 3).
        scale, soft_cap, causal: see ``AttentionSpec``.
    """

    features: int
    num_heads: int
    head_size: int
    policy: Policy = Policy()
    attention: Attention = plain_attention
    num_kv_heads: int | None = None
    use_bias: bool = True
    output_bias: bool = True
    stddev: float = 0.02
    query_stddev: float | None = None
    norm: Callable[[str], nn.Module] | None = None
    scale: float | None = None
    soft_cap: float | None = None
    causal: bool = False
    dropout_rate: float = 0.0

    def setup(self) -> None:
        kv_heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        self.query = self._linear(self.num_heads * self.head_size, self.use_bias, self.query_stddev)
        self.key = self._linear(kv_heads * self.head_size, self.use_bias)
        self.value = self._linear(kv_heads * self.head_size, self.use_bias)
        self.output = self._linear(self.features, self.output_bias)
        if self.norm is not None:
            self._query_norm = self.norm("query_norm")
            self._key_norm = self.norm("key_norm")

    def _linear(self, features: int, bias: bool, stddev: float | None = None) -> Linear:
        return Linear(features, self.policy, bias, self.stddev if stddev is None else stddev)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        sight: Sight,
        site: Array | int,
        *,
        cache: KeyValues | None = None,
        memory: KeyValues | None = None,
        angles: tuple[Array, Array] | None = None,
        window: Array | int | None = None,
        bias: Float[Array, ...] | None = None,
    ) -> tuple[Float[Array, "B S D"], KeyValues | None]:
        """Output, and the cache with the keys and values of ``x``.

        Args:
            cache: of self-attention; the new keys and values are written at ``sight.offset``.
            memory: keys and values to attend to in place of x's own (cross-attention).
            angles: cosine and sine of ``rotary.angles``; none leaves positions to the model.
        """
        query = constrain(split_heads(self.query(x), self.head_size), QUERIES)
        if self.norm is not None:
            query = self._query_norm(query)
        if angles is not None:
            query = rotate(query, *angles)
        seen = self.keys_and_values(x, angles) if memory is None else memory
        before = 0 if sight.offset is None else sight.offset
        if cache is not None:
            seen = cache = write(cache, seen.keys, seen.values, before)
        spec = AttentionSpec(
            query_segments=sight.query_segments,
            key_segments=sight.key_segments,
            causal=self.causal,
            window=window,
            offset=before,
            bias=bias,
            soft_cap=self.soft_cap,
            scale=self.scale,
            dropout_rate=self.dropout_rate,
            dropout_key=sight.dropout_key,
            dropout_site=site,
        )
        keys, values = (a.astype(query.dtype) for a in (seen.keys, seen.values))
        mixed = self.attention(query, keys, values, spec, self.policy.matmul_precision)
        return self.output(merge_heads(constrain(mixed, QUERIES))), cache

    def keys_and_values(
        self, x: Float[Array, "B T D"], angles: tuple[Array, Array] | None = None
    ) -> KeyValues:
        """What ``x`` offers to queries; for cross-attention the ``memory`` of every decoder step."""
        keys = constrain(split_heads(self.key(x), self.head_size), KEYS)
        if self.norm is not None:
            keys = self._key_norm(keys)
        if angles is not None:
            keys = rotate(keys, *angles)
        return KeyValues(keys, constrain(split_heads(self.value(x), self.head_size), KEYS))
