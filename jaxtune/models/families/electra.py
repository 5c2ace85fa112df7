"""ELECTRA (Clark et al. 2020), discriminators and generators, equal to transformers' ``ElectraModel`` to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxtune.models.config_reading import check_divides, read_fields
from jaxtune.models.encoder import ENCODER_ONLY, EncoderConfig, EncoderModel, embedding_map, layer_map
from jaxtune.models.family import Family
from jaxtune.models.heads import (
    Head,
    MaskedWordHead,
    SequenceHead,
    choice_head,
    sequence_heads,
    token_heads,
)
from jaxtune.models.layers import ACTIVATIONS, Policy
from jaxtune.models.weight_map import WeightEntry, linear, norm


@dataclasses.dataclass(frozen=True)
class ElectraConfig(EncoderConfig):
    """The fields of config.json that shape an ELECTRA; names as there."""

    embedding_size: int = 128
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> ElectraConfig:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        config = read_fields(cls, raw, supported={**ENCODER_ONLY, "hidden_act": tuple(ACTIVATIONS)})
        check_divides(config, "hidden_size", "num_attention_heads")
        return config

    @property
    def embedding_width(self) -> int:
        """Columns of the embedding tables; where they are not ``hidden_size``, a projection follows."""
        return self.embedding_size


def weight_map(config: ElectraConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``ElectraModel`` in a Hugging Face checkpoint."""
    return (
        *embedding_map(tied="generator_lm_head.weight"),
        *linear("embeddings_project", "embeddings/projection"),
        *layer_map(config.num_hidden_layers),
    )


def _sequence_head(config: ElectraConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    rate, stddev = config.head_dropout, config.initializer_range
    return SequenceHead(num_labels, rate, stddev, policy, hidden_act="gelu", dense_dropout=rate, name=name)


def _sequence_map(config: ElectraConfig) -> tuple[WeightEntry, ...]:
    return (*linear("classifier.dense", "dense"), *linear("classifier.out_proj", "classifier"))


def _choice_head(config: ElectraConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    # The summary_* settings of config.json as they are by default, and in every ELECTRA that was published.
    rate, stddev = config.head_dropout, config.initializer_range
    return SequenceHead(num_labels, rate, stddev, policy, hidden_act="gelu", name=name)


def _choice_map(config: ElectraConfig) -> tuple[WeightEntry, ...]:
    return (*linear("sequence_summary.summary", "dense"), *linear("classifier", "classifier"))


def _masked_word_head(config: ElectraConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    c = config
    # GELU whatever the config's hidden_act says.
    return MaskedWordHead(
        c.vocab_size, c.embedding_size, "gelu", c.layer_norm_eps, c.initializer_range, policy, name=name
    )


def _masked_word_map(config: ElectraConfig) -> tuple[WeightEntry, ...]:
    return (
        *linear("generator_predictions.dense", "dense"),
        *norm("generator_predictions.LayerNorm", "norm"),
        WeightEntry("generator_lm_head.bias", "bias", "pad_rows"),
    )


ELECTRA = Family(
    model_type="electra",
    kind="encoder",
    config_class=ElectraConfig,
    backbone=EncoderModel,
    weight_map=weight_map,
    prefix="electra.",
    base_architecture="ElectraModel",
    heads={
        **sequence_heads("ElectraForSequenceClassification", _sequence_head, _sequence_map),
        **choice_head("ElectraForMultipleChoice", _choice_head, _choice_map),
        **token_heads("ElectraForTokenClassification", "ElectraForQuestionAnswering"),
        "mlm": Head("ElectraForMaskedLM", _masked_word_head, _masked_word_map),
    },
)
