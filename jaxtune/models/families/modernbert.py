"""ModernBERT (Warner et al. 2024), equal to transformers' ``ModernBertModel`` to rounding.

Rotary positions, a norm before each block, a gated feed-forward; most layers see only a window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention
from jaxtune.models.axes import HIDDEN, WIDE, constrain
from jaxtune.models.bidirectional import BidirectionalBackbone
from jaxtune.models.config_reading import check_divides, read_fields
from jaxtune.models.family import Family
from jaxtune.models.heads import HEAD_SITE, Head, sequence_heads
from jaxtune.models.layers import (
    ACTIVATIONS,
    DropoutKey,
    Embedding,
    LayerNorm,
    Linear,
    Policy,
    dropout,
    padded_vocab,
    vocabulary_logits,
)
from jaxtune.models.multi_head import MultiHeadAttention, Sight, whole_rows
from jaxtune.models.rotary import Rotary, angles, rotary_from_hf
from jaxtune.models.rows import mean_tokens
from jaxtune.models.weight_map import WeightEntry, fused, linear, norm

GLOBAL, LOCAL = "full_attention", "sliding_attention"
_SITES_PER_LAYER = 3
_GLOBAL_ROTARY, _LOCAL_ROTARY = Rotary(160_000.0), Rotary(10_000.0)
_LAYER_TYPES = tuple(LOCAL if i % 3 else GLOBAL for i in range(22))
_THETAS = {
    GLOBAL: ("global_rope_theta", _GLOBAL_ROTARY.theta),
    LOCAL: ("local_rope_theta", _LOCAL_ROTARY.theta),
}
_SUPPORTED = {
    "hidden_activation": tuple(ACTIVATIONS),
    "classifier_activation": tuple(ACTIVATIONS),
    "classifier_pooling": ("cls", "mean"),
    "position_embedding_type": ("absolute", None),
    "tie_word_embeddings": (True,),
}


@dataclasses.dataclass(frozen=True)
class ModernBertConfig:
    """The fields of config.json that shape a ModernBERT; names as there, but for the last two.

    Attributes:
        layer_types: of each layer, ``full_attention`` or ``sliding_attention``.
        local_attention: tokens that a layer with sliding attention sees, half of them on each side.
        global_rotary, local_rotary: the rotary embeddings of the two types of layer.
    """

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    norm_bias: bool = False
    pad_token_id: int = 50283
    attention_bias: bool = False
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    local_attention: int = 128
    layer_types: tuple[str, ...] = _LAYER_TYPES

    global_rotary: Rotary = _GLOBAL_ROTARY
    local_rotary: Rotary = _LOCAL_ROTARY

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> ModernBertConfig:
        """Read a config.json, today's or an older one with ``global_rope_theta`` and its like.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        config = read_fields(
            cls,
            raw,
            supported=_SUPPORTED,
            layer_types=_layer_types(raw),
            global_rotary=_rotary(raw, GLOBAL),
            local_rotary=_rotary(raw, LOCAL),
        )
        check_divides(config, "hidden_size", "num_attention_heads")
        return config

    def with_dropout(self, rate: float) -> ModernBertConfig:
        """The same network with one rate at every dropout."""
        return dataclasses.replace(
            self, attention_dropout=rate, embedding_dropout=rate, mlp_dropout=rate, classifier_dropout=rate
        )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def head_dropout(self) -> float:
        """Rate before a classifier."""
        return self.classifier_dropout


def _layer_types(raw: Mapping[str, Any]) -> tuple[str, ...]:
    layers = raw.get("num_hidden_layers") or ModernBertConfig.num_hidden_layers
    given = raw.get("layer_types")
    if given is None:
        every = raw.get("global_attn_every_n_layers") or 3
        return tuple(LOCAL if i % every else GLOBAL for i in range(layers))
    for name in given:
        if name not in _THETAS:
            raise ValueError(
                f"config.json: layer_types={name!r} is not supported; use one of {GLOBAL}, {LOCAL}"
            )
    if len(given) != layers:
        raise ValueError(f"config.json: layer_types names {len(given)} layers, num_hidden_layers={layers}")
    return tuple(given)


def _rotary(raw: Mapping[str, Any], layer_type: str) -> Rotary:
    """The rotary embedding of a type of layer, from ``rope_parameters`` or from the settings before it."""
    settings = dict((raw.get("rope_parameters") or {}).get(layer_type) or raw.get("rope_scaling") or {})
    name, default = _THETAS[layer_type]
    # A null local theta is the global one, as ModernBERT's first code had it.
    fallback = raw.get("global_rope_theta") if name in raw else None
    theta = raw.get(name) or fallback or default
    context = raw.get("max_position_embeddings") or ModernBertConfig.max_position_embeddings
    return rotary_from_hf({"rope_parameters": settings}, theta=theta, context=context)


