"""BERT (Devlin et al. 2019), equal to transformers' ``BertModel`` to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention, AttentionSpec, plain_attention
from jaxtune.models.layers import (
    ACTIVATIONS,
    DropoutKey,
    Embedding,
    LayerNorm,
    Linear,
    Policy,
    dropout,
)
from jaxtune.models.weight_map import WeightEntry, linear, norm

HIDDEN_AXES = ("batch", "sequence", "embed")
_SITES_PER_LAYER = 3


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The fields of config.json that shape a BERT; names as there."""

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

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> BertConfig:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        supported: dict[str, tuple[Any, ...]] = {
            "position_embedding_type": ("absolute",),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "hidden_act": tuple(ACTIVATIONS),
        }
        for name, values in supported.items():
            if name in raw and raw[name] not in values:
                raise ValueError(f"config.json: {name}={raw[name]!r} is not supported; use one of {values}")
        known = {f.name for f in dataclasses.fields(cls)}
        config = cls(**{k: v for k, v in raw.items() if k in known and v is not None})
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"config.json: hidden_size={config.hidden_size} is not divisible by "
                f"num_attention_heads={config.num_attention_heads}"
            )
        return config

    def with_dropout(self, rate: float) -> BertConfig:
        """The same network with one rate at every dropout."""
        return dataclasses.replace(
            self, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=rate
        )

    @property
    def head_dropout(self) -> float:
        """Rate before a classifier: ``classifier_dropout``, else that of the hidden states."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class BertEmbeddings(nn.Module):
    """Sum of word, position and token-type embeddings, normalised, then dropout."""

    config: BertConfig
    policy: Policy

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> Float[Array, "B S D"]:
        c = self.config

        def table(rows: int, name: str, pad_rows: bool = False) -> Embedding:
            return Embedding(rows, c.hidden_size, self.policy, c.initializer_range, pad_rows, name=name)

        x = table(c.vocab_size, "word", pad_rows=True)(tokens)
        x = x + table(c.type_vocab_size, "token_type")(token_types)
        x = x + table(c.max_position_embeddings, "position")(positions)
        x = LayerNorm(c.layer_norm_eps, self.policy, name="norm")(x)
        return dropout(x, c.hidden_dropout_prob, key, site=0)


class BertSelfAttention(nn.Module):
    """Multi-head self-attention and its output projection."""

    config: BertConfig
    policy: Policy
    attention: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        key: DropoutKey | None,
        site: Array | int,
    ) -> Float[Array, "B S D"]:
        c = self.config
        heads = (*x.shape[:-1], c.num_attention_heads, c.hidden_size // c.num_attention_heads)

        def project(name: str) -> Linear:
            return Linear(c.hidden_size, self.policy, stddev=c.initializer_range, name=name)

        q, k, v = (project(name)(x).reshape(heads) for name in ("query", "key", "value"))
        spec = AttentionSpec(
            query_segments=segment_ids,
            key_segments=segment_ids,
            dropout_rate=c.attention_probs_dropout_prob,
            dropout_key=key,
            dropout_site=site,
        )
        return project("output")(self.attention(q, k, v, spec).reshape(x.shape))


class BertLayer(nn.Module):
    """One post-norm block: attention, residual, norm; feed-forward, residual, norm."""

    config: BertConfig
    policy: Policy
    attention: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        index: Int[Array, ""] | int,
        segment_ids: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> tuple[Float[Array, "B S D"], None]:
        c = self.config
        site = 1 + _SITES_PER_LAYER * index
        y = BertSelfAttention(c, self.policy, self.attention, name="attention")(x, segment_ids, key, site)
        y = dropout(y, c.hidden_dropout_prob, key, site + 1)
        x = LayerNorm(c.layer_norm_eps, self.policy, name="attention_norm")(x + y)
        y = Linear(c.intermediate_size, self.policy, stddev=c.initializer_range, name="mlp_up")(x)
        y = ACTIVATIONS[c.hidden_act](y)
        y = Linear(c.hidden_size, self.policy, stddev=c.initializer_range, name="mlp_down")(y)
        y = dropout(y, c.hidden_dropout_prob, key, site + 2)
        x = LayerNorm(c.layer_norm_eps, self.policy, name="mlp_norm")(x + y)
        return nn.with_logical_constraint(x, HIDDEN_AXES), None


class _Unrolled(nn.Module):
    """The layers one after the other, each a branch of its own: ``layers/0``, ``layers/1`` …"""

    layer: type[nn.Module]
    count: int
    args: tuple[Any, ...]

    @nn.compact
    def __call__(self, x: Array, _indices: Array, *rest: Any) -> tuple[Array, None]:
        for index in range(self.count):
            x, _ = self.layer(*self.args, name=str(index))(x, index, *rest)
        return x, None


class BertModel(nn.Module):
    """Embeddings, the layer stack, and the pooler over the first token of each example.

    Attributes:
        scan_layers: hold the layers stacked as [L, …] under ``layers`` and scan over them.
        remat: what the backward pass recomputes: ``none``, ``dots`` (all but matrix products) or ``full``.
    """

    config: BertConfig
    policy: Policy = Policy()
    scan_layers: bool = False
    remat: str = "none"
    attention: Attention = plain_attention

    def setup(self) -> None:
        c = self.config
        self.embeddings = BertEmbeddings(c, self.policy)
        self.layers = self._stack()
        self.pooler = Linear(c.hidden_size, self.policy, stddev=c.initializer_range)

    def _stack(self) -> nn.Module:
        layer: Any = BertLayer
        if self.remat != "none":
            policies: dict[str, Any] = {
                "full": None,
                "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
            }
            # prevent_cse is only needed outside a scan, where XLA could undo the recomputation.
            layer = nn.remat(layer, policy=policies[self.remat], prevent_cse=not self.scan_layers)
        args = (self.config, self.policy, self.attention)
        if not self.scan_layers:
            return _Unrolled(layer, self.config.num_hidden_layers, args)
        scanned: Any = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.config.num_hidden_layers,
        )
        return scanned(*args)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"] | None = None,
        token_types: Int[Array, "B S"] | None = None,
        key: DropoutKey | None = None,
    ) -> Float[Array, "B S D"]:
        """Last hidden states.

        Args:
            segment_ids: 0 for padding, else the number of the example within its row; a
                Hugging Face attention mask is the case of one example per row.
            positions: counted from 0 within each example; none counts along the row.
            key: dropout key; none runs without dropout.
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        if token_types is None:
            token_types = jnp.zeros_like(tokens)
        x = self.embeddings(tokens, positions, token_types, key)
        x = nn.with_logical_constraint(x, HIDDEN_AXES)
        x, _ = self.layers(x, jnp.arange(self.config.num_hidden_layers), segment_ids, key)
        return x

    def pool(self, first: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The pooler: tanh of a dense layer on the hidden state of an example's first token."""
        return jnp.tanh(self.pooler(first))


def weight_map(config: BertConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``BertModel`` in a Hugging Face checkpoint."""
    entries: list[WeightEntry] = [
        WeightEntry("embeddings.word_embeddings.weight", "embeddings/word/embedding", "pad_rows"),
        WeightEntry("embeddings.position_embeddings.weight", "embeddings/position/embedding"),
        WeightEntry("embeddings.token_type_embeddings.weight", "embeddings/token_type/embedding"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
    ]
    for i in range(config.num_hidden_layers):
        hf, path = f"encoder.layer.{i}", f"layers/{i}"
        for name in ("query", "key", "value"):
            entries += linear(f"{hf}.attention.self.{name}", f"{path}/attention/{name}")
        entries += linear(f"{hf}.attention.output.dense", f"{path}/attention/output")
        entries += norm(f"{hf}.attention.output.LayerNorm", f"{path}/attention_norm")
        entries += linear(f"{hf}.intermediate.dense", f"{path}/mlp_up")
        entries += linear(f"{hf}.output.dense", f"{path}/mlp_down")
        entries += norm(f"{hf}.output.LayerNorm", f"{path}/mlp_norm")
    entries += linear("pooler.dense", "pooler", optional=True)
    return tuple(entries)
