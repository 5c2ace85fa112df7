"""Mistral (Jiang et al. 2023): a Llama whose layers may all have a sliding window."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtune.models.config_reading import read_fields
from jaxtune.models.decoder import DecoderConfig, decoder_family, head_settings, layer_windows
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.rotary import rotary_from_hf


@dataclasses.dataclass(frozen=True)
class MistralConfig(DecoderConfig):
    """The settings of a Mistral."""

    intermediate_size: int = 14336
    max_position_embeddings: int | None = 131072

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> MistralConfig:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        window = raw.get("sliding_window", 4096)
        kinds = ("sliding_attention" if window else "full_attention",) * (raw.get("num_hidden_layers") or 32)
        return read_fields(
            cls,
            raw,
            supported={"hidden_act": tuple(ACTIVATIONS), "attention_bias": (False,), "mlp_bias": (False,)},
            windows=layer_windows(kinds, window),
            rotaries=(rotary_from_hf(raw, context=raw.get("max_position_embeddings") or 131072),),
            **head_settings({"num_key_value_heads": 8, **raw}, width=4096, heads=32),
        )


MISTRAL = decoder_family("mistral", MistralConfig, "Mistral")
