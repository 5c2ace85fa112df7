"""Qwen3 (Yang et al. 2025): a Llama that normalises each head's query and key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtune.models.config_reading import read_fields
from jaxtune.models.decoder import DecoderConfig, decoder_family, head_settings
from jaxtune.models.families.qwen2 import qwen_windows
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.rotary import rotary_from_hf


@dataclasses.dataclass(frozen=True)
class Qwen3Config(DecoderConfig):
    """The settings of a dense Qwen3."""

    vocab_size: int = 151936
    intermediate_size: int = 22016
    max_position_embeddings: int | None = 32768

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Qwen3Config:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        return read_fields(
            cls,
            raw,
            supported={"hidden_act": tuple(ACTIVATIONS)},
            output_bias=bool(raw.get("attention_bias")),
            head_norm=True,
            windows=qwen_windows(raw),
            rotaries=(rotary_from_hf(raw, context=raw.get("max_position_embeddings") or 32768),),
            **head_settings({"head_dim": 128, **raw}, width=4096, heads=32),
        )


QWEN3 = decoder_family("qwen3", Qwen3Config, "Qwen3")
