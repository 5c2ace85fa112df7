"""SmolLM3 (Hugging Face 2025): a Llama in which every fourth layer has no positions (NoPE, Yang et al. 2025)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtune.models.config_reading import read_fields
from jaxtune.models.decoder import DecoderConfig, decoder_family, head_settings, layer_windows
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.rotary import NO_POSITIONS, Rotary, rotary_from_hf


@dataclasses.dataclass(frozen=True)
class SmolLM3Config(DecoderConfig):
    """The settings of a SmolLM3."""

    vocab_size: int = 128256
    hidden_size: int = 2048
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    max_position_embeddings: int | None = 32768
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 128004

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> SmolLM3Config:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        rotated = _rotated_layers(raw)
        rotary = rotary_from_hf(raw, theta=2e6, context=raw.get("max_position_embeddings") or 32768)
        window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
        kinds = raw.get("layer_types") if window else None
        if kinds is None:
            kinds = ["sliding_attention" if window and not turn else "full_attention" for turn in rotated]
        return read_fields(
            cls,
            raw,
            supported={"hidden_act": tuple(ACTIVATIONS)},
            output_bias=bool(raw.get("attention_bias")),
            windows=layer_windows(kinds, window),
            rotaries=(rotary, Rotary(kind=NO_POSITIONS)),
            rotary_of=tuple(0 if turn else 1 for turn in rotated),
            **head_settings({"num_key_value_heads": 4, **raw}, width=2048, heads=16),
        )


def _rotated_layers(raw: Mapping[str, Any]) -> list[bool]:
    """Of each layer, whether it turns queries and keys; ``no_rope_layers`` holds 1 where it does."""
    layers = raw.get("num_hidden_layers") or 36
    period = raw.get("no_rope_layer_interval") or 4
    given = raw.get("no_rope_layers") or [(i + 1) % period for i in range(layers)]
    return [bool(turn) for turn in given]


SMOLLM3 = decoder_family("smollm3", SmolLM3Config, "SmolLM3")
