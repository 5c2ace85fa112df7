"""The Transformer of "Attention is all you need" (Vaswani et al. 2017), to be trained from scratch.

Its config.json is our own; settings go by the names that Marian's and Pegasus's have. With norms after
each block it is a Marian, with norms before (and a last one) a Pegasus: tensors are called as there, and
``to_hf`` gives the config.json with which transformers reads them so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from jaxtune.models.config_reading import check_divides, read_fields
from jaxtune.models.encoder_decoder import Positions, encoder_decoder_family
from jaxtune.models.families.bart import RENAMED, BartConfig, weight_map, word_map
from jaxtune.models.layers import ACTIVATIONS

_RENAMED = {
    **RENAMED,
    "initializer_range": "initializer_factor",
    "pre_norm": "normalize_before",
    "share_embeddings": "share_encoder_decoder_embeddings",
}

SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "big": {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "dropout": 0.3,
    },
}
"""What the sizes of the paper, and a small one, change of ``TransformerConfig``'s defaults."""


@dataclasses.dataclass(frozen=True)
class TransformerConfig(BartConfig):
    """The settings of a Transformer; the defaults are the paper's base size.

    Attributes:
        pre_norm: norms before each block (and one after the last), which trains without a long warm-up;
            the paper has them after it.
        share_embeddings: one table for source, target and output; else one for the source, and one for
            target and output.
        initializer_range: factor of the spread of all fresh parameters.
    """

    vocab_size: int = 32000
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_decoder_layers: int | None = None
    num_attention_heads: int = 8
    decoder_attention_heads: int | None = None
    intermediate_size: int = 2048
    decoder_intermediate_size: int | None = None
    hidden_act: str = "relu"
    scale_embedding: bool = True
    initializer_range: float = 1.0
    pad_token_id: int | None = 0
    positions: Positions = "sinusoidal"

    @classmethod
    def of_size(cls, size: str, vocab_size: int, **changes: Any) -> Self:
        """The paper's ``base`` or ``big`` size, or ``small``.

        Args:
            changes: other settings than its own, as attributes here are called.

        Raises:
            ValueError: no such size.
        """
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r} of a transformer; expected one of {', '.join(SIZES)}")
        settings = {**SIZES[size], **changes}
        return cls(vocab_size=vocab_size, final_norm=settings.get("pre_norm", False), **settings)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json.

        Raises:
            ValueError: an option that changes the network and is not supported, by name and value.
        """
        supported = {
            "activation_function": tuple(ACTIVATIONS),
            "tie_word_embeddings": (True,),
            "normalize_embedding": (False,),
            "static_position_embeddings": (True,),
        }
        final_norm = bool(raw.get("normalize_before"))
        config = read_fields(cls, raw, renamed=_RENAMED, supported=supported, final_norm=final_norm)
        check_divides(config, "hidden_size", "num_attention_heads")
        if config.decoder_attention_heads is not None:
            check_divides(config, "hidden_size", "decoder_attention_heads")
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json of this network.

        It is one of ``marian`` or ``pegasus``, which transformers reads; pre-norm with two word tables
        is neither and stays a ``transformer``, which only jaxtune reads.
        """
        encoder, decoder = self.side(decoder=False), self.side(decoder=True)
        common = {
            "vocab_size": self.vocab_size,
            "d_model": self.hidden_size,
            "encoder_layers": encoder.layers,
            "decoder_layers": decoder.layers,
            "encoder_attention_heads": encoder.heads,
            "decoder_attention_heads": decoder.heads,
            "encoder_ffn_dim": encoder.intermediate_size,
            "decoder_ffn_dim": decoder.intermediate_size,
            "encoder_layerdrop": encoder.layerdrop,
            "decoder_layerdrop": decoder.layerdrop,
            "activation_function": self.hidden_act,
            "max_position_embeddings": self.max_position_embeddings,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            "scale_embedding": self.scale_embedding,
            "pad_token_id": self.pad_token_id,
            "is_encoder_decoder": True,
        }
        shared = {"share_encoder_decoder_embeddings": self.share_embeddings}
        if not self.pre_norm:
            return {"model_type": "marian", **common, **shared, "decoder_vocab_size": self.vocab_size}
        if self.share_embeddings:
            return {"model_type": "pegasus", **common}
        return {"model_type": "transformer", **common, **shared, "normalize_before": True}

    def stddev(self, inputs: int, outputs: int) -> float:
        """Of a fresh [inputs, outputs] kernel: Glorot & Bengio's (2010), as in the paper's own code."""
        return self.initializer_range * (2 / (inputs + outputs)) ** 0.5

    @property
    def table_stddev(self) -> float:
        """Of fresh word embeddings; of size 1 once they are scaled by sqrt(D)."""
        return self.initializer_range * self.hidden_size**-0.5


TRANSFORMER = encoder_decoder_family(
    "transformer",
    TransformerConfig,
    "TransformerForConditionalGeneration",
    "TransformerModel",
    weight_map,
    word_map,
    prefix="model.",
)
