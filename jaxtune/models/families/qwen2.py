"""Qwen2 and Qwen2.5 (Yang et al. 2024): a Llama with biases on query, key and value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtune.models.config_reading import read_fields
from jaxtune.models.decoder import DecoderConfig, decoder_family, head_settings, layer_windows
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.rotary import rotary_from_hf


@dataclasses.dataclass(frozen=True)
class Qwen2Config(DecoderConfig):
    """The settings of a Qwen2."""

    vocab_size: int = 151936
    intermediate_size: int = 22016
    max_position_embeddings: int | None = 32768

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Qwen2Config:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        return read_fields(
            cls,
            raw,
            supported={"hidden_act": tuple(ACTIVATIONS)},
            attention_bias=True,
            windows=qwen_windows(raw),
            rotaries=(rotary_from_hf(raw, context=raw.get("max_position_embeddings") or 32768),),
            **head_settings(raw, width=4096, heads=32),
        )


def qwen_windows(raw: Mapping[str, Any]) -> tuple[int, ...] | None:
    """How far each layer sees: the first ``max_window_layers`` everything, the others a window, if one is used."""
    layers = raw.get("num_hidden_layers") or 32
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window") else None
    first = raw.get("max_window_layers", 28) if window else layers
    kinds = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
    return layer_windows(raw.get("layer_types") or kinds, window)


QWEN2 = decoder_family("qwen2", Qwen2Config, "Qwen2")
