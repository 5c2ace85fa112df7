"""Positions as T5 has them: a bias on the scores for how far apart query and key are (Raffel et al. 2020)."""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtune.models.layers import Embedding


def relative_bias(
    embedding: Embedding,
    queries: int,
    keys: int,
    offset: Int[Array, ""] | int,
    *,
    bidirectional: bool,
    max_distance: int,
) -> Float[Array, "H S T"]:
    """The bias of every head for S queries, of which the first is at index ``offset``, and T keys.

    Distances are those of indices in the row. Within an example they are those of positions, whether
    it begins at the row's start, behind padding or behind other examples.
    """
    distance = jnp.arange(keys)[None, :] - (offset + jnp.arange(queries)[:, None])
    at = relative_bucket(
        distance, bidirectional=bidirectional, buckets=embedding.rows, max_distance=max_distance
    )
    return jnp.moveaxis(embedding(at), -1, 0)


def relative_bucket(
    distance: Int[Array, "*B"], *, bidirectional: bool, buckets: int, max_distance: int
) -> Int[Array, "*B"]:
    """The bucket of a distance, counted from the query to the key.

    Half of the buckets hold one distance each, the others wider and wider ranges up to
    ``max_distance``. A bidirectional half of all buckets is for keys behind the query; without it
    those share the bucket of distance 0 (and are not visible).
    """
    if not bidirectional:
        return _buckets_of(buckets, max_distance)[jnp.clip(-distance, 0, max_distance)]
    per_side = buckets // 2
    near = _buckets_of(per_side, max_distance)[jnp.minimum(jnp.abs(distance), max_distance)]
    return near + jnp.where(distance > 0, per_side, 0)


def _buckets_of(buckets: int, max_distance: int) -> Int[Array, "N"]:
    return jnp.asarray(_table(buckets, max_distance))


@functools.lru_cache(maxsize=32)
def _table(buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of the distances 0 … max_distance.

    Made ahead and in numpy: some distances lie on the edge of two buckets, where a device's
    logarithm would decide. Here each step is rounded to float32, as torch does it.
    """
    exact = buckets // 2
    distance = np.arange(max_distance + 1)
    ratio = (np.maximum(distance, 1) / np.float32(exact)).astype(np.float32)
    share = np.log(ratio.astype(np.float64)).astype(np.float32) / np.float32(math.log(max_distance / exact))
    far = exact + (share * np.float32(buckets - exact)).astype(np.int32)
    return np.where(distance < exact, distance, np.minimum(far, buckets - 1)).astype(np.int32)


def check_buckets(buckets: int, max_distance: int) -> None:
    """Raise ValueError for numbers of which T5's formula makes no buckets."""
    if buckets < 4 or buckets % 2:
        raise ValueError(
            f"config.json: relative_attention_num_buckets={buckets} is not supported; use an even number from 4 on"
        )
    if max_distance <= buckets // 2:
        raise ValueError(
            f"config.json: relative_attention_max_distance={max_distance} is not supported; with "
            f"{buckets} buckets it must be over {buckets // 2}"
        )
