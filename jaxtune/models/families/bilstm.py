"""Bidirectional LSTM (Hochreiter & Schmidhuber 1997; Graves & Schmidhuber 2005): a baseline to train from scratch.

The cell is torch's ``nn.LSTM``, biases and all, so its tensors go by torch's names. Config.json is our own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.axes import HIDDEN, constrain
from jaxtune.models.bidirectional import BidirectionalBackbone
from jaxtune.models.config_reading import read_fields
from jaxtune.models.family import Family
from jaxtune.models.heads import SequenceHead, sequence_heads
from jaxtune.models.layers import DropoutKey, Embedding, Linear, Policy, dropout
from jaxtune.models.rows import last_tokens, most_tokens, take
from jaxtune.models.weight_map import WeightEntry, linear

UNROLL = 4
"""Tokens per turn of the compiled loop: fewer turns cost less than they save in code size."""

State = tuple[Float[Array, "B H"], Float[Array, "B H"], Int[Array, "B"]]
"""Hidden state, cell state (float32), and the number of the example they belong to. H: half of D."""
Context = tuple[Int[Array, "B S"], DropoutKey | None]
"""Segment ids and dropout key, which all layers share."""


@dataclasses.dataclass(frozen=True)
class BiLSTMConfig:
    """The settings of a BiLSTM.

    Attributes:
        hidden_size: of both directions together.
        pooling: ``max`` over the tokens (Conneau et al. 2017, who found it better for sentences), or
            ``ends``: the forward state of the last token beside the backward state of the first.
        hidden_dropout_prob: before every layer (Zaremba et al. 2014), never between two tokens.
    """

    vocab_size: int = 8000
    embedding_size: int = 128
    hidden_size: int = 256
    num_hidden_layers: int = 1
    pooling: str = "max"
    hidden_dropout_prob: float = 0.3
    classifier_dropout: float | None = None
    max_position_embeddings: int | None = None
    initializer_range: float = 0.1
    pad_token_id: int | None = None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> BiLSTMConfig:
        """Read a config.json.

        Raises:
            ValueError: a setting that cannot be, by name and value.
        """
        config = read_fields(cls, raw, supported={"pooling": ("max", "ends")})
        if config.hidden_size % 2:
            raise ValueError(
                f"config.json: hidden_size={config.hidden_size} is not divisible by 2 directions"
            )
        return config

    def with_dropout(self, rate: float) -> BiLSTMConfig:
        """The same network with one rate at every dropout."""
        return dataclasses.replace(self, hidden_dropout_prob=rate, classifier_dropout=rate)

    @property
    def head_dropout(self) -> float:
        """Rate before a classifier: ``classifier_dropout``, else that of the layers."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def direction_size(self) -> int:
        """Width of one direction."""
        return self.hidden_size // 2


class LSTMCell(nn.Module):
    """One token: gates i, f, g, o in torch's order, c ← f·c + i·g, h ← o·tanh(c).

    The state starts anew at the first token of an example, and passes over padding as it is.
    """

    size: int
    policy: Policy

    @nn.compact
    def __call__(
        self, state: State, token: tuple[Float[Array, "B 4*H"], Int[Array, "B"]]
    ) -> tuple[State, Float[Array, "B H"]]:
        hidden, cell, example = state
        projected, segment = token
        real, same = (segment != 0)[:, None], (segment == example)[:, None]
        before, cell_before = jnp.where(same, hidden, 0), jnp.where(same, cell, 0)
        recurrent = Linear(4 * self.size, self.policy, stddev=torch_stddev(self.size), name="recurrent")
        gates = (projected + recurrent(before)).astype(jnp.float32)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        new_cell = jax.nn.sigmoid(f) * cell_before + jax.nn.sigmoid(i) * jnp.tanh(g)
        new = (jax.nn.sigmoid(o) * jnp.tanh(new_cell)).astype(hidden.dtype)
        state = (
            jnp.where(real, new, hidden),
            jnp.where(real, new_cell, cell),
            jnp.where(real[:, 0], segment, example),
        )
        return state, jnp.where(real, new, 0)


