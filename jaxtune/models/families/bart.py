"""BART (Lewis et al. 2020) and mBART (Liu et al. 2020), equal to transformers' models to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from jaxtune.models.config_reading import check_divides, read_fields
from jaxtune.models.encoder_decoder import EncoderDecoderConfig, encoder_decoder_family
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.weight_map import WeightEntry, linear, norm

RENAMED = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
    "decoder_intermediate_size": "decoder_ffn_dim",
    "hidden_act": "activation_function",
    "initializer_range": "init_std",
}
"""Our names of settings, and those of BART and its descendants."""


@dataclasses.dataclass(frozen=True)
class BartConfig(EncoderDecoderConfig):
    """The settings of a BART, or of a descendant.

    A subclass says in ``network`` what it is. Older config.json files say some of it too, and
    must agree.
    """

    vocab_size: int = 50265
    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_decoder_layers: int | None = 12
    num_attention_heads: int = 16
    decoder_attention_heads: int | None = 16
    intermediate_size: int = 4096
    decoder_intermediate_size: int | None = 4096
    hidden_act: str = "gelu"
    pad_token_id: int | None = 1

    network: ClassVar[Mapping[str, Any]] = {"positions": "learned", "embedding_norm": True}

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        settled = {"logits_bias": True, **cls.network}
        supported = {
            "activation_function": tuple(ACTIVATIONS),
            "tie_word_embeddings": (True,),
            "is_encoder_decoder": (True, None),
            "is_decoder": (False, None),
            "normalize_before": (settled.get("pre_norm", False),),
            "normalize_embedding": (settled.get("embedding_norm", False),),
            "add_final_layer_norm": (settled.get("final_norm", False),),
            "static_position_embeddings": (settled["positions"] == "sinusoidal",),
        }
        config = read_fields(cls, raw, renamed=RENAMED, supported=supported, **settled)
        check_divides(config, "hidden_size", "num_attention_heads")
        check_divides(config, "hidden_size", "decoder_attention_heads")
        return config


@dataclasses.dataclass(frozen=True)
class MBartConfig(BartConfig):
    """The settings of an mBART: norms before each block, and one after the last."""

    network: ClassVar[Mapping[str, Any]] = {**BartConfig.network, "pre_norm": True, "final_norm": True}


def weight_map(config: EncoderDecoderConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of a BART or a descendant without its head in a Hugging Face checkpoint."""
    entries = _tables(config)
    for side in ("encoder", "decoder"):
        decoder = side == "decoder"
        if config.positions == "learned":
            entries.append(WeightEntry(f"{side}.embed_positions.weight", f"{side}/position/embedding"))
        if config.embedding_norm:
            entries += norm(f"{side}.layernorm_embedding", f"{side}/embedding_norm")
        for i in range(config.side(decoder).layers):
            hf, path = f"{side}.layers.{i}", f"{side}/layers/{i}"
            entries += _attention(f"{hf}.self_attn", f"{path}/attention")
            if decoder:
                entries += _attention(f"{hf}.encoder_attn", f"{path}/cross_attention")
            entries += linear(f"{hf}.fc1", f"{path}/mlp_up")
            entries += linear(f"{hf}.fc2", f"{path}/mlp_down")
            entries += norm(f"{hf}.final_layer_norm", f"{path}/mlp_norm")
        if config.final_norm:
            entries += norm(f"{side}.layer_norm", f"{side}/norm")
    return tuple(entries)


def _tables(config: EncoderDecoderConfig) -> list[WeightEntry]:
    """One table for all three uses, or one of the encoder and one of the decoder and the output."""
    encoder, decoder, output = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"
    if config.share_embeddings:
        aliases = (encoder, decoder, output)
        return [WeightEntry("shared.weight", "word/embedding", "pad_rows", aliases=aliases)]
    return [
        WeightEntry(encoder, "encoder/word/embedding", "pad_rows"),
        WeightEntry(decoder, "decoder/word/embedding", "pad_rows", aliases=(output,)),
    ]


def _attention(hf: str, path: str) -> list[WeightEntry]:
    """An attention and the norm that goes with it."""
    entries: list[WeightEntry] = []
    for short, name in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output")):
        entries += linear(f"{hf}.{short}", f"{path}/{name}")
    return [*entries, *norm(f"{hf}_layer_norm", f"{path}_norm")]


def word_map(config: EncoderDecoderConfig) -> tuple[WeightEntry, ...]:
    """Names of the tensors of the head: one number per word, mostly zero and often left out."""
    bias = WeightEntry("final_logits_bias", "bias", "pad_columns", optional=True)
    return (bias,) if config.logits_bias else ()


BART = encoder_decoder_family(
    "bart", BartConfig, "BartForConditionalGeneration", "BartModel", weight_map, word_map, prefix="model."
)
MBART = encoder_decoder_family(
    "mbart", MBartConfig, "MBartForConditionalGeneration", "MBartModel", weight_map, word_map, prefix="model."
)
