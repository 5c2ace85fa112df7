"""The decoder that Llama made common: rotary positions, RMSNorm before each block, a gated feed-forward.

Mistral, Qwen and Gemma differ from it by settings of ``DecoderConfig``; each family's file reads its
config.json into one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention
from jaxtune.models.axes import HIDDEN, WIDE, constrain
from jaxtune.models.cache import Cache, empty_cache
from jaxtune.models.causal import CausalBackbone, next_word_head
from jaxtune.models.config_reading import check_divides
from jaxtune.models.family import Family
from jaxtune.models.heads import SequenceHead, sequence_heads
from jaxtune.models.layer_stack import layer_stack, of_layer
from jaxtune.models.layers import ACTIVATIONS, Embedding, Linear, Policy, RMSNorm
from jaxtune.models.multi_head import MultiHeadAttention, Sight
from jaxtune.models.rotary import Rotary, angles
from jaxtune.models.weight_map import WeightEntry, linear, norm

NO_WINDOW = 1 << 30
_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """What shapes a decoder; the first block is named as in config.json, the second is worked out from it.

    Attributes:
        windows: of each layer, how far it sees; none for all (or ``NO_WINDOW`` where another layer has one).
        rotaries: the rotary embeddings there are, and ``rotary_of`` which of them each layer uses.
        attention_bias, output_bias: of the query, key and value projections, and of attention's output.
        head_norm: normalise each head's query and key.
        norm_offset: 1 where the factor of a norm is 1 + scale.
        post_norms: normalise the output of each block too, before it is added.
        embedding_scale: factor of the word embeddings.
        attention_scale: factor of the scores; none is 1/sqrt(head_dim).
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int | None = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_dropout: float = 0.0
    pad_token_id: int | None = None

    windows: tuple[int, ...] | None = None
    rotaries: tuple[Rotary, ...] = (Rotary(),)
    rotary_of: tuple[int, ...] | None = None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norm: bool = False
    norm_offset: float = 0.0
    post_norms: bool = False
    embedding_scale: float | None = None
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    final_soft_cap: float | None = None

    def __post_init__(self) -> None:
        check_divides(self, "num_attention_heads", "num_key_value_heads")
        if self.head_dim % 2:
            raise ValueError(
                f"config.json: head_dim={self.head_dim} is odd, and rotary embeddings turn pairs of numbers"
            )

    def with_dropout(self, rate: float) -> Self:
        """The same network with this rate at its only dropout, that of attention."""
        return dataclasses.replace(self, attention_dropout=rate)

    @property
    def head_dropout(self) -> float:
        """Rate before a classifier; these families have none."""
        return 0.0


@flax.struct.dataclass
class DecoderContext:
    """What all layers share: who sees whom, and the angles of each rotary embedding."""

    sight: Sight
    cos: tuple[Float[Array, "B S 1 h"], ...]
    sin: tuple[Float[Array, "B S 1 h"], ...]


