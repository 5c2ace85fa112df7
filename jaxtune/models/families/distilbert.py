"""DistilBERT (Sanh et al. 2019), equal to transformers' ``DistilBertModel`` to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from jaxtune.models.config_reading import check_divides, read_fields
from jaxtune.models.encoder import EncoderConfig, EncoderModel
from jaxtune.models.family import Family
from jaxtune.models.heads import (
    Head,
    MaskedWordHead,
    SequenceHead,
    TokenHead,
    choice_head,
    sequence_heads,
)
from jaxtune.models.layers import ACTIVATIONS, Policy
from jaxtune.models.weight_map import WeightEntry, linear, norm

_RENAMED = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
_LINEARS = {
    "attention.q_lin": "attention/query",
    "attention.k_lin": "attention/key",
    "attention.v_lin": "attention/value",
    "attention.out_lin": "attention/output",
    "ffn.lin1": "mlp_up",
    "ffn.lin2": "mlp_down",
}


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """The fields of config.json that shape a DistilBERT, under the names that other families use.

    ``sinusoidal_pos_embds`` is not among them: the position table is in the file either way.
    """

    num_hidden_layers: int = 6
    type_vocab_size: int = 0
    seq_classif_dropout: float = 0.2
    qa_dropout: float = 0.1

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> DistilBertConfig:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        supported = {"activation": tuple(ACTIVATIONS), "tie_word_embeddings": (True,)}
        config = read_fields(
            cls,
            raw,
            renamed=_RENAMED,
            supported=supported,
            type_vocab_size=0,
            layer_norm_eps=1e-12,
            classifier_dropout=None,
        )
        check_divides(config, "hidden_size", "num_attention_heads")
        return config

    def with_dropout(self, rate: float) -> DistilBertConfig:
        """The same network with one rate at every dropout."""
        return dataclasses.replace(super().with_dropout(rate), seq_classif_dropout=rate, qa_dropout=rate)


def weight_map(config: DistilBertConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of ``DistilBertModel`` in a Hugging Face checkpoint."""
    return tuple(_entries(config))


def _entries(config: DistilBertConfig) -> Iterator[WeightEntry]:
    words = "embeddings.word_embeddings.weight"
    yield WeightEntry(words, "embeddings/word/embedding", "pad_rows", aliases=("vocab_projector.weight",))
    yield WeightEntry("embeddings.position_embeddings.weight", "embeddings/position/embedding")
    yield from norm("embeddings.LayerNorm", "embeddings/norm")
    for i in range(config.num_hidden_layers):
        hf, path = f"transformer.layer.{i}", f"layers/{i}"
        for name, our in _LINEARS.items():
            yield from linear(f"{hf}.{name}", f"{path}/{our}")
        yield from norm(f"{hf}.sa_layer_norm", f"{path}/attention_norm")
        yield from norm(f"{hf}.output_layer_norm", f"{path}/mlp_norm")


def _sequence_head(config: DistilBertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    c = config
    return SequenceHead(
        num_labels, c.seq_classif_dropout, c.initializer_range, policy, hidden_act="relu", name=name
    )


def _sequence_map(config: DistilBertConfig) -> tuple[WeightEntry, ...]:
    return (*linear("pre_classifier", "dense"), *linear("classifier", "classifier"))


def _token_head(config: DistilBertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return TokenHead(num_labels, config.head_dropout, config.initializer_range, policy, name=name)


def _span_head(config: DistilBertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    return TokenHead(2, config.qa_dropout, config.initializer_range, policy, name=name)


def _masked_word_head(config: DistilBertConfig, num_labels: int, policy: Policy, name: str) -> nn.Module:
    c = config
    return MaskedWordHead(
        c.vocab_size, c.hidden_size, c.hidden_act, c.layer_norm_eps, c.initializer_range, policy, name=name
    )


def _masked_word_map(config: DistilBertConfig) -> tuple[WeightEntry, ...]:
    return (
        *linear("vocab_transform", "dense"),
        *norm("vocab_layer_norm", "norm"),
        WeightEntry("vocab_projector.bias", "bias", "pad_rows"),
    )


DISTILBERT = Family(
    model_type="distilbert",
    kind="encoder",
    config_class=DistilBertConfig,
    backbone=EncoderModel,
    weight_map=weight_map,
    prefix="distilbert.",
    base_architecture="DistilBertModel",
    heads={
        **sequence_heads("DistilBertForSequenceClassification", _sequence_head, _sequence_map),
        **choice_head("DistilBertForMultipleChoice", _sequence_head, _sequence_map),
        "token_classification": Head(
            "DistilBertForTokenClassification", _token_head, lambda config: linear("classifier", "classifier")
        ),
        "span": Head(
            "DistilBertForQuestionAnswering", _span_head, lambda config: linear("qa_outputs", "classifier")
        ),
        "mlm": Head("DistilBertForMaskedLM", _masked_word_head, _masked_word_map),
    },
)
