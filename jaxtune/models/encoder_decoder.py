"""The encoder-decoder of Vaswani et al. (2017) in all its later forms.

T5, BART, mBART, Marian, Pegasus and a Transformer from scratch differ by settings of
``EncoderDecoderConfig``; each family's file reads its config.json into one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Self

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention, plain_attention
from jaxtune.models.axes import HIDDEN, WIDE, constrain
from jaxtune.models.cache import Cache, KeyValues, empty_cache
from jaxtune.models.family import Family
from jaxtune.models.heads import Head, WordHead
from jaxtune.models.layer_stack import layer_stack
from jaxtune.models.layers import (
    ACTIVATIONS,
    DropoutKey,
    Embedding,
    LayerNorm,
    Linear,
    Policy,
    RMSNorm,
    dropout,
)
from jaxtune.models.multi_head import MultiHeadAttention, Sight, next_tokens, whole_rows
from jaxtune.models.relative_positions import relative_bias
from jaxtune.models.rows import row_positions
from jaxtune.models.weight_map import WeightEntry

POSITION_OFFSET = 2
"""Rows of a learned position table that no position uses; BART inherited them from fairseq."""
_SITES_PER_LAYER = 8
_DECODER_SITES = 1 << 16
_LAST_SITE = 1 << 15

Positions = Literal["learned", "sinusoidal", "relative"]


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """What shapes an encoder-decoder; the second block is no option of a family's config.json, or worked out.

    Attributes:
        num_hidden_layers, num_attention_heads, intermediate_size: of the encoder, and of the decoder
            where none of its own is given.
        head_dim: size of a head; none is hidden_size / number of heads.
        initializer_range: see ``stddev`` and ``table_stddev``.
        dropout: on embeddings and on what each block adds; ``activation_dropout`` within the feed-forward.
        encoder_layerdrop, decoder_layerdrop: how often a whole layer is left out in training (Fan et al. 2020).
        scale_embedding: multiply word embeddings by sqrt(hidden_size).
        tie_word_embeddings: logits come from the decoder's word table.
        share_embeddings: encoder and decoder have one word table.
        pre_norm: normalise what a block reads (else what comes out of the addition).
        embedding_norm, final_norm: normalise the embeddings, and the output of the last layer.
        final_dropout: dropout on that output too.
        rms_norm, use_bias, gated: kind of all norms, biases of all projections, a gated feed-forward.
        attention_scale: factor of the scores; none is 1/sqrt(size of a head).
        logits_scale, logits_bias: see ``WordHead``.
        relative_buckets, relative_max_distance: of relative positions.
    """

    vocab_size: int = 32000
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_decoder_layers: int | None = None
    num_attention_heads: int = 8
    decoder_attention_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int = 2048
    decoder_intermediate_size: int | None = None
    hidden_act: str = "relu"
    max_position_embeddings: int | None = 1024
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    scale_embedding: bool = False
    tie_word_embeddings: bool = True
    share_embeddings: bool = True
    pad_token_id: int | None = None

    positions: Positions = "learned"
    pre_norm: bool = False
    embedding_norm: bool = False
    final_norm: bool = False
    final_dropout: bool = False
    rms_norm: bool = False
    use_bias: bool = True
    gated: bool = False
    attention_scale: float | None = None
    logits_scale: float = 1.0
    logits_bias: bool = False
    relative_buckets: int = 32
    relative_max_distance: int = 128

    def with_dropout(self, rate: float) -> Self:
        """The same network with one rate at every dropout; layers are left out only where they were before."""
        return dataclasses.replace(
            self,
            dropout=rate,
            attention_dropout=rate,
            activation_dropout=rate,
            encoder_layerdrop=self.encoder_layerdrop if rate else 0.0,
            decoder_layerdrop=self.decoder_layerdrop if rate else 0.0,
        )

    def side(self, decoder: bool) -> Side:
        """The sizes of the encoder or of the decoder."""
        layers, heads, inner = self.num_hidden_layers, self.num_attention_heads, self.intermediate_size
        if decoder:
            layers = layers if self.num_decoder_layers is None else self.num_decoder_layers
            heads = heads if self.decoder_attention_heads is None else self.decoder_attention_heads
            inner = inner if self.decoder_intermediate_size is None else self.decoder_intermediate_size
        drop = self.decoder_layerdrop if decoder else self.encoder_layerdrop
        return Side(layers, heads, self.head_dim or self.hidden_size // heads, inner, drop)

    def stddev(self, inputs: int, outputs: int) -> float:
        """Of a fresh [inputs, outputs] kernel."""
        return self.initializer_range

    @property
    def query_stddev(self) -> float | None:
        """Of a fresh query kernel, where it is another."""
        return None

    @property
    def table_stddev(self) -> float:
        """Of fresh word embeddings."""
        return self.initializer_range


@dataclasses.dataclass(frozen=True)
class Side:
    """Sizes of the encoder or of the decoder, see ``EncoderDecoderConfig``."""

    layers: int
    heads: int
    head_size: int
    intermediate_size: int
    layerdrop: float


@flax.struct.dataclass
class Context:
    """What all layers of one side share.

    Attributes:
        sight, cross_sight: who sees whom in self-attention, and of the encoded text.
        encoded: the encoded text; none where the cache has its keys and values.
        bias: of self-attention's scores, from relative positions.
        memory_only: let each layer give the keys and values of ``encoded``, and do nothing else.
    """

    sight: Sight
    cross_sight: Sight | None = None
    encoded: Float[Array, "B T D"] | None = None
    bias: Float[Array, "H S T"] | None = None
    memory_only: bool = flax.struct.field(pytree_node=False, default=False)


class Layer(nn.Module):
    """Self-attention, in the decoder attention to the encoded text, and the feed-forward, each added to its input."""

    config: EncoderDecoderConfig
    policy: Policy
    attention: Attention
    decoder: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], index: Int[Array, ""] | int, cache: Any, context: Context
    ) -> tuple[Float[Array, "B S D"], KeyValues | None]:
        """The cache is a pair: self-attention's keys and values, and those of the encoded text."""
        c, key = self.config, context.sight.dropout_key
        cross = self._attention("cross_attention") if self.decoder else None
        if cross is not None and context.memory_only:
            return x, _memory(cross, context)
        own, memory = (None, None) if cache is None else cache
        site = 1 + _SITES_PER_LAYER * index + (_DECODER_SITES if self.decoder else 0)
        norm = self._norm("attention_norm")
        y, own = self._attention("attention")(
            self._before(norm, x), context.sight, site, cache=own, bias=context.bias
        )
        y = self._added(norm, x, y, key, site + 1)
        if cross is not None and context.cross_sight is not None:
            norm = self._norm("cross_attention_norm")
            memory = _memory(cross, context) if memory is None else memory
            seen, _ = cross(self._before(norm, y), context.cross_sight, site + 2, memory=memory)
            y = self._added(norm, y, seen, key, site + 3)
        norm = self._norm("mlp_norm")
        inner = self._feed_forward(self._before(norm, y), key, site + 4)
        y = self._added(norm, y, inner, key, site + 5)
        rate = c.side(self.decoder).layerdrop
        if key is not None and rate:
            y = jnp.where(dropout(jnp.ones((1,)), rate, key, site + 6) > 0, y, x)
        return constrain(y, HIDDEN), own

    def _norm(self, name: str) -> nn.Module:
        return (RMSNorm if self.config.rms_norm else LayerNorm)(self.config.norm_eps, self.policy, name=name)

    def _before(self, norm: nn.Module, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return norm(x) if self.config.pre_norm else x

    def _added(self, norm: nn.Module, x: Array, y: Array, key: DropoutKey | None, site: Array | int) -> Array:
        x = x + dropout(y, self.config.dropout, key, site)
        return x if self.config.pre_norm else norm(x)

    def _attention(self, name: str) -> MultiHeadAttention:
        c, side = self.config, self.config.side(self.decoder)
        return MultiHeadAttention(
            c.hidden_size,
            side.heads,
            side.head_size,
            self.policy,
            self.attention,
            use_bias=c.use_bias,
            output_bias=c.use_bias,
            stddev=c.stddev(c.hidden_size, side.heads * side.head_size),
            query_stddev=c.query_stddev,
            scale=c.attention_scale,
            causal=self.decoder and name == "attention",
            dropout_rate=c.attention_dropout,
            name=name,
        )

    def _feed_forward(
        self, x: Float[Array, "B S D"], key: DropoutKey | None, site: Array | int
    ) -> Float[Array, "B S D"]:
        c, inner = self.config, self.config.side(self.decoder).intermediate_size

        def project(x: Array, features: int, name: str) -> Array:
            stddev = c.stddev(x.shape[-1], features)
            return Linear(features, self.policy, c.use_bias, stddev, name=name)(x)

        y = project(x, inner, "mlp_up")
        if c.gated:
            y = ACTIVATIONS[c.hidden_act](project(x, inner, "mlp_gate")) * y
        else:
            y = ACTIVATIONS[c.hidden_act](y)
        y = dropout(constrain(y, WIDE), c.activation_dropout, key, site)
        return project(y, c.hidden_size, "mlp_down")


class Stack(nn.Module):
    """The encoder, or the decoder: positions, the layers, and perhaps a last norm."""

    config: EncoderDecoderConfig
    policy: Policy
    scan_layers: bool
    remat: str
    attention: Attention
    decoder: bool

    def setup(self) -> None:
        c, side = self.config, self.config.side(self.decoder)
        if not c.share_embeddings:
            self.word = word_table(c, self.policy)
        if c.positions == "learned":
            rows = (c.max_position_embeddings or 0) + POSITION_OFFSET
            self.position = Embedding(rows, c.hidden_size, self.policy, c.table_stddev)
        if c.positions == "relative":
            stddev = c.stddev(c.hidden_size, side.heads)
            self.relative_bias = Embedding(c.relative_buckets, side.heads, self.policy, stddev)
        if c.embedding_norm:
            self.embedding_norm = LayerNorm(c.norm_eps, self.policy)
        self.layers = layer_stack(
            Layer,
            (c, self.policy, self.attention, self.decoder),
            side.layers,
            scan=self.scan_layers,
            remat=self.remat,
        )
        if c.final_norm:
            self.norm = (RMSNorm if c.rms_norm else LayerNorm)(c.norm_eps, self.policy)

    def __call__(
        self, words: Float[Array, "B S D"], positions: Int[Array, "B S"], context: Context, caches: Any
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Hidden states, and the caches of self-attention (a tuple, one of each layer)."""
        c, key = self.config, context.sight.dropout_key
        first = _DECODER_SITES if self.decoder else 0
        x = dropout(self._embedded(words, positions), c.dropout, key, first)
        x = constrain(x, HIDDEN)
        if c.positions == "relative":
            keys = words.shape[1] if caches is None else caches[0][0].keys.shape[1]
            before = 0 if context.sight.offset is None else context.sight.offset
            bias = self._bias(words.shape[1], keys, before)
            context = context.replace(bias=bias)  # type: ignore[attr-defined]
        x, caches = self._through(x, caches, context)
        if c.final_norm:
            x = self.norm(x)
        return (dropout(x, c.dropout, key, first + _LAST_SITE) if c.final_dropout else x), caches

    def memories(self, encoded: Float[Array, "B T D"]) -> tuple[KeyValues, ...]:
        """Keys and values of the encoded text, one pair per layer."""
        context = Context(Sight(), encoded=encoded, memory_only=True)
        return self._through(encoded, (None,) * self.config.side(self.decoder).layers, context)[1]

    def _through(
        self, x: Float[Array, "B S D"], caches: Any, context: Context
    ) -> tuple[Float[Array, "B S D"], Any]:
        count = self.config.side(self.decoder).layers
        if caches is None or not self.scan_layers:
            return self.layers(x, jnp.arange(count), caches, context)
        stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *caches)
        x, stacked = self.layers(x, jnp.arange(count), stacked, context)
        return x, tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count))

    def _embedded(self, x: Float[Array, "B S D"], positions: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        c = self.config
        if c.scale_embedding:
            x = x * jnp.asarray(c.hidden_size**0.5, x.dtype)
        if c.positions == "learned":
            x = x + self.position(positions + POSITION_OFFSET)
        elif c.positions == "sinusoidal":
            table = jnp.asarray(sinusoids(c.max_position_embeddings or 0, c.hidden_size), x.dtype)
            x = x + jnp.take(table, positions, axis=0, mode="clip")
        return self.embedding_norm(x) if c.embedding_norm else x

    def _bias(self, queries: int, keys: int, offset: Int[Array, ""] | int) -> Float[Array, "H S T"]:
        return relative_bias(
            self.relative_bias,
            queries,
            keys,
            offset,
            bidirectional=not self.decoder,
            max_distance=self.config.relative_max_distance,
        )


class EncoderDecoderModel(nn.Module):
    """Word embeddings, the encoder and the decoder."""

    config: EncoderDecoderConfig
    policy: Policy = Policy()
    scan_layers: bool = False
    remat: str = "none"
    attention: Attention = plain_attention

    def setup(self) -> None:
        c = self.config
        form = (c, self.policy, self.scan_layers, self.remat, self.attention)
        if c.share_embeddings:
            self.word = word_table(c, self.policy)
        self.encoder = Stack(*form, decoder=False)
        self.decoder = Stack(*form, decoder=True)

    def _word_of(self, side: Stack) -> Embedding:
        return self.word if self.config.share_embeddings else side.word

    def encode(
        self,
        tokens: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        key: DropoutKey | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states of the encoder."""
        words = self._word_of(self.encoder)(tokens)
        context = Context(whole_rows(segment_ids, key))
        return self.encoder(words, row_positions(tokens, positions), context, None)[0]

    def decode(
        self,
        decoder_tokens: Int[Array, "B S"],
        decoder_segment_ids: Int[Array, "B S"],
        decoder_positions: Int[Array, "B S"] | None,
        encoded: Float[Array, "B T D"],
        segment_ids: Int[Array, "B T"],
        key: DropoutKey | None = None,
    ) -> Float[Array, "B S D"]:
        """Hidden states of the decoder; each example sees the encoded text of its own segment id."""
        cross_sight = Sight(decoder_segment_ids, segment_ids, dropout_key=key)
        context = Context(whole_rows(decoder_segment_ids, key), cross_sight, encoded)
        words = self._word_of(self.decoder)(decoder_tokens)
        return self.decoder(words, row_positions(decoder_tokens, decoder_positions), context, None)[0]

    def cross(self, encoded: Float[Array, "B T D"]) -> tuple[KeyValues, ...]:
        """What the decoder's layers see of the encoded text, for a cache."""
        return self.decoder.memories(encoded)

    def extend(
        self, tokens: Int[Array, "B S"], segment_ids: Int[Array, "B S"], cache: Cache
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Hidden states of the next S decoder tokens, and the cache that holds them too."""
        positions = row_positions(tokens, None) + cache.index
        sight, advanced = next_tokens(cache, segment_ids)
        context = Context(sight, Sight(segment_ids, cache.cross_segment_ids))
        words = self._word_of(self.decoder)(tokens)
        pairs = tuple(zip(cache.layers, cache.cross or (), strict=True))
        hidden, layers = self.decoder(words, positions, context, pairs)
        return hidden, advanced.replace(layers=layers)  # type: ignore[attr-defined]

    @property
    def table(self) -> Float[Array, "P D"]:
        """Word embeddings of the decoder."""
        return self._word_of(self.decoder).table


def _memory(cross: MultiHeadAttention, context: Context) -> KeyValues:
    assert context.encoded is not None, "neither the encoded text nor a cache of its keys and values"
    return cross.keys_and_values(context.encoded)


def word_table(config: EncoderDecoderConfig, policy: Policy) -> Embedding:
    """A fresh word table."""
    return Embedding(config.vocab_size, config.hidden_size, policy, config.table_stddev, pad_rows=True)


def sinusoids(length: int, size: int) -> np.ndarray:
    """Position vectors of Vaswani et al. (2017), float32 [length, size]: all sines, then all cosines.

    The paper has them in turns; which is which makes no difference to a model that is trained so.
    """
    angle = np.arange(length)[:, None] / np.power(10000.0, np.arange(0, size, 2) / size)
    return np.concatenate([np.sin(angle), np.cos(angle[:, : size // 2])], axis=1).astype(np.float32)


def encoder_decoder_family(
    model_type: str,
    config_class: Any,
    architecture: str,
    base_architecture: str,
    weight_map: Callable[[Any], tuple[WeightEntry, ...]],
    word_map: Callable[[Any], tuple[WeightEntry, ...]],
    prefix: str,
) -> Family:
    """A family that differs from the others by its configuration and its names alone.

    Args:
        word_map: names of the tensors of the head over the vocabulary.
    """

    def words(config: EncoderDecoderConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
        c = config
        return WordHead(
            c.vocab_size,
            c.hidden_size,
            c.table_stddev,
            policy,
            tied=c.tie_word_embeddings,
            scale=c.logits_scale,
            use_bias=c.logits_bias,
            name=name,
        )

    def cache(config: EncoderDecoderConfig, batch: int, length: int, dtype: Any) -> Cache:
        side = config.side(decoder=True)
        return empty_cache(side.layers, batch, length, side.heads, side.head_size, dtype)

    return Family(
        model_type=model_type,
        kind="encoder_decoder",
        config_class=config_class,
        backbone=EncoderDecoderModel,
        weight_map=weight_map,
        prefix=prefix,
        base_architecture=base_architecture,
        heads={"seq2seq_lm": Head(architecture, words, word_map)},
        empty_cache=cache,
    )
