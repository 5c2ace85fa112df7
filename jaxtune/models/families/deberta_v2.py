"""DeBERTa v2 and v3 (He et al. 2021), equal to transformers' ``DebertaV2Model`` to rounding.

BERT's layers around the attention of ``disentangled.py``, and beside v2-xlarge's first a convolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.axes import HIDDEN, constrain
from jaxtune.models.bidirectional import BidirectionalBackbone
from jaxtune.models.config_reading import check_divides, read_fields
from jaxtune.models.disentangled import DisentangledAttention, DistanceContext, Distances, distance_rows
from jaxtune.models.encoder import ENCODER_ONLY, EncoderLayer, embedding_map, layer_map
from jaxtune.models.family import Family
from jaxtune.models.heads import (
    Head,
    MaskedWordHead,
    SequenceHead,
    choice_head,
    sequence_heads,
    token_heads,
)
from jaxtune.models.layers import ACTIVATIONS, DropoutKey, Embedding, LayerNorm, Linear, Policy, dropout
from jaxtune.models.weight_map import WeightEntry, linear, norm

_SUPPORTED = {
    **ENCODER_ONLY,
    "hidden_act": tuple(ACTIVATIONS),
    "pooler_hidden_act": tuple(ACTIVATIONS),
    "conv_act": tuple(ACTIVATIONS),
    "norm_rel_ebd": ("none", "layer_norm"),
}


@dataclasses.dataclass(frozen=True)
class DebertaV2Config:
    """The fields of config.json that shape a DeBERTa; names as there.

    Attributes:
        embedding_size: columns of the embedding tables.
        max_position_embeddings: none where only distances matter, which have no end.
        max_relative_positions: distance from which on all are the same.
        position_buckets: how many there are for each direction; not positive: one per distance.
        pos_att_type: which of ``c2p`` and ``p2c`` there are.
        share_att_key: distances go through the layers of query and key, not through some of their own.
        norm_rel_ebd: ``layer_norm`` normalises the embeddings of the distances.
        position_biased_input: absolute positions are added to the embeddings.
        conv_kernel_size: width of a convolution beside the first layer; 0 for none.
        legacy: the masked-word head is called as BERT's.
    """

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    embedding_size: int = 1536
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int | None = 512
    type_vocab_size: int = 0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-7
    pad_token_id: int = 0
    relative_attention: bool = False
    max_relative_positions: int = 512
    position_buckets: int = -1
    pos_att_type: tuple[str, ...] = ()
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    position_biased_input: bool = True
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    cls_dropout: float | None = None
    legacy: bool = True

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> DebertaV2Config:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        hidden = raw.get("hidden_size") or cls.hidden_size
        heads = raw.get("num_attention_heads") or cls.num_attention_heads
        # transformers has places for these in config.json, but its layers only fit each other if they are so.
        sizes = {
            "attention_head_size": (None, hidden // heads),
            "pooler_hidden_size": (None, hidden),
        }
        positions = raw.get("max_position_embeddings") or cls.max_position_embeddings
        furthest = raw.get("max_relative_positions") or -1
        biased = raw.get("position_biased_input", True)
        config = read_fields(
            cls,
            raw,
            supported={**_SUPPORTED, **sizes},
            embedding_size=raw.get("embedding_size") or hidden,
            max_relative_positions=positions if furthest < 1 else furthest,
            max_position_embeddings=positions if biased else None,
            pos_att_type=_pos_att_type(raw.get("pos_att_type")),
        )
        check_divides(config, "hidden_size", "num_attention_heads")
        config.check()
        return config

    def check(self) -> None:
        """Raise ValueError for numbers that make no network."""
        if self.conv_kernel_size > 0:
            check_divides(self, "hidden_size", "conv_groups")
            if self.conv_kernel_size % 2 == 0:
                raise ValueError(
                    f"config.json: conv_kernel_size={self.conv_kernel_size} is not supported; use an odd number"
                )
        buckets, furthest = self.position_buckets, self.max_relative_positions
        if self.relative_attention and buckets > 0 and not 0 < buckets // 2 < furthest - 1:
            raise ValueError(
                f"config.json: position_buckets={buckets} is not supported with "
                f"max_relative_positions={furthest}; use 2 to {2 * (furthest - 1) - 1}"
            )

    def with_dropout(self, rate: float) -> DebertaV2Config:
        """The same network with one rate at every dropout."""
        return dataclasses.replace(
            self,
            hidden_dropout_prob=rate,
            attention_probs_dropout_prob=rate,
            pooler_dropout=rate,
            cls_dropout=rate,
        )

    @property
    def head_dropout(self) -> float:
        """Rate before a token classifier."""
        return self.hidden_dropout_prob

    @property
    def span(self) -> int:
        """Embeddings of distances there are for each direction."""
        return self.position_buckets if self.position_buckets > 0 else self.max_relative_positions


def _pos_att_type(given: str | list[str] | None) -> tuple[str, ...]:
    names = given.lower().split("|") if isinstance(given, str) else given or []
    names = [name.strip() for name in names]
    for name in names:
        if name not in ("c2p", "p2c"):
            raise ValueError(f"config.json: pos_att_type={name!r} is not supported; use c2p, p2c or both")
    return tuple(sorted(set(names)))


class DebertaConvolution(nn.Module):
    """A convolution over the embeddings, added to the first layer's output and normalised (v2-xlarge).

    It reads zeros beyond the ends of an example. Parameters: ``kernel`` [F, D / groups, width] and
    ``bias`` [F] as torch has them, and the norm's.
    """

    config: DebertaV2Config
    policy: Policy

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], z: Float[Array, "B S D"], context: DistanceContext, site: Array | int
    ) -> Float[Array, "B S D"]:
        c, policy = self.config, self.policy
        width, groups = c.conv_kernel_size, c.conv_groups
        start = nn.initializers.normal(c.initializer_range)
        shape = (c.hidden_size, c.hidden_size // groups, width)
        kernel = self.param("kernel", start, shape, policy.param_dtype).astype(policy.compute_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape[:1], policy.param_dtype)
        kernel = kernel.reshape(groups, -1, *shape[1:])
        y = jnp.zeros(x.shape, jnp.float32)
        for tap in range(width):
            there = _neighbours(x, tap - width // 2, context.segment_ids).reshape(*x.shape[:2], groups, -1)
            y += jnp.einsum(
                "bsgd,gfd->bsgf",
                there,
                kernel[..., tap],
                precision=policy.matmul_precision,
                preferred_element_type=jnp.float32,
            ).reshape(x.shape)
        y = (y + bias.astype(jnp.float32)).astype(policy.compute_dtype)
        y = ACTIVATIONS[c.conv_act](dropout(y, c.hidden_dropout_prob, context.dropout_key, site))
        return LayerNorm(c.layer_norm_eps, policy, name="norm")(z + y)


def _neighbours(x: Float[Array, "B S D"], away: int, segment_ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """The vector ``away`` places further along, zero where that is no token of the same example."""
    edge = (max(-away, 0), max(away, 0))
    there = slice(edge[1], edge[1] + x.shape[1])
    segments = jnp.pad(segment_ids, ((0, 0), edge))[:, there]
    same = (segments == segment_ids) & (segment_ids != 0)
    return jnp.where(same[..., None], jnp.pad(x, ((0, 0), edge, (0, 0)))[:, there], 0)


class DebertaLayer(EncoderLayer):
    """BERT's layer around another attention; after the first there may be a convolution."""

    sites: ClassVar[int] = 5

    def _attend(
        self, x: Float[Array, "B S D"], context: DistanceContext, site: Array | int
    ) -> Float[Array, "B S D"]:
        return DisentangledAttention(self.config, self.policy, self.attention, name="attention")(
            x, context, site
        )

    def _last(
        self,
        x: Float[Array, "B S D"],
        z: Float[Array, "B S D"],
        index: Int[Array, ""] | int,
        context: DistanceContext,
    ) -> Float[Array, "B S D"]:
        # With a convolution there is no scan, and the index a number.
        if self.config.conv_kernel_size <= 0 or index != 0:
            return z
        return DebertaConvolution(self.config, self.policy, name="conv")(x, z, context, self.sites)


