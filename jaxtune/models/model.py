"""A backbone joined with a head. Parameters are ``{"backbone": …, "head": …}``."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention, plain_attention
from jaxtune.models.cache import Cache
from jaxtune.models.family import Family
from jaxtune.models.layers import DropoutKey, Policy
from jaxtune.models.registry import family_of_config
from jaxtune.models.rows import take

OUTPUTS = {"regression": 1, "multiple_choice": 1, "span": 2}
"""Outputs of heads whose number of labels is no choice."""
LABELLED = ("classification", "token_classification")


class _Joined(nn.Module):
    """What models with one input and with two have in common.

    Attributes:
        head: a name of ``Family.heads``, or none for the last hidden states.
        num_labels: outputs of a head that has labels.
    """

    config: Any
    head: str | None = None
    num_labels: int = 0
    policy: Policy = Policy()
    scan_layers: bool = False
    remat: str = "none"
    attention: Attention = plain_attention

    @property
    def family(self) -> Family:
        return family_of_config(self.config)

    def setup(self) -> None:
        build = self.family.backbone
        self.backbone = build(self.config, self.policy, self.scan_layers, self.remat, self.attention)
        if self.head is not None:
            build_head = self.family.heads[self.head].build
            self._head = build_head(self.config, self.num_labels, self.policy, name="head")

    def _words(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S P"]:
        return self._head(hidden, self.backbone.table)


class TextModel(_Joined):
    """One text in: an encoder or a decoder."""

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"] | None = None,
        token_types: Int[Array, "B S"] | None = None,
        starts: Int[Array, "B N"] | None = None,
        dropout_key: DropoutKey | None = None,
    ) -> Float[Array, "B S D"] | Float[Array, "B N C"]:
        """Logits, float32; or the last hidden states [B, S, D] without a head.

        [B, N, C] per example, [B, S, C] per token, or [B, S, P] over the padded vocabulary.

        Args:
            segment_ids: 0 for padding, else the number of the example within its row; a
                Hugging Face attention mask is the case of one example per row.
            positions: counted from 0 within each example; none counts along the row.
            starts: index of the first token of each example in its row, none means one example a
                row; for a head over the vocabulary the tokens to compute logits for, none means all.
        """
        hidden = self.backbone(tokens, segment_ids, positions, token_types, dropout_key)
        if self.head is None:
            if self.is_initializing():
                self.backbone.pool(hidden, segment_ids, None)
            return hidden.astype(self.policy.output_dtype)
        match self._head.reads:
            case "example":
                logits = self._head(self.backbone.pool(hidden, segment_ids, starts), dropout_key)
            case "tokens":
                logits = self._head(hidden, dropout_key)
            case _:
                logits = self._words(hidden if starts is None else take(hidden, starts))
        return logits.astype(self.policy.output_dtype)

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
        return self.backbone.pool(hidden, segment_ids, starts).astype(self.policy.output_dtype)

    def extend(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        cache: Cache,
        last: bool = False,
    ) -> tuple[Float[Array, "B S P"], Cache]:
        """Logits of the next S tokens of a decoder, or of the last of them; and the cache that holds them too."""
        hidden, cache = self.backbone.extend(tokens, segment_ids, positions, cache)
        hidden = hidden[:, -1:] if last else hidden
        return self._words(hidden).astype(self.policy.output_dtype), cache


class Seq2SeqModel(_Joined):
    """A text in and a text out: an encoder-decoder."""

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        decoder_tokens: Int[Array, "B S"],
        decoder_segment_ids: Int[Array, "B S"],
        dropout_key: DropoutKey | None = None,
        positions: Int[Array, "B T"] | None = None,
        decoder_positions: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B S P"] | Float[Array, "B S D"]:
        """Logits over the padded vocabulary, float32; or the decoder's hidden states without a head.

        Args:
            segment_ids, decoder_segment_ids: 0 for padding; an example has one number on both sides.
            decoder_tokens: the target shifted right by one (teacher forcing).
            positions, decoder_positions: counted within each example; none counts along the row.
        """
        encoded = self.backbone.encode(tokens, segment_ids, positions, dropout_key)
        hidden = self.backbone.decode(
            decoder_tokens, decoder_segment_ids, decoder_positions, encoded, segment_ids, dropout_key
        )
        out = hidden if self.head is None else self._words(hidden)
        return out.astype(self.policy.output_dtype)

    def encode(self, tokens: Int[Array, "B T"], segment_ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Hidden states of the encoder, without dropout."""
        return self.backbone.encode(tokens, segment_ids, None, None).astype(self.policy.output_dtype)

    def start(self, tokens: Int[Array, "B T"], segment_ids: Int[Array, "B T"], length: int) -> Cache:
        """A cache for ``length`` decoder tokens: the prompt encoded, its cross keys and values computed."""
        encoded = self.backbone.encode(tokens, segment_ids, None, None)
        cache = self.family.empty_cache(self.config, tokens.shape[0], length, self.policy.compute_dtype)
        cross = self.backbone.cross(encoded)
        return cache.replace(cross=cross, cross_segment_ids=segment_ids)  # type: ignore[attr-defined]

    def extend(
        self, tokens: Int[Array, "B S"], segment_ids: Int[Array, "B S"], cache: Cache, last: bool = False
    ) -> tuple[Float[Array, "B S P"], Cache]:
        """Logits of the next S decoder tokens, or of the last of them; and the cache that holds them too."""
        hidden, cache = self.backbone.extend(tokens, segment_ids, cache)
        hidden = hidden[:, -1:] if last else hidden
        return self._words(hidden).astype(self.policy.output_dtype), cache


Model = TextModel | Seq2SeqModel


def build_model(
    config: Any,
    head: str | None,
    num_labels: int = 0,
    policy: Policy = Policy(),  # noqa: B008 -- frozen
    *,
    scan_layers: bool = False,
    remat: str = "none",
    attention: Attention = plain_attention,
) -> Model:
    """The module of a configuration.

    Raises:
        ValueError: a head the family does not have, a head without outputs, or layers that cannot be scanned.
    """
    family = family_of_config(config)
    if head is not None and head not in family.heads:
        there = ", ".join(family.heads)
        raise ValueError(f"unknown head {head!r} for {family.model_type}; expected one of {there}, or none")
    if head in LABELLED and num_labels < 1:
        raise ValueError(f"the {head} head needs at least one output, got num_labels={num_labels}")
    if scan_layers and not family.scannable(config):
        raise ValueError(f"scan_layers: the layers of this {family.model_type} differ; run it without scan")
    num_labels = OUTPUTS.get(head or "", num_labels if head in LABELLED else 0)
    kind = Seq2SeqModel if family.kind == "encoder_decoder" else TextModel
    return kind(config, head, num_labels, policy, scan_layers, remat, attention)


def init_params(model: Model, key: Array) -> dict[str, Any]:
    """Fresh parameters, in the layout the model runs in (stacked under ``scan_layers``)."""
    tokens = jnp.zeros((1, 8), jnp.int32)
    text = [tokens, jnp.ones_like(tokens)]
    inputs = 2 * text if isinstance(model, Seq2SeqModel) else text
    return jax.jit(model.init)(key, *inputs)["params"]
