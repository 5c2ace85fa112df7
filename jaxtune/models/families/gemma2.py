"""Gemma 2 (Gemma Team 2024): norms around each block, soft-capped scores and logits, every other layer local."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtune.models.config_reading import read_fields
from jaxtune.models.decoder import (
    DecoderConfig,
    alternating,
    decoder_family,
    head_settings,
    layer_windows,
)
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.rotary import rotary_from_hf

GEMMA_RENAMED = {
    "hidden_act": "hidden_activation",
    "attention_soft_cap": "attn_logit_softcapping",
    "final_soft_cap": "final_logit_softcapping",
}


@dataclasses.dataclass(frozen=True)
class Gemma2Config(DecoderConfig):
    """The settings of a Gemma 2."""

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int | None = 8192
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Gemma2Config:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        raw = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, **raw}
        kinds = raw.get("layer_types") or alternating(raw.get("num_hidden_layers") or 26, 2)
        return read_fields(
            cls,
            raw,
            renamed=GEMMA_RENAMED,
            supported={
                "hidden_activation": (None, *ACTIVATIONS),
                "use_bidirectional_attention": (None, False),
            },
            windows=layer_windows(kinds, raw.get("sliding_window", 4096)),
            rotaries=(rotary_from_hf(raw, context=raw.get("max_position_embeddings") or 8192),),
            **gemma_settings(raw),
        )


def gemma_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What all Gemmas since the second have in common, beside their windows and rotary embeddings."""
    heads = head_settings(
        {"num_key_value_heads": 4, "head_dim": 256, "num_attention_heads": 8, **raw}, width=2304, heads=8
    )
    return {
        **heads,
        "output_bias": bool(raw.get("attention_bias")),
        "norm_offset": 1.0,
        "post_norms": True,
        "embedding_scale": float(raw.get("hidden_size") or 2304) ** 0.5,
        "attention_scale": float(raw.get("query_pre_attn_scalar") or 256) ** -0.5,
    }


GEMMA2 = decoder_family("gemma2", Gemma2Config, "Gemma2")
