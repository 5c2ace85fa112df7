"""Marian (Junczys-Dowmunt et al. 2018) and Pegasus (Zhang et al. 2020), equal to transformers' models to rounding.

Two Transformers with sinusoidal positions: Marian normalises after each block, Pegasus before. Their
positions are computed here; a checkpoint that holds them too (``embed_positions``) may.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from jaxtune.models.encoder_decoder import encoder_decoder_family, sinusoids
from jaxtune.models.families.bart import BartConfig, weight_map, word_map


@dataclasses.dataclass(frozen=True)
class MarianConfig(BartConfig):
    """The settings of a Marian."""

    vocab_size: int = 58101
    pad_token_id: int | None = 58100

    network: ClassVar[Mapping[str, Any]] = {"positions": "sinusoidal"}

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        config = super().from_hf(raw)
        words = raw.get("decoder_vocab_size")
        if words is not None and words != config.vocab_size:
            raise ValueError(
                f"config.json: decoder_vocab_size={words} is not supported; use {config.vocab_size}, "
                "the vocab_size (encoder and decoder need vocabularies of one size)"
            )
        shared = raw.get("share_encoder_decoder_embeddings")
        return dataclasses.replace(config, share_embeddings=shared is None or bool(shared))


@dataclasses.dataclass(frozen=True)
class PegasusConfig(BartConfig):
    """The settings of a Pegasus."""

    pad_token_id: int | None = 0

    network: ClassVar[Mapping[str, Any]] = {"positions": "sinusoidal", "pre_norm": True, "final_norm": True}


MARIAN = encoder_decoder_family(
    "marian", MarianConfig, "MarianMTModel", "MarianModel", weight_map, word_map, prefix="model."
)


def _pegasus_positions(config: PegasusConfig) -> Mapping[str, np.ndarray]:
    table = sinusoids(config.max_position_embeddings or 0, config.hidden_size)
    return {f"{side}.embed_positions.weight": table for side in ("encoder", "decoder")}


PEGASUS = dataclasses.replace(
    encoder_decoder_family(
        "pegasus",
        PegasusConfig,
        "PegasusForConditionalGeneration",
        "PegasusModel",
        weight_map,
        word_map,
        prefix="model.",
    ),
    constants=_pegasus_positions,
)
