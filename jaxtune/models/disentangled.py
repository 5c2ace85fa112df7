"""Attention that also scores how far apart query and key are (He et al. 2021).

Beside what tokens say to each other, a query scores the distance to the key (c2p), and a key that to
the query (p2c). Distances share buckets, wider the further away.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention, AttentionSpec, merge_heads, split_heads
from jaxtune.models.layers import DropoutKey, Linear, Policy, dropout


def bucket(distance: np.ndarray, buckets: int, furthest: int) -> np.ndarray:
    """Bucket of each distance: itself up to half of the buckets, then on a log scale up to ``furthest``."""
    near = buckets // 2
    far = np.maximum(np.abs(distance), near).astype(np.float32)
    scale = _log32(far / np.float32(near)) / _log32(np.float32((furthest - 1) / near))
    logarithmic = np.ceil(scale * np.float32(near - 1)).astype(np.int64) + near
    return np.where(np.abs(distance) <= near, distance, np.sign(distance) * logarithmic)


def _log32(x: np.ndarray | np.float32) -> Any:
    """Logarithm in float32, as torch takes it: where a distance lies on a border, rounding says which side.

    By way of float64, whose error does not depend on the machine's vector instructions.
    """
    return np.float32(np.log(np.float64(x)))


def distance_rows(length: int, buckets: int, furthest: int) -> np.ndarray:
    """Row of the table of distances for each distance from length - 1 down to 1 - length.

    Args:
        buckets: for each direction; not positive: one per distance.
        furthest: distance from which on all are the same.
    """
    distance, span = np.arange(length - 1, -length, -1), furthest
    if buckets > 0:
        distance, span = bucket(distance, buckets, furthest), buckets
    return np.clip(distance + span, 0, 2 * span - 1).astype(np.int32)


def shift(scores: Float[Array, "B H S R"]) -> Float[Array, "B H S S"]:
    """From scores by distance, S - 1 down to 1 - S, to scores by index: out[i, j] = scores[i, S-1-i+j]."""
    batch, heads, length, width = scores.shape
    flat = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(batch, heads, -1)
    skewed = flat[..., length - 1 : length - 1 + length * width]
    return skewed.reshape(batch, heads, length, width)[..., :length]


@flax.struct.dataclass
class Distances:
    """Embeddings of the distances, and the row of each distance in them (see ``distance_rows``)."""

    table: Float[Array, "P D"]
    rows: Int[Array, "R"]


@flax.struct.dataclass
class DistanceContext:
    """What all layers share; ``distances`` is none where attention has no scores for them."""

    segment_ids: Int[Array, "B S"]
    dropout_key: DropoutKey | None = None
    distances: Distances | None = None


class DisentangledAttention(nn.Module):
    """Multi-head self-attention with scores for distances."""

    config: Any
    policy: Policy
    attention: Attention

    def setup(self) -> None:
        self.query, self.key, self.value, self.output = (self._linear() for _ in range(4))
        c = self.config
        if c.relative_attention and not c.share_att_key:
            if "c2p" in c.pos_att_type:
                self.position_key = self._linear()
            if "p2c" in c.pos_att_type:
                self.position_query = self._linear()

    def _linear(self) -> Linear:
        return Linear(self.config.hidden_size, self.policy, stddev=self.config.initializer_range)

    def __call__(
        self, x: Float[Array, "B S D"], context: DistanceContext, site: Array | int
    ) -> Float[Array, "B S D"]:
        c = self.config
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        # Each kind of score has the same share in the variance of their sum.
        scale = (query.shape[-1] * (1 + len(c.pos_att_type))) ** -0.5
        spec = AttentionSpec(
            query_segments=context.segment_ids,
            key_segments=context.segment_ids,
            bias=self._position_scores(query, key, context, scale, site),
            scale=scale,
            dropout_rate=c.attention_probs_dropout_prob,
            dropout_key=context.dropout_key,
            dropout_site=site,
        )
        mixed = self.attention(query, key, value, spec, self.policy.matmul_precision)
        return self.output(merge_heads(mixed))

    def _heads(self, x: Float[Array, "*B D"]) -> Float[Array, "*B H C"]:
        return split_heads(x, self.config.hidden_size // self.config.num_attention_heads)

    def _position_scores(
        self,
        query: Float[Array, "B S H C"],
        key: Float[Array, "B S H C"],
        context: DistanceContext,
        scale: float,
        site: Array | int,
    ) -> Float[Array, "B H S S"] | None:
        c = self.config
        if context.distances is None or not c.pos_att_type:
            return None
        rows = context.distances.rows
        table = dropout(context.distances.table, c.hidden_dropout_prob, context.dropout_key, site + 3)
        scores = []
        if "c2p" in c.pos_att_type:
            layer = self.key if c.share_att_key else self.position_key
            scores.append(shift(self._by_distance(query, layer(table), rows)))
        if "p2c" in c.pos_att_type:
            layer = self.query if c.share_att_key else self.position_query
            # What is a row here is the key, and distances count from the query: their signs are turned.
            turned = shift(self._by_distance(key, layer(table), rows[::-1]))
            scores.append(turned.swapaxes(2, 3))
        return sum(scores[1:], start=scores[0]) * scale

    def _by_distance(
        self, x: Float[Array, "B S H C"], table: Float[Array, "P D"], rows: Int[Array, "R"]
    ) -> Float[Array, "B H S R"]:
        """What each token of ``x`` scores for each distance."""
        return jnp.einsum(
            "bshc,rhc->bhsr",
            x,
            self._heads(table)[rows],
            precision=self.policy.matmul_precision,
            preferred_element_type=jnp.float32,
        )
