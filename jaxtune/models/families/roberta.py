"""RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020), equal to transformers' to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

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
class RobertaConfig(EncoderConfig):
    """The fields of config.json that shape a RoBERTa; names as there but for the number of positions.

    The rows of the position table up to ``pad_token_id`` belong to no token, so an example may have
    fewer tokens than the ``max_position_embeddings`` of config.json: 512 of 514.
    """

    vocab_size: int = 50265
    max_position_embeddings: int = 510
    pad_token_id: int = 1

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        pad = raw.get("pad_token_id")
        offset = (cls.pad_token_id if pad is None else pad) + 1
        rows = raw.get("max_position_embeddings") or 512
        if rows <= offset:
            raise ValueError(
                f"config.json: max_position_embeddings={rows} leaves no positions above pad_token_id"
            )
        supported = {**ENCODER_ONLY, "hidden_act": tuple(ACTIVATIONS)}
        config = read_fields(cls, raw, supported=supported, max_position_embeddings=rows - offset)
        check_divides(config, "hidden_size", "num_attention_heads")
        return config

    @property
    def position_offset(self) -> int:
        """Row of the position table that an example's first token has."""
        return self.pad_token_id + 1


@dataclasses.dataclass(frozen=True)
class XLMRobertaConfig(RobertaConfig):
    """The same for XLM-RoBERTa."""

    vocab_size: int = 30522


def weight_map(config: RobertaConfig) -> tuple[WeightEntry, ...]:
    """Names of the tensors of ``RobertaModel`` but its pooler, which only multiple choice reads: part of that head."""
    return (*embedding_map(tied="lm_head.decoder.weight"), *layer_map(config.num_hidden_layers))


def _sequence_head(config: RobertaConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    rate, stddev = config.head_dropout, config.initializer_range
    return SequenceHead(num_labels, rate, stddev, policy, hidden_act="tanh", dense_dropout=rate, name=name)


def _sequence_map(config: RobertaConfig) -> tuple[WeightEntry, ...]:
    return (*linear("classifier.dense", "dense"), *linear("classifier.out_proj", "classifier"))


def _choice_head(config: RobertaConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    c = config
    return SequenceHead(
        num_labels, c.hidden_dropout_prob, c.initializer_range, policy, hidden_act="tanh", name=name
    )


def _choice_map(config: RobertaConfig) -> tuple[WeightEntry, ...]:
    pooler = linear("roberta.pooler.dense", "dense")
    # A file of the bare model has it without the prefix.
    bare = [dataclasses.replace(entry, aliases=(entry.hf.removeprefix("roberta."),)) for entry in pooler]
    return (*bare, *linear("classifier", "classifier"))


def _masked_word_head(config: RobertaConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    c = config
    # GELU whatever the config's hidden_act says.
    return MaskedWordHead(
        c.vocab_size, c.hidden_size, "gelu", c.layer_norm_eps, c.initializer_range, policy, name=name
    )


def _masked_word_map(config: RobertaConfig) -> tuple[WeightEntry, ...]:
    return (
        *linear("lm_head.dense", "dense"),
        *norm("lm_head.layer_norm", "norm"),
        WeightEntry("lm_head.bias", "bias", "pad_rows", aliases=("lm_head.decoder.bias",)),
    )


def _family(model_type: str, config_class: type[RobertaConfig], name: str) -> Family:
    return Family(
        model_type=model_type,
        kind="encoder",
        config_class=config_class,
        backbone=EncoderModel,
        weight_map=weight_map,
        prefix="roberta.",
        base_architecture=f"{name}Model",
        heads={
            **sequence_heads(f"{name}ForSequenceClassification", _sequence_head, _sequence_map),
            **choice_head(f"{name}ForMultipleChoice", _choice_head, _choice_map),
            **token_heads(f"{name}ForTokenClassification", f"{name}ForQuestionAnswering"),
            "mlm": Head(f"{name}ForMaskedLM", _masked_word_head, _masked_word_map),
        },
    )


ROBERTA = _family("roberta", RobertaConfig, "Roberta")
XLM_ROBERTA = _family("xlm-roberta", XLMRobertaConfig, "XLMRoberta")
