"""BERT (Devlin et al. 2019), equal to transformers' ``BertModel`` to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

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
class BertConfig(EncoderConfig):
    """The fields of config.json that shape a BERT; names as there."""

    has_pooler: ClassVar[bool] = True

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> BertConfig:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        config = read_fields(cls, raw, supported={**ENCODER_ONLY, "hidden_act": tuple(ACTIVATIONS)})
        check_divides(config, "hidden_size", "num_attention_heads")
        return config


def weight_map(config: BertConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``BertModel`` in a Hugging Face checkpoint."""
    return (
        *embedding_map(tied="cls.predictions.decoder.weight"),
        *layer_map(config.num_hidden_layers),
        *linear("pooler.dense", "pooler"),
    )


def _sequence_head(config: BertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return SequenceHead(num_labels, config.head_dropout, config.initializer_range, policy, name=name)


def _sequence_map(config: BertConfig) -> tuple[WeightEntry, ...]:
    return linear("classifier", "classifier")


def _masked_word_head(config: BertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    c = config
    return MaskedWordHead(
        c.vocab_size, c.hidden_size, c.hidden_act, c.layer_norm_eps, c.initializer_range, policy, name=name
    )


def _masked_word_map(config: BertConfig) -> tuple[WeightEntry, ...]:
    return (
        *linear("cls.predictions.transform.dense", "dense"),
        *norm("cls.predictions.transform.LayerNorm", "norm"),
        WeightEntry("cls.predictions.bias", "bias", "pad_rows", aliases=("cls.predictions.decoder.bias",)),
    )


BERT = Family(
    model_type="bert",
    kind="encoder",
    config_class=BertConfig,
    backbone=EncoderModel,
    weight_map=weight_map,
    prefix="bert.",
    base_architecture="BertModel",
    heads={
        **sequence_heads("BertForSequenceClassification", _sequence_head, _sequence_map),
        **choice_head("BertForMultipleChoice", _sequence_head, _sequence_map),
        **token_heads("BertForTokenClassification", "BertForQuestionAnswering"),
        "mlm": Head("BertForMaskedLM", _masked_word_head, _masked_word_map),
    },
)
