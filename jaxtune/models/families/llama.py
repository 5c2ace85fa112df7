"""Llama 2 and 3 (Touvron et al. 2023; Grattafiori et al. 2024), and what is called so, as SmolLM2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtune.models.config_reading import read_fields
from jaxtune.models.decoder import DecoderConfig, decoder_family, head_settings
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.rotary import rotary_from_hf


@dataclasses.dataclass(frozen=True)
class LlamaConfig(DecoderConfig):
    """The settings of a Llama."""

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> LlamaConfig:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        supported = {"hidden_act": tuple(ACTIVATIONS), "pretraining_tp": (1, None)}
        return read_fields(
            cls,
            raw,
            supported=supported,
            output_bias=bool(raw.get("attention_bias")),
            rotaries=(rotary_from_hf(raw, context=raw.get("max_position_embeddings") or 2048),),
            **head_settings(raw, width=4096, heads=32),
        )


LLAMA = decoder_family("llama", LlamaConfig, "Llama")
