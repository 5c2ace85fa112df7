"""Families by the ``model_type`` of config.json. A new family is one file and one line here."""

from __future__ import annotations

from typing import Any

from jaxtune.models.bart import BART, MBART
from jaxtune.models.bert import BERT
from jaxtune.models.bilstm import BILSTM
from jaxtune.models.deberta_v2 import DEBERTA_V2
from jaxtune.models.distilbert import DISTILBERT
from jaxtune.models.electra import ELECTRA
from jaxtune.models.family import Family
from jaxtune.models.gemma2 import GEMMA2
from jaxtune.models.gemma3 import GEMMA3
from jaxtune.models.gpt2 import GPT2
from jaxtune.models.llama import LLAMA
from jaxtune.models.marian import MARIAN, PEGASUS
from jaxtune.models.mistral import MISTRAL
from jaxtune.models.modernbert import MODERNBERT
from jaxtune.models.qwen2 import QWEN2
from jaxtune.models.qwen3 import QWEN3
from jaxtune.models.roberta import ROBERTA, XLM_ROBERTA
from jaxtune.models.smollm3 import SMOLLM3
from jaxtune.models.t5 import MT5, T5
from jaxtune.models.textcnn import TEXTCNN
from jaxtune.models.transformer import TRANSFORMER

_ALL = (
    BERT,
    ROBERTA,
    XLM_ROBERTA,
    DISTILBERT,
    ELECTRA,
    DEBERTA_V2,
    MODERNBERT,
    GPT2,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    SMOLLM3,
    GEMMA2,
    GEMMA3,
    T5,
    MT5,
    BART,
    MBART,
    MARIAN,
    PEGASUS,
    TRANSFORMER,
    BILSTM,
    TEXTCNN,
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in _ALL}


def family_of(model_type: str | None) -> Family:
    """The family of a ``model_type``.

    Raises:
        ValueError: it is not supported; lists those that are.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def family_of_config(config: Any) -> Family:
    """The family a configuration object belongs to."""
    return next(f for f in FAMILIES.values() if type(config) is f.config_class)