@flax.struct.dataclass
class ModernBertContext:
    """What all layers share: who sees whom, and cosine and sine by type of layer."""

    sight: Sight
    angles: dict[str, tuple[Float[Array, "B S 1 h"], Float[Array, "B S 1 h"]]]


class ModernBertLayer(nn.Module):
    """One pre-norm block: attention, then the gated feed-forward, each added to what came in."""

    config: ModernBertConfig
    policy: Policy
    attention: Attention

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], index: int, _cache: None, context: ModernBertContext
    ) -> tuple[Float[Array, "B S D"], None]:
        c, key = self.config, context.sight.dropout_key
        site = 1 + _SITES_PER_LAYER * index
        kind = c.layer_types[index]
        # The embeddings' norm is all that lies before the first layer.
        y = x if index == 0 else self._norm("attention_norm")(x)
        y, _ = MultiHeadAttention(
            c.hidden_size,
            c.num_attention_heads,
            c.head_size,
            self.policy,
            self.attention,
            use_bias=c.attention_bias,
            output_bias=c.attention_bias,
            stddev=c.initializer_range,
            dropout_rate=c.attention_dropout,
            name="attention",
        )(
            y,
            context.sight,
            site,
            angles=context.angles[kind],
            window=c.local_attention // 2 + 1 if kind == LOCAL else None,
        )
        x = x + dropout(y, c.attention_dropout, key, site + 1)
        y = self._norm("mlp_norm")(x)
        gate = ACTIVATIONS[c.hidden_activation](self._linear(c.intermediate_size, "mlp_gate")(y))
        y = constrain(gate * self._linear(c.intermediate_size, "mlp_up")(y), WIDE)
        y = dropout(y, c.mlp_dropout, key, site + 2)
        x = x + self._linear(c.hidden_size, "mlp_down")(y)
        return constrain(x, HIDDEN), None

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.config.norm_eps, self.policy, self.config.norm_bias, name=name)

    def _linear(self, features: int, name: str) -> Linear:
        c = self.config
        return Linear(features, self.policy, c.mlp_bias, c.initializer_range, name=name)