class DecoderLayer(nn.Module):
    """One pre-norm block: attention, then a gated feed-forward, each added to what came in."""

    config: DecoderConfig
    policy: Policy
    attention: Attention

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], index: Int[Array, ""] | int, cache: Any, context: DecoderContext
    ) -> tuple[Float[Array, "B S D"], Any]:
        c = self.config
        y, cache = self._attention()(
            self._norm("attention_norm")(x),
            context.sight,
            1 + index,
            cache=cache,
            angles=self._angles(context, index),
            window=None if c.windows is None else of_layer(c.windows, index),
        )
        x = x + (self._norm("attention_post_norm")(y) if c.post_norms else y)
        y = self._feed_forward(self._norm("mlp_norm")(x))
        x = x + (self._norm("mlp_post_norm")(y) if c.post_norms else y)
        return constrain(x, HIDDEN), cache

    def _norm(self, name: str) -> RMSNorm:
        return RMSNorm(self.config.rms_norm_eps, self.policy, self.config.norm_offset, name=name)

    def _attention(self) -> MultiHeadAttention:
        c = self.config

        def head_norm(name: str) -> RMSNorm:
            return RMSNorm(c.rms_norm_eps, self.policy, c.norm_offset, name=name)

        return MultiHeadAttention(
            c.hidden_size,
            c.num_attention_heads,
            c.head_dim,
            self.policy,
            self.attention,
            num_kv_heads=c.num_key_value_heads,
            use_bias=c.attention_bias,
            output_bias=c.output_bias,
            stddev=c.initializer_range,
            norm=head_norm if c.head_norm else None,
            scale=c.attention_scale,
            soft_cap=c.attention_soft_cap,
            causal=True,
            dropout_rate=c.attention_dropout,
            name="attention",
        )

    def _angles(self, context: DecoderContext, index: Int[Array, ""] | int) -> tuple[Array, Array]:
        if self.config.rotary_of is None:
            return context.cos[0], context.sin[0]
        which = of_layer(self.config.rotary_of, index)
        if isinstance(which, int):
            return context.cos[which], context.sin[which]
        return jnp.stack(context.cos)[which], jnp.stack(context.sin)[which]

    def _feed_forward(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        c = self.config

        def project(features: int, name: str) -> Linear:
            return Linear(features, self.policy, c.mlp_bias, c.initializer_range, name=name)

        gate = ACTIVATIONS[c.hidden_act](project(c.intermediate_size, "mlp_gate")(x))
        wide = constrain(gate * project(c.intermediate_size, "mlp_up")(x), WIDE)
        return project(c.hidden_size, "mlp_down")(wide)


class DecoderModel(CausalBackbone):
    """Word embeddings, the layer stack, and a last norm."""

    def setup(self) -> None:
        c = self.config
        self.word = Embedding(c.vocab_size, c.hidden_size, self.policy, c.initializer_range, pad_rows=True)
        self.layers = layer_stack(
            DecoderLayer,
            (c, self.policy, self.attention),
            c.num_hidden_layers,
            scan=self.scan_layers,
            remat=self.remat,
        )
        self.norm = RMSNorm(c.rms_norm_eps, self.policy, c.norm_offset)

    def _run(
        self, tokens: Int[Array, "B S"], positions: Int[Array, "B S"], sight: Sight, caches: Any
    ) -> tuple[Float[Array, "B S D"], Any]:
        c = self.config
        x = self.word(tokens)
        if c.embedding_scale is not None:
            x = x * jnp.asarray(c.embedding_scale, x.dtype)
        x = constrain(x, HIDDEN)
        turns = [angles(positions, rotary, c.head_dim) for rotary in c.rotaries]
        context = DecoderContext(sight, tuple(cos for cos, _ in turns), tuple(sin for _, sin in turns))
        x, caches = self.layers(x, jnp.arange(c.num_hidden_layers), caches, context)
        return self.norm(x), caches


def weight_map(config: DecoderConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``DecoderModel`` in a Hugging Face checkpoint."""
    tied = ("lm_head.weight",) if config.tie_word_embeddings else ()
    entries = [WeightEntry("embed_tokens.weight", "word/embedding", "pad_rows", aliases=tied)]
    # With norms on both sides, "post_attention_layernorm" is the one after attention, not before the feed-forward.
    norms = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
    if config.post_norms:
        norms |= {
            "post_attention_layernorm": "attention_post_norm",
            "pre_feedforward_layernorm": "mlp_norm",
            "post_feedforward_layernorm": "mlp_post_norm",
        }
    for i in range(config.num_hidden_layers):
        hf, path = f"layers.{i}", f"layers/{i}"
        for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
            entries += linear(
                f"{hf}.self_attn.{short}_proj", f"{path}/attention/{name}", bias=config.attention_bias
            )
        entries += linear(f"{hf}.self_attn.o_proj", f"{path}/attention/output", bias=config.output_bias)
        if config.head_norm:
            entries += norm(f"{hf}.self_attn.q_norm", f"{path}/attention/query_norm", bias=False)
            entries += norm(f"{hf}.self_attn.k_norm", f"{path}/attention/key_norm", bias=False)
        for name in ("gate", "up", "down"):
            entries += linear(f"{hf}.mlp.{name}_proj", f"{path}/mlp_{name}", bias=config.mlp_bias)
        for hf_norm, our_norm in norms.items():
            entries += norm(f"{hf}.{hf_norm}", f"{path}/{our_norm}", bias=False)
    entries += norm("norm", "norm", bias=False)
    return tuple(entries)


def head_settings(raw: Mapping[str, Any], *, width: int, heads: int) -> dict[str, Any]:
    """Numbers of heads and their size, which config.json may leave to be worked out.

    Args:
        width, heads: the family's defaults of hidden_size and num_attention_heads.
    """
    heads = raw.get("num_attention_heads") or heads
    width = raw.get("hidden_size") or width
    return {
        "num_key_value_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": raw.get("head_dim") or width // heads,
    }


def layer_windows(layer_types: Sequence[str], window: int | None) -> tuple[int, ...] | None:
    """How far each layer sees, from its type; none where all see everything.

    Raises:
        ValueError: a type of layer that is not supported, or a sliding one without a window.
    """
    for kind in layer_types:
        if kind not in _LAYER_TYPES:
            raise ValueError(
                f"config.json: layer_types has {kind!r}, which is not supported; use one of {_LAYER_TYPES}"
            )
    if "sliding_attention" not in layer_types:
        return None
    if not window:
        raise ValueError("config.json: layer_types has sliding_attention, but sliding_window is not set")
    return tuple(window if kind == "sliding_attention" else NO_WINDOW for kind in layer_types)


def alternating(layers: int, period: int) -> tuple[str, ...]:
    """Types of layers where every ``period``-th sees everything and the others have a window."""
    return tuple(_LAYER_TYPES[(i + 1) % period != 0] for i in range(layers))


def decoder_family(model_type: str, config_class: Any, name: str, text_name: str | None = None) -> Family:
    """A family that differs from the others by its configuration alone.

    Args:
        name: beginning of Hugging Face's class names, as in LlamaForCausalLM.
        text_name: that of the other classes, where they have another (Gemma3TextModel).
    """

    def sequence(config: DecoderConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
        return SequenceHead(num_labels, 0.0, config.initializer_range, policy, use_bias=False, name=name)

    def cache(config: DecoderConfig, batch: int, length: int, dtype: Any) -> Cache:
        c = config
        return empty_cache(c.num_hidden_layers, batch, length, c.num_key_value_heads, c.head_dim, dtype)

    return Family(
        model_type=model_type,
        kind="decoder",
        config_class=config_class,
        backbone=DecoderModel,
        weight_map=weight_map,
        prefix="model.",
        base_architecture=f"{text_name or name}Model",
        heads={
            "causal_lm": next_word_head(f"{name}ForCausalLM"),
            **sequence_heads(
                f"{text_name or name}ForSequenceClassification",
                sequence,
                lambda config: linear("score", "classifier", bias=False),
            ),
        },
        empty_cache=cache,
    )
