"""The key/value cache of generation: fixed shapes, so that one compiled step serves every token.

Prompts lie in it with padding on the left. All rows then have written the same number of slots,
and one index serves the whole batch.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class KeyValues:
    """Keys and values of one attention, rotated and normalised as attention takes them."""

    keys: Float[Array, "B T K C"]
    values: Float[Array, "B T K C"]


@flax.struct.dataclass
class Cache:
    """What a decoder remembers of the tokens it has read.

    Attributes:
        layers: self-attention's keys and values, one pair per layer.
        segment_ids: 1 where a slot holds a token, 0 where nothing was written or padding.
        index: slots written so far, the same for all rows.
        cross: keys and values of the encoded prompt, one pair per layer; none without an encoder.
        cross_segment_ids: [B, T'], 0 where the encoded prompt is padding.
    """

    layers: tuple[KeyValues, ...]
    segment_ids: Int[Array, "B T"]
    index: Int[Array, ""]
    cross: tuple[KeyValues, ...] | None = None
    cross_segment_ids: Int[Array, "B U"] | None = None

    @property
    def length(self) -> int:
        """Slots there are."""
        return self.segment_ids.shape[1]

    def advance(self, segment_ids: Int[Array, "B S"]) -> Cache:
        """The same cache with the segment ids of the next S tokens written, their keys not yet."""
        written = jax.lax.dynamic_update_slice(
            self.segment_ids, segment_ids.astype(self.segment_ids.dtype), (0, self.index)
        )
        return self.replace(segment_ids=written, index=self.index + segment_ids.shape[1])  # type: ignore[attr-defined]


def empty_cache(layers: int, batch: int, length: int, kv_heads: int, size: int, dtype: Any) -> Cache:
    """A cache of ``length`` slots with nothing in it."""
    zeros = jnp.zeros((batch, length, kv_heads, size), dtype)
    return Cache(
        layers=tuple(KeyValues(zeros, zeros) for _ in range(layers)),
        segment_ids=jnp.zeros((batch, length), jnp.int32),
        index=jnp.zeros((), jnp.int32),
    )


def write(
    cache: KeyValues,
    keys: Float[Array, "B S K C"],
    values: Float[Array, "B S K C"],
    index: Int[Array, ""] | int,
) -> KeyValues:
    """The cache with S more keys and values, from slot ``index`` on."""
    at = (0, index, 0, 0)
    return KeyValues(
        jax.lax.dynamic_update_slice(cache.keys, keys.astype(cache.keys.dtype), at),
        jax.lax.dynamic_update_slice(cache.values, values.astype(cache.values.dtype), at),
    )