class Direction(nn.Module):
    """An LSTM along the rows, from the left or from the right."""

    size: int
    policy: Policy
    reverse: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], segment_ids: Int[Array, "B S"]) -> Float[Array, "B S H"]:
        # All products with the inputs at once; what is left for the loop is the recurrence.
        projected = Linear(4 * self.size, self.policy, stddev=torch_stddev(self.size), name="input")(x)
        segment_ids = jnp.asarray(segment_ids)
        batch = x.shape[0]
        start = (
            jnp.zeros((batch, self.size), self.policy.compute_dtype),
            jnp.zeros((batch, self.size), jnp.float32),
            jnp.zeros((batch,), segment_ids.dtype),
        )
        along: Any = nn.scan(
            LSTMCell,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
            reverse=self.reverse,
            unroll=UNROLL,
        )
        return along(self.size, self.policy, name="cell")(start, (projected, segment_ids))[1]


class BiLSTMLayer(nn.Module):
    """Dropout, then both directions side by side."""

    config: BiLSTMConfig
    policy: Policy

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S E"], index: Int[Array, ""] | int, _cache: None, context: Context
    ) -> tuple[Float[Array, "B S D"], None]:
        c = self.config
        segment_ids, key = context
        x = dropout(x, c.hidden_dropout_prob, key, index)
        forward = Direction(c.direction_size, self.policy, name="forward")(x, segment_ids)
        backward = Direction(c.direction_size, self.policy, True, name="backward")(x, segment_ids)
        return constrain(jnp.concatenate([forward, backward], -1), HIDDEN), None


class BiLSTMModel(BidirectionalBackbone):
    """Word embeddings and the layers; positions and token types are not used."""

    config: BiLSTMConfig

    def setup(self) -> None:
        c = self.config
        self.word = Embedding(c.vocab_size, c.embedding_size, self.policy, c.initializer_range, pad_rows=True)
        self.layers = self._stack(BiLSTMLayer, c, self.policy)

    def _run(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> Float[Array, "B S D"]:
        """States of both directions after each token; zero at padding."""
        return self._through(self.word(tokens), (segment_ids, key))

    def pool(
        self,
        hidden: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        starts: Int[Array, "B N"] | None,
    ) -> Float[Array, "B N D"]:
        """One vector per example, as ``pooling`` says."""
        if self.config.pooling == "max":
            return most_tokens(hidden, segment_ids, starts)
        half = self.config.direction_size
        if starts is None:
            starts = jnp.argmax(segment_ids != 0, axis=1, keepdims=True)
        forward, backward = last_tokens(hidden, segment_ids, starts), take(hidden, starts)
        return jnp.concatenate([forward[..., :half], backward[..., half:]], axis=-1)


def torch_stddev(size: int) -> float:
    """Deviation of torch's initial LSTM weights, which are uniform between ±size^-0.5."""
    return (3 * size) ** -0.5


def weight_map(config: BiLSTMConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``BiLSTMModel``; those of the layers as in torch's ``nn.LSTM``."""
    entries = [WeightEntry("embeddings.weight", "word/embedding", "pad_rows")]
    for i in range(config.num_hidden_layers):
        for direction, ending in (("forward", ""), ("backward", "_reverse")):
            path = f"layers/{i}/{direction}"
            for place, short in ((f"{path}/input", "ih"), (f"{path}/cell/recurrent", "hh")):
                hf = f"_{short}_l{i}{ending}"
                entries.append(WeightEntry(f"lstm.weight{hf}", f"{place}/kernel", "transpose"))
                entries.append(WeightEntry(f"lstm.bias{hf}", f"{place}/bias"))
    return tuple(entries)


def _sequence_head(config: BiLSTMConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return SequenceHead(num_labels, config.head_dropout, torch_stddev(config.hidden_size), policy, name=name)


BILSTM = Family(
    model_type="bilstm",
    kind="encoder",
    config_class=BiLSTMConfig,
    backbone=BiLSTMModel,
    weight_map=weight_map,
    prefix="bilstm.",
    base_architecture="BiLSTMModel",
    heads=sequence_heads(
        "BiLSTMForSequenceClassification", _sequence_head, lambda config: linear("classifier", "classifier")
    ),
    scannable=lambda config: config.embedding_size == config.hidden_size,
)