class ModernBertModel(BidirectionalBackbone):
    """Word embeddings and their norm, the layer stack, and a last norm."""

    config: ModernBertConfig

    def setup(self) -> None:
        c = self.config
        self.word = Embedding(c.vocab_size, c.hidden_size, self.policy, c.initializer_range, pad_rows=True)
        self.word_norm = LayerNorm(c.norm_eps, self.policy, c.norm_bias)
        self.layers = self._stack(ModernBertLayer, c, self.policy, self.attention)
        self.norm = LayerNorm(c.norm_eps, self.policy, c.norm_bias)

    def _run(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> Float[Array, "B S D"]:
        """Last hidden states; ``token_types`` are not used."""
        c = self.config
        x = dropout(self.word_norm(self.word(tokens)), c.embedding_dropout, key, site=0)
        x = constrain(x, HIDDEN)
        turns = {
            GLOBAL: angles(positions, c.global_rotary, c.head_size),
            LOCAL: angles(positions, c.local_rotary, c.head_size),
        }
        return self.norm(self._through(x, ModernBertContext(whole_rows(segment_ids, key), turns)))

    def pool(
        self,
        hidden: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        starts: Int[Array, "B N"] | None,
    ) -> Float[Array, "B N D"]:
        """The first token of each example, or the mean of all its tokens."""
        if self.config.classifier_pooling == "mean":
            return mean_tokens(hidden, segment_ids, starts)
        return super().pool(hidden, segment_ids, starts)


class _HeadTransform(nn.Module):
    """What every head begins with: a dense layer, its activation, a norm."""

    config: ModernBertConfig
    policy: Policy

    def setup(self) -> None:
        c = self.config
        # Deep in a residual network: smaller by sqrt(2L), as in the original.
        stddev = c.initializer_range * (2.0 * c.num_hidden_layers) ** -0.5
        self.dense = Linear(c.hidden_size, self.policy, c.classifier_bias, stddev)
        self.norm = LayerNorm(c.norm_eps, self.policy, c.norm_bias)

    def transform(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return self.norm(ACTIVATIONS[self.config.classifier_activation](self.dense(x)))


class _Classifier(_HeadTransform):
    """The transform, dropout, and a linear layer with a bias."""

    features: int = 0

    def setup(self) -> None:
        super().setup()
        self.classifier = Linear(self.features, self.policy, stddev=self.config.hidden_size**-0.5)

    def __call__(self, x: Float[Array, "B N D"], key: DropoutKey | None) -> Float[Array, "B N C"]:
        x = dropout(self.transform(x), self.config.classifier_dropout, key, HEAD_SITE)
        return self.classifier(x)


class ModernBertSequenceHead(_Classifier):
    """A classifier of examples."""

    reads: ClassVar[str] = "example"


class ModernBertTokenHead(_Classifier):
    """A classifier of tokens; a span head has two outputs, start and end."""

    reads: ClassVar[str] = "tokens"


class ModernBertWordHead(_HeadTransform):
    """The transform, then scores against the word table, and a bias if ``decoder_bias``."""

    reads: ClassVar[str] = "words"

    def setup(self) -> None:
        super().setup()
        if self.config.decoder_bias:
            shape = (padded_vocab(self.config.vocab_size),)
            self.bias = self.param("bias", nn.initializers.zeros, shape, self.policy.param_dtype)

    def __call__(self, hidden: Float[Array, "B S D"], table: Float[Array, "P D"]) -> Float[Array, "B S P"]:
        bias = self.bias if self.config.decoder_bias else None
        return vocabulary_logits(
            self.transform(hidden), table, self.config.vocab_size, self.policy, bias=bias
        )


def weight_map(config: ModernBertConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``ModernBertModel`` in a Hugging Face checkpoint."""
    return tuple(_entries(config))


def _entries(c: ModernBertConfig) -> Iterator[WeightEntry]:
    words = "embeddings.tok_embeddings.weight"
    yield WeightEntry(words, "word/embedding", "pad_rows", aliases=("decoder.weight",))
    yield from norm("embeddings.norm", "word_norm", bias=c.norm_bias)
    for i in range(c.num_hidden_layers):
        hf, path = f"layers.{i}", f"layers/{i}"
        projections = tuple(f"{path}/attention/{name}" for name in ("query", "key", "value"))
        if i > 0:
            yield from norm(f"{hf}.attn_norm", f"{path}/attention_norm", bias=c.norm_bias)
        yield from fused(f"{hf}.attn.Wqkv", projections, transpose=True, bias=c.attention_bias)
        yield from linear(f"{hf}.attn.Wo", f"{path}/attention/output", bias=c.attention_bias)
        yield from norm(f"{hf}.mlp_norm", f"{path}/mlp_norm", bias=c.norm_bias)
        gated = (f"{path}/mlp_gate", f"{path}/mlp_up")
        yield from fused(f"{hf}.mlp.Wi", gated, transpose=True, bias=c.mlp_bias)
        yield from linear(f"{hf}.mlp.Wo", f"{path}/mlp_down", bias=c.mlp_bias)
    yield from norm("final_norm", "norm", bias=c.norm_bias)


def _transform_map(c: ModernBertConfig) -> tuple[WeightEntry, ...]:
    return (
        *linear("head.dense", "dense", bias=c.classifier_bias),
        *norm("head.norm", "norm", bias=c.norm_bias),
    )


def _classifier_map(c: ModernBertConfig) -> tuple[WeightEntry, ...]:
    return (*_transform_map(c), *linear("classifier", "classifier"))


def _word_map(c: ModernBertConfig) -> tuple[WeightEntry, ...]:
    bias = (WeightEntry("decoder.bias", "bias", "pad_rows"),) if c.decoder_bias else ()
    return (*_transform_map(c), *bias)


def _sequence_head(config: ModernBertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return ModernBertSequenceHead(config, policy, num_labels, name=name)


def _token_head(config: ModernBertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return ModernBertTokenHead(config, policy, num_labels, name=name)


def _word_head(config: ModernBertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return ModernBertWordHead(config, policy, name=name)


MODERNBERT = Family(
    model_type="modernbert",
    kind="encoder",
    config_class=ModernBertConfig,
    backbone=ModernBertModel,
    weight_map=weight_map,
    prefix="model.",
    base_architecture="ModernBertModel",
    heads={
        **sequence_heads("ModernBertForSequenceClassification", _sequence_head, _classifier_map),
        "token_classification": Head("ModernBertForTokenClassification", _token_head, _classifier_map),
        "span": Head("ModernBertForQuestionAnswering", _token_head, _classifier_map),
        "mlm": Head("ModernBertForMaskedLM", _word_head, _word_map),
    },
    # The first layer has no norm before its attention.
    scannable=lambda config: False,
)
