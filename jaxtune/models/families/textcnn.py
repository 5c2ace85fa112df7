"""Convolutions over words, and the largest answer of each (Kim 2014): a baseline to train from scratch.

Config.json and the names of the tensors are our own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxtune.models.axes import HIDDEN, constrain
from jaxtune.models.bidirectional import BidirectionalBackbone
from jaxtune.models.config_reading import read_fields
from jaxtune.models.family import Family
from jaxtune.models.heads import SequenceHead, sequence_heads
from jaxtune.models.layers import DropoutKey, Embedding, Linear, Policy, dropout
from jaxtune.models.rows import most_tokens
from jaxtune.models.weight_map import WeightEntry, linear


@dataclasses.dataclass(frozen=True)
class TextCNNConfig:
    """The settings of a TextCNN.

    Attributes:
        filter_widths: tokens that the filters of each kind look at.
        num_filters: of each width.
        embedding_dropout_prob: on the word embeddings; Kim has none there.
        classifier_dropout: before the classifier.
    """

    vocab_size: int = 8000
    embedding_size: int = 128
    filter_widths: tuple[int, ...] = (3, 4, 5)
    num_filters: int = 100
    embedding_dropout_prob: float = 0.0
    classifier_dropout: float = 0.5
    max_position_embeddings: int | None = None
    initializer_range: float = 0.1
    pad_token_id: int | None = None
    num_hidden_layers: int = 1

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> TextCNNConfig:
        """Read a config.json.

        Raises:
            ValueError: a setting that cannot be, by name and value.
        """
        config = read_fields(cls, raw, supported={"num_hidden_layers": (1,)})
        widths = config.filter_widths
        if not widths or min(widths) < 1 or len(set(widths)) < len(widths):
            raise ValueError(
                f"config.json: filter_widths={list(widths)} is not supported; use different widths from 1"
            )
        return config

    def with_dropout(self, rate: float) -> TextCNNConfig:
        """The same network with one rate at every dropout."""
        return dataclasses.replace(self, embedding_dropout_prob=rate, classifier_dropout=rate)

    @property
    def hidden_size(self) -> int:
        """All filters together."""
        return len(self.filter_widths) * self.num_filters


class TextCNNModel(BidirectionalBackbone):
    """Word embeddings, and one convolution of each width; positions and token types are not used."""

    config: TextCNNConfig

    def setup(self) -> None:
        c = self.config
        self.word = Embedding(c.vocab_size, c.embedding_size, self.policy, c.initializer_range, pad_rows=True)
        self.convolutions = {
            str(width): Linear(c.num_filters, self.policy, stddev=(width * c.embedding_size) ** -0.5)
            for width in c.filter_widths
        }

    def _run(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> Float[Array, "B S D"]:
        """Answers of all filters around each token; zero at padding.

        Where a filter is wider than what there is of an example, it sees zeros, never another example.
        """
        x = dropout(self.word(tokens), self.config.embedding_dropout_prob, key, site=0)
        answers = [
            jax.nn.relu(convolution(windows(x, segment_ids, int(width))))
            for width, convolution in self.convolutions.items()
        ]
        hidden = jnp.where((segment_ids != 0)[..., None], jnp.concatenate(answers, axis=-1), 0)
        return constrain(hidden, HIDDEN)

    def pool(
        self,
        hidden: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        starts: Int[Array, "B N"] | None,
    ) -> Float[Array, "B N D"]:
        """The largest answer of each filter within each example."""
        return most_tokens(hidden, segment_ids, starts)


def windows(x: Float[Array, "B S E"], segment_ids: Int[Array, "B S"], width: int) -> Float[Array, "B S W*E"]:
    """The ``width`` vectors around each token side by side, zero where they belong to another example.

    An even width has one more on the right, as with torch's ``padding="same"``.
    """
    left = (width - 1) // 2
    taps = []
    for offset in range(-left, width - left):
        own: Bool[Array, "B S"] = shifted(segment_ids, offset) == segment_ids
        taps.append(jnp.where(own[..., None], shifted(x, offset), 0))
    return jnp.concatenate(taps, axis=-1)


def shifted(x: Array, offset: int) -> Array:
    """What lies ``offset`` tokens to the right of each; zero beyond the row."""
    length = x.shape[1]
    before, after = max(-offset, 0), max(offset, 0)
    padded = jnp.pad(x, ((0, 0), (before, after)) + ((0, 0),) * (x.ndim - 2))
    return padded[:, after : after + length]


def weight_map(config: TextCNNConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``TextCNNModel``.

    A convolution is stored as a matrix [filters, width · embedding], its taps from left to right.
    """
    entries = [WeightEntry("embeddings.weight", "word/embedding", "pad_rows")]
    for width in config.filter_widths:
        entries += linear(f"convolutions.{width}", f"convolutions_{width}")
    return tuple(entries)


def _sequence_head(config: TextCNNConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    stddev = config.hidden_size**-0.5
    return SequenceHead(num_labels, config.classifier_dropout, stddev, policy, name=name)


TEXTCNN = Family(
    model_type="textcnn",
    kind="encoder",
    config_class=TextCNNConfig,
    backbone=TextCNNModel,
    weight_map=weight_map,
    prefix="textcnn.",
    base_architecture="TextCNNModel",
    heads=sequence_heads(
        "TextCNNForSequenceClassification", _sequence_head, lambda config: linear("classifier", "classifier")
    ),
    scannable=lambda config: False,
)