class DebertaEmbeddings(nn.Module):
    """Sum of the embeddings there are, perhaps projected, normalised, then dropout."""

    config: DebertaV2Config
    policy: Policy

    def setup(self) -> None:
        c = self.config
        self.word = self._table(c.vocab_size, pad_rows=True)
        if c.position_biased_input:
            self.position = self._table(c.max_position_embeddings or 0)
        if c.type_vocab_size:
            self.token_type = self._table(c.type_vocab_size)
        if c.embedding_size != c.hidden_size:
            self.projection = Linear(c.hidden_size, self.policy, use_bias=False, stddev=c.initializer_range)
        self.norm = LayerNorm(c.layer_norm_eps, self.policy)

    def _table(self, rows: int, pad_rows: bool = False) -> Embedding:
        c = self.config
        return Embedding(rows, c.embedding_size, self.policy, c.initializer_range, pad_rows)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> Float[Array, "B S D"]:
        c = self.config
        x = self.word(tokens)
        if c.position_biased_input:
            x = x + self.position(positions)
        if c.type_vocab_size:
            x = x + self.token_type(token_types)
        if c.embedding_size != c.hidden_size:
            x = self.projection(x)
        return dropout(self.norm(x), c.hidden_dropout_prob, key, site=0)


class DebertaV2Model(BidirectionalBackbone):
    """Embeddings, those of the distances, and the layer stack; what DeBERTa calls its pooler is in the head."""

    config: DebertaV2Config

    def setup(self) -> None:
        c = self.config
        self.embeddings = DebertaEmbeddings(c, self.policy)
        if c.relative_attention:
            self.distance = Embedding(2 * c.span, c.hidden_size, self.policy, c.initializer_range)
            if c.norm_rel_ebd == "layer_norm":
                self.distance_norm = LayerNorm(c.layer_norm_eps, self.policy)
        self.layers = self._stack(DebertaLayer, c, self.policy, self.attention)

    def _run(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> Float[Array, "B S D"]:
        x = self.embeddings(tokens, positions, token_types, key)
        x = constrain(x, HIDDEN)
        # Distances are counted along the row.
        return self._through(x, DistanceContext(segment_ids, key, self._distances(tokens.shape[1])))

    def _distances(self, length: int) -> Distances | None:
        c = self.config
        if not c.relative_attention:
            return None
        table = self.distance.table.astype(self.policy.compute_dtype)
        if c.norm_rel_ebd == "layer_norm":
            table = self.distance_norm(table)
        rows = distance_rows(length, c.position_buckets, c.max_relative_positions)
        return Distances(table, jnp.asarray(rows))

    @property
    def table(self) -> Float[Array, "P E"]:
        """Word embeddings."""
        return self.embeddings.word.table


def weight_map(config: DebertaV2Config) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``DebertaV2Model`` in a Hugging Face checkpoint."""
    return tuple(_entries(config))


def _entries(config: DebertaV2Config) -> Iterator[WeightEntry]:
    yield from embedding_map(tied="cls.predictions.decoder.weight")
    yield from linear("embeddings.embed_proj", "embeddings/projection", bias=False)
    yield WeightEntry("encoder.rel_embeddings.weight", "distance/embedding")
    yield from norm("encoder.LayerNorm", "distance_norm")
    yield from layer_map(config.num_hidden_layers, ("query_proj", "key_proj", "value_proj"))
    for i in range(config.num_hidden_layers):
        hf, path = f"encoder.layer.{i}.attention.self", f"layers/{i}/attention"
        yield from linear(f"{hf}.pos_key_proj", f"{path}/position_key")
        yield from linear(f"{hf}.pos_query_proj", f"{path}/position_query")
    yield WeightEntry("encoder.conv.conv.weight", "layers/0/conv/kernel")
    yield WeightEntry("encoder.conv.conv.bias", "layers/0/conv/bias")
    yield from norm("encoder.conv.LayerNorm", "layers/0/conv/norm")


def _sequence_head(config: DebertaV2Config, num_labels: int, policy: Policy, name: str) -> nn.Module:
    c = config
    return SequenceHead(
        num_labels,
        c.hidden_dropout_prob if c.cls_dropout is None else c.cls_dropout,
        c.initializer_range,
        policy,
        hidden_act=c.pooler_hidden_act,
        dense_dropout=c.pooler_dropout,
        name=name,
    )


def _sequence_map(config: DebertaV2Config) -> tuple[WeightEntry, ...]:
    return (*linear("pooler.dense", "dense"), *linear("classifier", "classifier"))


def _masked_word_head(config: DebertaV2Config, num_labels: int, policy: Policy, name: str) -> nn.Module:
    c = config
    return MaskedWordHead(
        c.vocab_size, c.embedding_size, c.hidden_act, c.layer_norm_eps, c.initializer_range, policy, name=name
    )


def _masked_word_map(config: DebertaV2Config) -> tuple[WeightEntry, ...]:
    """Either set of names: v3's files have the newer one though their config.json does not say so."""
    old, new = "cls.predictions.transform", "lm_predictions.lm_head"
    first, second = (old, new) if config.legacy else (new, old)
    both = [
        dataclasses.replace(entry, aliases=(other.hf,))
        for entry, other in zip(_transform_map(first), _transform_map(second))
    ]
    biases = ("cls.predictions.bias", "cls.predictions.decoder.bias", f"{new}.bias")
    if not config.legacy:
        biases = biases[::-1]
    return (*both, WeightEntry(biases[0], "bias", "pad_rows", aliases=biases[1:]))


def _transform_map(hf: str) -> tuple[WeightEntry, ...]:
    return (*linear(f"{hf}.dense", "dense"), *norm(f"{hf}.LayerNorm", "norm"))


DEBERTA_V2 = Family(
    model_type="deberta-v2",
    kind="encoder",
    config_class=DebertaV2Config,
    backbone=DebertaV2Model,
    weight_map=weight_map,
    prefix="deberta.",
    base_architecture="DebertaV2Model",
    heads={
        **sequence_heads("DebertaV2ForSequenceClassification", _sequence_head, _sequence_map),
        **choice_head("DebertaV2ForMultipleChoice", _sequence_head, _sequence_map),
        **token_heads("DebertaV2ForTokenClassification", "DebertaV2ForQuestionAnswering"),
        "mlm": Head("DebertaV2ForMaskedLM", _masked_word_head, _masked_word_map),
    },
    # The convolution is in the first layer only.
    scannable=lambda config: config.conv_kernel_size <= 0,
)
