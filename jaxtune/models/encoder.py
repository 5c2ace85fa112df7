"""The encoder that BERT made common: summed embeddings, then layers with a norm after each block.

RoBERTa, DistilBERT and ELECTRA differ from it by settings of ``EncoderConfig`` and by what their
tensors are called; each family's file reads its config.json into one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention
from jaxtune.models.axes import HIDDEN, WIDE, constrain
from jaxtune.models.bidirectional import BidirectionalBackbone
from jaxtune.models.layers import ACTIVATIONS, DropoutKey, Embedding, LayerNorm, Linear, Policy, dropout
from jaxtune.models.multi_head import MultiHeadAttention, whole_rows
from jaxtune.models.weight_map import WeightEntry, linear, norm

ENCODER_ONLY = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
"""Settings that would make another network of one of these families, and the values that do not."""


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What shapes an encoder; names as in BERT's config.json.

    Attributes:
        max_position_embeddings: tokens that an example may have.
        type_vocab_size: 0 has no token types.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    has_pooler: ClassVar[bool] = False

    def with_dropout(self, rate: float) -> Self:
        """The same network with one rate at every dropout."""
        return dataclasses.replace(
            self, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=rate
        )

    @property
    def head_dropout(self) -> float:
        """Rate before a classifier: ``classifier_dropout``, else that of the hidden states."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def embedding_width(self) -> int:
        """Columns of the embedding tables; where they are not ``hidden_size``, a projection follows."""
        return self.hidden_size

    @property
    def position_offset(self) -> int:
        """Row of the position table that an example's first token has."""
        return 0


class EncoderEmbeddings(nn.Module):
    """Sum of word, position and token-type embeddings, normalised, then dropout."""

    config: EncoderConfig
    policy: Policy

    def setup(self) -> None:
        c = self.config
        self.word = self._table(c.vocab_size, pad_rows=True)
        if c.type_vocab_size:
            self.token_type = self._table(c.type_vocab_size)
        self.position = self._table(c.max_position_embeddings + c.position_offset)
        self.norm = LayerNorm(c.layer_norm_eps, self.policy)
        if c.embedding_width != c.hidden_size:
            self.projection = Linear(c.hidden_size, self.policy, stddev=c.initializer_range)

    def _table(self, rows: int, pad_rows: bool = False) -> Embedding:
        c = self.config
        return Embedding(rows, c.embedding_width, self.policy, c.initializer_range, pad_rows)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> Float[Array, "B S D"]:
        c = self.config
        x = self.word(tokens)
        if c.type_vocab_size:
            x = x + self.token_type(token_types)
        x = x + self.position(positions + c.position_offset)
        x = dropout(self.norm(x), c.hidden_dropout_prob, key, site=0)
        return self.projection(x) if c.embedding_width != c.hidden_size else x


class EncoderLayer(nn.Module):
    """One post-norm block: attention, residual, norm; feed-forward, residual, norm.

    Attributes:
        sites: dropouts of one layer.
    """

    config: Any
    policy: Policy
    attention: Attention

    sites: ClassVar[int] = 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], index: Int[Array, ""] | int, _cache: None, context: Any
    ) -> tuple[Float[Array, "B S D"], None]:
        c, key = self.config, context.dropout_key
        site = 1 + self.sites * index
        y = dropout(self._attend(x, context, site), c.hidden_dropout_prob, key, site + 1)
        y = LayerNorm(c.layer_norm_eps, self.policy, name="attention_norm")(x + y)
        z = Linear(c.intermediate_size, self.policy, stddev=c.initializer_range, name="mlp_up")(y)
        z = ACTIVATIONS[c.hidden_act](constrain(z, WIDE))
        z = Linear(c.hidden_size, self.policy, stddev=c.initializer_range, name="mlp_down")(z)
        z = dropout(z, c.hidden_dropout_prob, key, site + 2)
        z = LayerNorm(c.layer_norm_eps, self.policy, name="mlp_norm")(y + z)
        return constrain(self._last(x, z, index, context), HIDDEN), None

    def _attend(self, x: Float[Array, "B S D"], context: Any, site: Array | int) -> Float[Array, "B S D"]:
        """Output of self-attention."""
        c = self.config
        y, _ = MultiHeadAttention(
            c.hidden_size,
            c.num_attention_heads,
            c.hidden_size // c.num_attention_heads,
            self.policy,
            self.attention,
            stddev=c.initializer_range,
            dropout_rate=c.attention_probs_dropout_prob,
            name="attention",
        )(x, context, site)
        return y

    def _last(
        self, x: Float[Array, "B S D"], z: Float[Array, "B S D"], index: Int[Array, ""] | int, context: Any
    ) -> Float[Array, "B S D"]:
        """What a family makes of the layer's input and output."""
        return z


class EncoderModel(BidirectionalBackbone):
    """Embeddings, the layer stack, and for BERT the pooler over the first token of each example."""

    config: EncoderConfig

    def setup(self) -> None:
        c = self.config
        self.embeddings = EncoderEmbeddings(c, self.policy)
        self.layers = self._stack(EncoderLayer, c, self.policy, self.attention)
        if c.has_pooler:
            self.pooler = Linear(c.hidden_size, self.policy, stddev=c.initializer_range)

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
        return self._through(x, whole_rows(segment_ids, key))

    def pool(
        self,
        hidden: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        starts: Int[Array, "B N"] | None,
    ) -> Float[Array, "B N D"]:
        """The hidden state of each example's first token; where there is a pooler, tanh of a dense layer on it."""
        first = super().pool(hidden, segment_ids, starts)
        return jnp.tanh(self.pooler(first)) if self.config.has_pooler else first

    @property
    def table(self) -> Float[Array, "P E"]:
        """Word embeddings."""
        return self.embeddings.word.table


def embedding_map(tied: str) -> tuple[WeightEntry, ...]:
    """Names of the embeddings' tensors.

    Args:
        tied: name under which a masked-word head stores the word table again.
    """
    return (
        WeightEntry(
            "embeddings.word_embeddings.weight", "embeddings/word/embedding", "pad_rows", aliases=(tied,)
        ),
        WeightEntry("embeddings.position_embeddings.weight", "embeddings/position/embedding"),
        WeightEntry("embeddings.token_type_embeddings.weight", "embeddings/token_type/embedding"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
    )


def layer_map(
    layers: int, projections: tuple[str, str, str] = ("query", "key", "value")
) -> tuple[WeightEntry, ...]:
    """Names of the layers' tensors, as BERT has them.

    Args:
        projections: what the linear layers of query, key and value are called.
    """

    def entries() -> Iterator[WeightEntry]:
        for i in range(layers):
            hf, path = f"encoder.layer.{i}", f"layers/{i}"
            for name, our in zip(projections, ("query", "key", "value")):
                yield from linear(f"{hf}.attention.self.{name}", f"{path}/attention/{our}")
            yield from linear(f"{hf}.attention.output.dense", f"{path}/attention/output")
            yield from norm(f"{hf}.attention.output.LayerNorm", f"{path}/attention_norm")
            yield from linear(f"{hf}.intermediate.dense", f"{path}/mlp_up")
            yield from linear(f"{hf}.output.dense", f"{path}/mlp_down")
            yield from norm(f"{hf}.output.LayerNorm", f"{path}/mlp_norm")

    return tuple(entries())
