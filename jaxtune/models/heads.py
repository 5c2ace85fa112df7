"""Heads: what turns hidden states into logits. A family lists those it has, by name.

A head says what it reads: one vector per ``example``, all ``tokens``, or tokens against the
vocabulary (``words``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

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
from jaxtune.models.weight_map import WeightEntry, linear

HEAD_SITE = 1 << 20
"""Dropout site of the heads: above every site of a backbone."""

HEADS = (
    "classification",
    "regression",
    "token_classification",
    "multiple_choice",
    "span",
    "mlm",
    "causal_lm",
    "seq2seq_lm",
)
"""All heads; a family has some of them."""


@dataclasses.dataclass(frozen=True)
class Head:
    """A head of a family.

    Attributes:
        architecture: Hugging Face's class, as in ``architectures`` of config.json.
        build: ``(config, num_labels, policy, name=…)`` → a module with ``reads``.
        weight_map: names of its tensors for a configuration, whole, with the family's prefix or without.
    """

    architecture: str
    build: Callable[..., nn.Module]
    weight_map: Callable[[Any], tuple[WeightEntry, ...]]


class SequenceHead(nn.Module):
    """One vector per example: perhaps dropout, a dense layer and its activation; dropout, a linear layer.

    Attributes:
        hidden_act: activation of the dense layer; none has no such layer.
        dense_dropout: rate before the dense layer.
    """

    features: int
    dropout_rate: float
    stddev: float
    policy: Policy
    hidden_act: str | None = None
    dense_dropout: float = 0.0
    use_bias: bool = True
    reads: ClassVar[str] = "example"

    @nn.compact
    def __call__(self, pooled: Float[Array, "B N D"], key: DropoutKey | None) -> Float[Array, "B N C"]:
        x = pooled
        if self.hidden_act is not None:
            x = dropout(x, self.dense_dropout, key, HEAD_SITE + 1)
            x = Linear(x.shape[-1], self.policy, stddev=self.stddev, name="dense")(x)
            x = ACTIVATIONS[self.hidden_act](x)
        x = dropout(x, self.dropout_rate, key, HEAD_SITE)
        return Linear(self.features, self.policy, self.use_bias, self.stddev, name="classifier")(x)


class TokenHead(nn.Module):
    """Dropout and a linear layer on every token; a span head has two outputs, start and end."""

    features: int
    dropout_rate: float
    stddev: float
    policy: Policy
    reads: ClassVar[str] = "tokens"

    @nn.compact
    def __call__(self, hidden: Float[Array, "B S D"], key: DropoutKey | None) -> Float[Array, "B S C"]:
        hidden = dropout(hidden, self.dropout_rate, key, HEAD_SITE)
        return Linear(self.features, self.policy, stddev=self.stddev, name="classifier")(hidden)


class MaskedWordHead(nn.Module):
    """Dense layer, activation, norm; then scores against the word table (or one of its own), and a bias."""

    vocab_size: int
    features: int
    hidden_act: str
    epsilon: float
    stddev: float
    policy: Policy
    tied: bool = True
    reads: ClassVar[str] = "words"

    @nn.compact
    def __call__(self, hidden: Float[Array, "B S D"], table: Float[Array, "P D"]) -> Float[Array, "B S P"]:
        x = Linear(self.features, self.policy, stddev=self.stddev, name="dense")(hidden)
        x = LayerNorm(self.epsilon, self.policy, name="norm")(ACTIVATIONS[self.hidden_act](x))
        bias = self.param(
            "bias", nn.initializers.zeros, (padded_vocab(self.vocab_size),), self.policy.param_dtype
        )
        if not self.tied:
            table = own_table(self.vocab_size, self.features, self.policy, self.stddev)
        return vocabulary_logits(x, table, self.vocab_size, self.policy, bias=bias)


class WordHead(nn.Module):
    """Scores of the next word: hidden states against the word table, or one of its own.

    Attributes:
        scale: factor of the hidden states (tied T5 has D^-0.5).
        use_bias: add one number per word (BART's and Marian's final_logits_bias).
    """

    vocab_size: int
    features: int
    stddev: float
    policy: Policy
    tied: bool = True
    soft_cap: float | None = None
    scale: float = 1.0
    use_bias: bool = False
    reads: ClassVar[str] = "words"

    @nn.compact
    def __call__(self, hidden: Float[Array, "B S D"], table: Float[Array, "P D"]) -> Float[Array, "B S P"]:
        if not self.tied:
            table = own_table(self.vocab_size, self.features, self.policy, self.stddev)
        bias = None
        if self.use_bias:
            shape = (padded_vocab(self.vocab_size),)
            bias = self.param("bias", nn.initializers.zeros, shape, self.policy.param_dtype)
        hidden = hidden * jnp.asarray(self.scale, hidden.dtype) if self.scale != 1.0 else hidden
        return vocabulary_logits(
            hidden, table, self.vocab_size, self.policy, bias=bias, soft_cap=self.soft_cap
        )


def own_table(vocab_size: int, features: int, policy: Policy, stddev: float) -> Float[Array, "P D"]:
    """The table ``lm_head/embedding`` of a head that shares none with the backbone."""
    return Embedding(vocab_size, features, policy, stddev, pad_rows=True, name="lm_head").table


def sequence_heads(
    architecture: str, build: Callable[..., nn.Module], weight_map: Callable[[Any], Any]
) -> Mapping[str, Head]:
    """Classification and regression: the same head, with one output per label or one in all."""
    head = Head(architecture, build, weight_map)
    return {"classification": head, "regression": head}


def choice_head(
    architecture: str, build: Callable[..., nn.Module], weight_map: Callable[[Any], Any]
) -> Mapping[str, Head]:
    """Multiple choice: one number per choice; the softmax over the choices of a question is the task's."""
    return {"multiple_choice": Head(architecture, build, weight_map)}


def token_heads(token_architecture: str, span_architecture: str) -> Mapping[str, Head]:
    """Token classification and spans, which all encoders have alike."""

    def tokens(config: Any, num_labels: int, policy: Policy, name: str) -> nn.Module:
        return TokenHead(num_labels, config.head_dropout, config.initializer_range, policy, name=name)

    def span(config: Any, num_labels: int, policy: Policy, name: str) -> nn.Module:
        return TokenHead(2, 0.0, config.initializer_range, policy, name=name)

    return {
        "token_classification": Head(
            token_architecture, tokens, lambda config: linear("classifier", "classifier")
        ),
        "span": Head(span_architecture, span, lambda config: linear("qa_outputs", "classifier")),
    }
