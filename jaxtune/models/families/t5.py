"""T5 (Raffel et al. 2020), T5 v1.1, FLAN-T5, ByT5 and mT5, equal to transformers' models to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from jaxtune.models.config_reading import read_fields
from jaxtune.models.encoder_decoder import EncoderDecoderConfig, encoder_decoder_family
from jaxtune.models.layers import ACTIVATIONS
from jaxtune.models.relative_positions import check_buckets
from jaxtune.models.weight_map import WeightEntry, linear, norm

_RENAMED = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "head_dim": "d_kv",
    "intermediate_size": "d_ff",
    "initializer_range": "initializer_factor",
    "norm_eps": "layer_norm_epsilon",
    "dropout": "dropout_rate",
    "relative_buckets": "relative_attention_num_buckets",
    "relative_max_distance": "relative_attention_max_distance",
}
_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@dataclasses.dataclass(frozen=True)
class T5Config(EncoderDecoderConfig):
    """The settings of a T5; ``initializer_range`` is its initializer_factor."""

    vocab_size: int = 32128
    head_dim: int | None = 64
    max_position_embeddings: int | None = None
    initializer_range: float = 1.0
    norm_eps: float = 1e-6
    pad_token_id: int | None = 0

    default_feed_forward: ClassVar[str] = "relu"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        tied, scaled = cls._output(raw)
        act, gated = _feed_forward(raw, cls.default_feed_forward)
        rate = 0.1 if raw.get("dropout_rate") is None else raw["dropout_rate"]
        width = raw.get("d_model") or cls.hidden_size
        config = read_fields(
            cls,
            raw,
            renamed=_RENAMED,
            supported={"is_encoder_decoder": (True, None), "is_decoder": (False, None)},
            hidden_act=act,
            gated=gated,
            dropout=rate,
            attention_dropout=rate,
            activation_dropout=rate,
            tie_word_embeddings=tied,
            logits_scale=width**-0.5 if scaled else 1.0,
            # No options: what a T5 is.
            max_position_embeddings=None,
            positions="relative",
            pre_norm=True,
            final_norm=True,
            final_dropout=True,
            rms_norm=True,
            use_bias=False,
            attention_scale=1.0,
        )
        check_buckets(config.relative_buckets, config.relative_max_distance)
        return config

    @classmethod
    def _output(cls, raw: Mapping[str, Any]) -> tuple[bool, bool]:
        """Whether the output table is the input's, and whether hidden states are scaled before it.

        T5's first version has both and v1.1 neither, of which the Hub's config.json says
        ``tie_word_embeddings: false``. transformers 5 writes true in any case, and the difference
        into ``scale_decoder_outputs``; the table is then in the file, or is the input's after all.
        """
        tied = raw.get("tie_word_embeddings") is not False
        scaled = raw.get("scale_decoder_outputs")
        scaled = tied if scaled is None else bool(scaled)
        return tied and scaled, scaled

    def stddev(self, inputs: int, outputs: int) -> float:
        """Of a fresh [inputs, outputs] kernel."""
        return self.initializer_range * inputs**-0.5

    @property
    def query_stddev(self) -> float:
        """Smaller by the factor that other models have on the scores."""
        return self.initializer_range * (self.hidden_size * (self.head_dim or 1)) ** -0.5


@dataclasses.dataclass(frozen=True)
class MT5Config(T5Config):
    """The settings of an mT5, which is a T5 v1.1 for many languages."""

    vocab_size: int = 250112
    num_hidden_layers: int = 8
    num_attention_heads: int = 6
    intermediate_size: int = 1024

    default_feed_forward: ClassVar[str] = "gated-gelu"

    @classmethod
    def _output(cls, raw: Mapping[str, Any]) -> tuple[bool, bool]:
        """Never: transformers 5 writes ``tie_word_embeddings: true`` of every mT5, and no second setting."""
        return False, False


def _feed_forward(raw: Mapping[str, Any], default: str) -> tuple[str, bool]:
    """Activation, and whether it gates; settings that transformers writes beside feed_forward_proj go first."""
    name = raw.get("feed_forward_proj") or default
    kind, _, act = name.rpartition("-")
    if kind not in ("", "gated") or act not in ACTIVATIONS:
        known = ", ".join(("relu", "gated-gelu", *(f"gated-{act}" for act in ACTIVATIONS if act != "gelu")))
        raise ValueError(f"config.json: feed_forward_proj={name!r} is not supported; use one of {known}")
    if name == "gated-gelu":
        act = "gelu_new"
    act = raw.get("dense_act_fn") or act
    if act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"config.json: dense_act_fn={act!r} is not supported; use one of {known}")
    gated = raw.get("is_gated_act")
    return act, kind == "gated" if gated is None else bool(gated)


def weight_map(config: EncoderDecoderConfig) -> tuple[WeightEntry, ...]:
    """Names of every tensor of a T5 without its head in a Hugging Face checkpoint."""
    tied = ("lm_head.weight",) if config.tie_word_embeddings else ()
    entries = [WeightEntry("shared.weight", "word/embedding", "pad_rows", aliases=(*_EMBEDDINGS, *tied))]
    for side in ("encoder", "decoder"):
        decoder = side == "decoder"
        entries.append(
            WeightEntry(
                f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                f"{side}/relative_bias/embedding",
            )
        )
        for i in range(config.side(decoder).layers):
            hf, path = f"{side}.block.{i}.layer", f"{side}/layers/{i}"
            entries += _attention(f"{hf}.0.SelfAttention", f"{path}/attention")
            entries += norm(f"{hf}.0.layer_norm", f"{path}/attention_norm", bias=False)
            if decoder:
                entries += _attention(f"{hf}.1.EncDecAttention", f"{path}/cross_attention")
                entries += norm(f"{hf}.1.layer_norm", f"{path}/cross_attention_norm", bias=False)
            last = f"{hf}.{1 + decoder}"
            names = {"wi_0": "gate", "wi_1": "up"} if config.gated else {"wi": "up"}
            for theirs, ours in {**names, "wo": "down"}.items():
                entries += linear(f"{last}.DenseReluDense.{theirs}", f"{path}/mlp_{ours}", bias=False)
            entries += norm(f"{last}.layer_norm", f"{path}/mlp_norm", bias=False)
        entries += norm(f"{side}.final_layer_norm", f"{side}/norm", bias=False)
    return tuple(entries)


def _attention(hf: str, path: str) -> list[WeightEntry]:
    entries: list[WeightEntry] = []
    for short, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output")):
        entries += linear(f"{hf}.{short}", f"{path}/{name}", bias=False)
    return entries


def _word_map(config: EncoderDecoderConfig) -> tuple[WeightEntry, ...]:
    own = WeightEntry("lm_head.weight", "lm_head/embedding", "pad_rows", fallback="shared.weight")
    return () if config.tie_word_embeddings else (own,)


T5 = encoder_decoder_family(
    "t5", T5Config, "T5ForConditionalGeneration", "T5Model", weight_map, _word_map, prefix=""
)
MT5 = encoder_decoder_family(
    "mt5", MT5Config, "MT5ForConditionalGeneration", "MT5Model", weight_map, _word_map, prefix=""
)
