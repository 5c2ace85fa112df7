"""All cases by name, those whose gradients are compared, and those that generate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.models.family_cases import Case, by_name
from tests.models.family_cases_decoders import DECODERS, GPT2, LLAMA_GQA_TIED
from tests.models.family_cases_encoders import ENCODERS
from tests.models.family_cases_seq2seq import BART, MARIAN, MBART, SEQ2SEQ, T5

CASES: dict[str, Case] = by_name((*ENCODERS, *DECODERS, *SEQ2SEQ))

GRADIENTS = (
    "deberta_v3_classification",
    "modernbert_classification",
    "llama_gqa_tied",
    "gpt2",
    "t5_flan",
)
"""Cases with golden gradients: at least one of each kind."""

PROMPT_LENGTHS = (3, 11, 7, 1, 5, 9, 2, 8, 4, 10, 6, 12, 3, 7, 11, 5, 2, 9, 4, 8)


@dataclasses.dataclass(frozen=True)
class GenerationCase:
    """A checkpoint that generates, its generation_config.json, and the searches by name.

    ``salt`` gives other random weights; chosen so that no search hangs on a near tie.
    """

    case: Case
    generation_config: Mapping[str, Any]
    searches: Mapping[str, Mapping[str, Any]]
    salt: str = ""

    def prompts(self) -> dict[str, np.ndarray]:
        """Twenty prompts of different lengths: padded on the left for a decoder, else on the right."""
        rng = np.random.RandomState(3)
        config, longest = self.case.config, max(PROMPT_LENGTHS)
        mask = (np.arange(longest) < np.array(PROMPT_LENGTHS)[:, None]).astype(np.int32)
        if not self.case.seq2seq:
            mask = mask[:, ::-1].copy()
        special = {config.get(name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        words = np.array([word for word in range(config["vocab_size"]) if word not in special])
        ids = np.where(
            mask == 1, rng.choice(words, mask.shape), config.get("pad_token_id", config["eos_token_id"])
        )
        return {"input_ids": ids.astype(np.int32), "attention_mask": mask}


_LONG = {"max_new_tokens": 20}
SEARCHES = {
    "greedy": {**_LONG, "num_beams": 1},
    "beam": {**_LONG, "num_beams": 4, "length_penalty": 1.0},
}
VARIANTS = {
    "beam_short": {**_LONG, "num_beams": 4, "length_penalty": 0.4, "early_stopping": True},
    "beam_long": {**_LONG, "num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
}


def _plan(
    name: str, config: Mapping[str, Any], table: str, eos: float, salt: str = "", **searches: Any
) -> GenerationCase:
    """A small random model whose end comes up now and then, and whose padding never does."""
    special = (
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "forced_eos_token_id",
    )
    generation = {key: config[key] for key in special if config.get(key) is not None}
    generation.setdefault("pad_token_id", config["eos_token_id"])
    factors = {config["eos_token_id"]: eos}
    if config.get("pad_token_id") is not None:
        factors[config["pad_token_id"]] = 0.0
    head = "seq2seq_lm" if config.get("is_encoder_decoder") else "causal_lm"
    case = Case(name, config, head, rows={table: factors})
    return GenerationCase(case, generation, {**SEARCHES, **searches}, salt)


GENERATION: dict[str, GenerationCase] = {
    "gpt2": _plan("gpt2_generation", GPT2, "transformer.wte.weight", 2.0, "5", **VARIANTS),
    "llama": _plan("llama_generation", LLAMA_GQA_TIED, "model.embed_tokens.weight", 1.5),
    "t5": _plan("t5_generation", {**T5, "num_decoder_layers": 2}, "shared.weight", 2.0, "4"),
    "bart": _plan("bart_generation", BART, "model.shared.weight", 4.0, "1"),
    "marian": _plan("marian_generation", MARIAN, "model.shared.weight", 2.0, "3"),
    "mbart": _plan(
        "mbart_generation",
        # Unscaled, so that the texts depend on the prompts.
        {**MBART, "scale_embedding": False},
        "model.shared.weight",
        3.0,
        "22",
        forced={**_LONG, "num_beams": 4, "forced_bos_token_id": 57},
    ),
}
