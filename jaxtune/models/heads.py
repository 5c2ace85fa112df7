"""Heads on top of a backbone, and the module that joins the two.

Parameters of a joined model are ``{"backbone": …, "head": …}``.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention, plain_attention
from jaxtune.models.layers import DropoutKey, Linear, Policy, dropout
from jaxtune.models.registry import family_of_config
from jaxtune.models.weight_map import WeightEntry, linear

HEAD_SITE = 1 << 20
"""Dropout site of the heads: above every site of a backbone."""


class SequenceHead(nn.Module):
    """One vector per example from its pooled first token: dropout, then a linear layer."""

    features: int
    dropout_rate: float
    stddev: float
    policy: Policy

    @nn.compact
    def __call__(self, pooled: Float[Array, "B N D"], key: DropoutKey | None) -> Float[Array, "B N C"]:
        pooled = dropout(pooled, self.dropout_rate, key, HEAD_SITE)
        return Linear(self.features, self.policy, stddev=self.stddev, name="classifier")(pooled)


HEADS = ("classification", "regression")
"""Heads by name; both are a ``SequenceHead``, with one output per label or one in all."""


def head_weight_map(head: str | None) -> tuple[WeightEntry, ...]:
    """Names of the head's tensors; a base checkpoint has none, so each is optional."""
    return () if head is None else linear("classifier", "classifier", optional=True)


class EncoderModel(nn.Module):
    """An encoder backbone with a head, or without one.

    Attributes:
        head: a name of ``HEADS``, or none for the last hidden states.
        num_labels: outputs of the head (1 for regression).
    """

    config: Any
    head: str | None = None
    num_labels: int = 0
    policy: Policy = Policy()
    scan_layers: bool = False
    remat: str = "none"
    attention: Attention = plain_attention

    def setup(self) -> None:
        build = family_of_config(self.config).backbone
        self.backbone = build(self.config, self.policy, self.scan_layers, self.remat, self.attention)
        if self.head is not None:
            c = self.config
            self._head = SequenceHead(
                self.num_labels, c.head_dropout, c.initializer_range, self.policy, name="head"
            )

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"] | None = None,
        token_types: Int[Array, "B S"] | None = None,
        starts: Int[Array, "B N"] | None = None,
        dropout_key: DropoutKey | None = None,
    ) -> Float[Array, "B S D"] | Float[Array, "B N C"]:
        """Logits per example [B, N, C], or the last hidden states [B, S, D] without a head.

        Args:
            starts: index of the first token of each example in its row; none means one example a row.
        """
        hidden = self.backbone(tokens, segment_ids, positions, token_types, dropout_key)
        if self.head is None:
            if self.is_initializing():
                self.backbone.pool(hidden[:, :1])
            return hidden.astype(self.policy.output_dtype)
        return self._head(self._pool(hidden, starts), dropout_key).astype(self.policy.output_dtype)

    def pooled(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"] | None = None,
        token_types: Int[Array, "B S"] | None = None,
        starts: Int[Array, "B N"] | None = None,
    ) -> Float[Array, "B N D"]:
        """The pooled vector of each example, without dropout."""
        hidden = self.backbone(tokens, segment_ids, positions, token_types, None)
        return self._pool(hidden, starts).astype(self.policy.output_dtype)

    def _pool(self, hidden: Float[Array, "B S D"], starts: Int[Array, "B N"] | None) -> Float[Array, "B N D"]:
        first = hidden[:, :1] if starts is None else jnp.take_along_axis(hidden, starts[:, :, None], axis=1)
        return self.backbone.pool(first)


def build_model(
    config: Any,
    head: str | None,
    num_labels: int = 0,
    policy: Policy = Policy(),  # noqa: B008 -- frozen
    *,
    scan_layers: bool = False,
    remat: str = "none",
    attention: Attention = plain_attention,
) -> EncoderModel:
    """The module of a configuration.

    Raises:
        ValueError: an unknown head, or a head without outputs.
    """
    if head is not None and head not in HEADS:
        raise ValueError(f"unknown head {head!r}; expected one of {', '.join(HEADS)}, or none")
    if head is not None and num_labels < 1:
        raise ValueError(f"the {head} head needs at least one output, got num_labels={num_labels}")
    return EncoderModel(config, head, num_labels, policy, scan_layers, remat, attention)


def init_params(model: EncoderModel, key: Array) -> dict[str, Any]:
    """Fresh parameters, in the layout the model runs in (stacked under ``scan_layers``)."""
    tokens = jnp.zeros((1, 8), jnp.int32)
    return jax.jit(model.init)(key, tokens, jnp.ones_like(tokens))["params"]
