"""GPT-2 (Radford et al. 2019), equal to transformers' ``GPT2Model`` to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention
from jaxtune.models.axes import HIDDEN, WIDE, constrain
from jaxtune.models.cache import Cache, empty_cache
from jaxtune.models.causal import CausalBackbone, next_word_head
from jaxtune.models.config_reading import check_divides, read_fields
from jaxtune.models.family import Family
from jaxtune.models.heads import Head, SequenceHead, TokenHead, sequence_heads
from jaxtune.models.layer_stack import layer_stack
from jaxtune.models.layers import ACTIVATIONS, Embedding, LayerNorm, Linear, Policy, dropout
from jaxtune.models.multi_head import MultiHeadAttention, Sight
from jaxtune.models.weight_map import WeightEntry, fused, linear, norm

_SITES_PER_LAYER = 3
_RENAMED = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
}


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """The fields of config.json that shape a GPT-2, under the names that other families use."""

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 1024
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    classifier_dropout: float | None = None
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> GPT2Config:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        supported = {
            "activation_function": tuple(ACTIVATIONS),
            "add_cross_attention": (False,),
            "scale_attn_by_inverse_layer_idx": (False,),
        }
        inner = raw.get("n_inner") or 4 * (raw.get("n_embd") or 768)
        config = read_fields(cls, raw, renamed=_RENAMED, supported=supported, intermediate_size=inner)
        check_divides(config, "hidden_size", "num_attention_heads")
        return config

    def with_dropout(self, rate: float) -> GPT2Config:
        """The same network with one rate at every dropout."""
        return dataclasses.replace(
            self, resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate, classifier_dropout=rate
        )

    @property
    def final_soft_cap(self) -> None:
        """Of the logits: GPT-2 has none."""

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def head_dropout(self) -> float:
        """Rate before a token classifier."""
        return 0.1 if self.classifier_dropout is None else self.classifier_dropout


class GPT2Layer(nn.Module):
    """One pre-norm block: attention, then the feed-forward, each added to what came in."""

    config: GPT2Config
    policy: Policy
    attention: Attention

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], index: Int[Array, ""] | int, cache: Any, sight: Sight
    ) -> tuple[Float[Array, "B S D"], Any]:
        c, key = self.config, sight.dropout_key
        site = 1 + _SITES_PER_LAYER * index
        y = LayerNorm(c.layer_norm_epsilon, self.policy, name="attention_norm")(x)
        y, cache = MultiHeadAttention(
            c.hidden_size,
            c.num_attention_heads,
            c.head_size,
            self.policy,
            self.attention,
            stddev=c.initializer_range,
            scale=None if c.scale_attn_weights else 1.0,
            causal=True,
            dropout_rate=c.attn_pdrop,
            name="attention",
        )(y, sight, site, cache=cache)
        x = x + dropout(y, c.resid_pdrop, key, site + 1)
        y = LayerNorm(c.layer_norm_epsilon, self.policy, name="mlp_norm")(x)
        y = Linear(c.intermediate_size, self.policy, stddev=c.initializer_range, name="mlp_up")(y)
        y = ACTIVATIONS[c.hidden_act](constrain(y, WIDE))
        y = Linear(c.hidden_size, self.policy, stddev=c.initializer_range, name="mlp_down")(y)
        x = x + dropout(y, c.resid_pdrop, key, site + 2)
        return constrain(x, HIDDEN), cache


class GPT2Model(CausalBackbone):
    """Word and position embeddings, the layer stack, and a last norm."""

    def setup(self) -> None:
        c = self.config
        self.word = Embedding(c.vocab_size, c.hidden_size, self.policy, c.initializer_range, pad_rows=True)
        self.position = Embedding(c.max_position_embeddings, c.hidden_size, self.policy, c.initializer_range)
        self.layers = layer_stack(
            GPT2Layer,
            (c, self.policy, self.attention),
            c.num_hidden_layers,
            scan=self.scan_layers,
            remat=self.remat,
        )
        self.norm = LayerNorm(c.layer_norm_epsilon, self.policy)

    def _run(
        self, tokens: Int[Array, "B S"], positions: Int[Array, "B S"], sight: Sight, caches: Any
    ) -> tuple[Float[Array, "B S D"], Any]:
        x = self.word(tokens) + self.position(positions)
        x = dropout(x, self.config.embd_pdrop, sight.dropout_key, site=0)
        x = constrain(x, HIDDEN)
        x, caches = self.layers(x, jnp.arange(self.config.num_hidden_layers), caches, sight)
        return self.norm(x), caches


def weight_map(config: GPT2Config) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``GPT2Model`` in a Hugging Face checkpoint.

    Its Conv1D holds weights as [in, out], so nothing is transposed; c_attn is query, key and value.
    """
    tied = ("lm_head.weight",) if config.tie_word_embeddings else ()
    entries = [
        WeightEntry("wte.weight", "word/embedding", "pad_rows", aliases=tied),
        WeightEntry("wpe.weight", "position/embedding"),
    ]
    for i in range(config.num_hidden_layers):
        hf, path = f"h.{i}", f"layers/{i}"
        projections = tuple(f"{path}/attention/{name}" for name in ("query", "key", "value"))
        entries += norm(f"{hf}.ln_1", f"{path}/attention_norm")
        entries += fused(f"{hf}.attn.c_attn", projections, transpose=False)
        for name, our in (
            ("attn.c_proj", "attention/output"),
            ("mlp.c_fc", "mlp_up"),
            ("mlp.c_proj", "mlp_down"),
        ):
            entries.append(WeightEntry(f"{hf}.{name}.weight", f"{path}/{our}/kernel"))
            entries.append(WeightEntry(f"{hf}.{name}.bias", f"{path}/{our}/bias"))
        entries += norm(f"{hf}.ln_2", f"{path}/mlp_norm")
    entries += norm("ln_f", "norm")
    return tuple(entries)


def _sequence_head(config: GPT2Config, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return SequenceHead(num_labels, 0.0, config.initializer_range, policy, use_bias=False, name=name)


def _token_head(config: GPT2Config, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return TokenHead(num_labels, config.head_dropout, config.initializer_range, policy, name=name)


def _empty_cache(config: GPT2Config, batch: int, length: int, dtype: Any) -> Cache:
    c = config
    return empty_cache(c.num_hidden_layers, batch, length, c.num_attention_heads, c.head_size, dtype)


GPT2 = Family(
    model_type="gpt2",
    kind="decoder",
    config_class=GPT2Config,
    backbone=GPT2Model,
    weight_map=weight_map,
    prefix="transformer.",
    base_architecture="GPT2Model",
    heads={
        "causal_lm": next_word_head("GPT2LMHeadModel"),
        **sequence_heads(
            "GPT2ForSequenceClassification",
            _sequence_head,
            lambda config: linear("score", "classifier", bias=False),
        ),
        "token_classification": Head(
            "GPT2ForTokenClassification", _token_head, lambda config: linear("classifier", "classifier")
        ),
    },
    empty_cache=_empty_cache,
)
