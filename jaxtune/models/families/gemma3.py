"""Gemma 3's text model (Gemma Team 2025): five local layers to a global one, each kind with its rotary embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtune.models.config_reading import read_fields
from jaxtune.models.decoder import DecoderConfig, alternating, decoder_family, layer_windows
from jaxtune.models.families.gemma2 import GEMMA_RENAMED, gemma_settings
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.rotary import Rotary, rotary_from_hf


@dataclasses.dataclass(frozen=True)
class Gemma3Config(DecoderConfig):
    """The settings of a Gemma 3 text model."""

    vocab_size: int = 262208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int | None = 131072
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Gemma3Config:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        layers = raw.get("num_hidden_layers") or 26
        period = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or 6
        kinds = raw.get("layer_types") or alternating(layers, period)
        supported = {
            "hidden_activation": (None, *ACTIVATIONS),
            "use_bidirectional_attention": (None, False),
            # transformers' Gemma 3 reads this setting and does not apply it.
            "attn_logit_softcapping": (None,),
        }
        return read_fields(
            cls,
            raw,
            renamed=GEMMA_RENAMED,
            supported=supported,
            head_norm=True,
            windows=layer_windows(kinds, raw.get("sliding_window", 4096)),
            rotaries=_rotaries(raw),
            rotary_of=tuple(int(kind == "sliding_attention") for kind in kinds),
            **gemma_settings(raw),
        )


def _rotaries(raw: Mapping[str, Any]) -> tuple[Rotary, Rotary]:
    """Of the global and of the local layers; only the first is ever scaled in checkpoints of today."""
    context = raw.get("max_position_embeddings") or 131072
    given = raw.get("rope_parameters") or {}
    if given.keys() <= {"full_attention", "sliding_attention"}:
        whole, local = given.get("full_attention") or {}, given.get("sliding_attention") or {}
    else:
        whole, local = given, {}
    return (
        rotary_from_hf({**raw, "rope_parameters": whole}, theta=1e6, context=context),
        rotary_from_hf(
            {"rope_theta": raw.get("rope_local_base_freq"), "rope_parameters": local}, context=context
        ),
    )


GEMMA3 = decoder_family("gemma3_text", Gemma3Config, "Gemma3", "Gemma3Text")
