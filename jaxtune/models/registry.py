"""Families by the ``model_type`` of config.json. A new family is one file and one line here."""

from __future__ import annotations

from typing import Any

from jaxtune.models.families.bart import BART, MBART
from jaxtune.models.families.bert import BERT
from jaxtune.models.families.bilstm import BILSTM
from jaxtune.models.families.deberta_v2 import DEBERTA_V2
from jaxtune.models.families.distilbert import DISTILBERT
from jaxtune.models.families.electra import ELECTRA
from jaxtune.models.families.gemma2 import GEMMA2
from jaxtune.models.families.gemma3 import GEMMA3
from jaxtune.models.families.gpt2 import GPT2
from jaxtune.models.families.llama import LLAMA
from jaxtune.models.families.marian import MARIAN, PEGASUS
from jaxtune.models.families.mistral import MISTRAL
from jaxtune.models.families.modernbert import MODERNBERT
from jaxtune.models.families.qwen2 import QWEN2
from jaxtune.models.families.qwen3 import QWEN3
from jaxtune.models.families.roberta import ROBERTA, XLM_ROBERTA
from jaxtune.models.families.smollm3 import SMOLLM3
from jaxtune.models.families.t5 import MT5, T5
from jaxtune.models.families.textcnn import TEXTCNN
from jaxtune.models.families.transformer import TRANSFORMER
from jaxtune.models.family import Family

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
