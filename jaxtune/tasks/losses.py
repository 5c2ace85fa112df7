"""Cross-entropy over a label per token, as sums."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.tasks.base import IGNORED, Sums


def token_losses(
    logits: Float[Array, "B S C"],
    labels: Int[Array, "B S"],
    smoothing: float = 0.0,
    classes: int | None = None,
) -> tuple[Float[Array, "B S"], Float[Array, "B S"], Float[Array, "B S"]]:
    """Loss of each token, its weight (0 where the label is ``IGNORED``), and whether the best guess is right.

    Args:
        smoothing: share of the target probability that is spread over all classes.
        classes: how many there are, where the last columns only pad a table.
    """
    counted = labels != IGNORED
    targets = jnp.where(counted, labels, 0)
    # A token without a label may have any logits; none may reach a sum or a gradient.
    logits = jnp.where(counted[..., None], logits.astype(jnp.float32), 0.0)
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    losses = -jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
    if smoothing:
        real = log_probabilities if classes is None else log_probabilities[..., :classes]
        losses = (1.0 - smoothing) * losses - smoothing * real.mean(axis=-1)
    weights = counted.astype(jnp.float32)
    right = weights * (logits.argmax(axis=-1) == targets)
    return weights * losses, weights, right


def token_sums(
    logits: Float[Array, "B S C"],
    batch: Mapping[str, Array],
    smoothing: float = 0.0,
    classes: int | None = None,
) -> Sums:
    """Loss and accuracy over all labelled tokens of a batch."""
    losses, weights, right = token_losses(logits, batch["labels"], smoothing, classes)
    total = weights.sum()
    return {"loss": (losses.sum(), total), "accuracy": (right.sum(), total)}


def example_sums(logits: Float[Array, "B S C"], batch: Mapping[str, Array]) -> dict[str, Float[Array, "B N"]]:
    """Sums of each example: ``loss_sum`` (plain cross-entropy), ``right`` and ``count``, [B, N] each."""
    losses, weights, right = token_losses(logits, batch["labels"])
    segments = _segments_of_labels(batch)
    slots = jnp.arange(1, batch["starts"].shape[1] + 1)
    own = (segments[:, None, :] == slots[None, :, None]).astype(jnp.float32)

    def per_example(values: Float[Array, "B S"]) -> Float[Array, "B N"]:
        return jnp.einsum("bns,bs->bn", own, values, precision="highest")

    return {"loss_sum": per_example(losses), "right": per_example(right), "count": per_example(weights)}


def _segments_of_labels(batch: Mapping[str, Array]) -> Int[Array, "B S"]:
    """Which example each label belongs to."""
    if "at" in batch:
        return jnp.take_along_axis(batch["segment_ids"], batch["at"], axis=1)
    return batch.get("decoder_segment_ids", batch["segment_ids"])
