"""Writes checkpoints of transformers' old Flax models: what people who come from there have on their disks.

    python tests/goldens/make_flax_goldens.py [--out tests/goldens/flax]

runs under transformers 4.57 (the last that has them) with flax 0.8 and jax 0.4.30, and nothing of jaxtune. Each
folder gets config.json, flax_model.msgpack as ``save_pretrained`` writes it, and expected.npz: input_ids,
attention_mask (token_type_ids, decoder_input_ids) and the logits of the Flax model, float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers

BERT = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "initializer_range": 0.3,
}
LLAMA = {**BERT, "num_key_value_heads": 1, "pad_token_id": 0}
BART = {
    "vocab_size": 61,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 24,
    "init_std": 0.3,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
T5 = {
    "vocab_size": 61,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "initializer_factor": 1.0,
}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert_classification": ("FlaxBertForSequenceClassification", "BertConfig", {**BERT, "num_labels": 3}),
    "bert_mlm": ("FlaxBertForMaskedLM", "BertConfig", BERT),
    "roberta_mlm": (
        "FlaxRobertaForMaskedLM",
        "RobertaConfig",
        {**BERT, "pad_token_id": 1, "type_vocab_size": 1},
    ),
    "distilbert_mlm": (
        "FlaxDistilBertForMaskedLM",
        "DistilBertConfig",
        {
            "vocab_size": 61,
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 24,
            "max_position_embeddings": 24,
            "initializer_range": 0.3,
        },
    ),
    "electra_classification": (
        "FlaxElectraForSequenceClassification",
        "ElectraConfig",
        {**BERT, "embedding_size": 8, "num_labels": 3},
    ),
    "gpt2": (
        "FlaxGPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": 61,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 24,
            "initializer_range": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "llama": ("FlaxLlamaForCausalLM", "LlamaConfig", {**LLAMA, "num_key_value_heads": 2}),
    # The Flax model sees one key more than the torch model does, so the window is not put to the test here.
    "mistral": ("FlaxMistralForCausalLM", "MistralConfig", {**LLAMA, "sliding_window": 16}),
    "t5": ("FlaxT5ForConditionalGeneration", "T5Config", T5),
    "t5_gated": (
        "FlaxT5ForConditionalGeneration",
        "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bart": ("FlaxBartForConditionalGeneration", "BartConfig", BART),
    "mbart": ("FlaxMBartForConditionalGeneration", "MBartConfig", {**BART, "scale_embedding": True}),
    "marian": (
        "FlaxMarianMTModel",
        "MarianConfig",
        {**BART, "scale_embedding": True, "activation_function": "swish", "decoder_vocab_size": 61},
    ),
}


def moved(params: Any, seed: int) -> Any:
    """The parameters with noise on all of them: what starts as zeros or ones would hide mistakes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)


def make(name: str, out: Path) -> None:
    """Write one folder."""
    architecture, config_class, settings = CASES[name]
    config = getattr(transformers, config_class)(**settings)
    model = getattr(transformers, architecture)(config, seed=1, input_shape=(1, 8))
    model.params = moved(model.params, seed=2)
    folder = out / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 61, (2, 9)).astype(np.int32)
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if name.endswith("classification"):
        # Given, because Flax's ELECTRA takes ones where there are none, and torch's takes zeros.
        inputs["token_type_ids"] = rng.integers(0, 2, ids.shape).astype(np.int32)
    if "T5" in architecture or "Conditional" in architecture or "Marian" in architecture:
        inputs["decoder_input_ids"] = rng.integers(3, 61, (2, 7)).astype(np.int32)
    with jax.default_matmul_precision("float32"):
        logits = model(**inputs).logits
    np.savez_compressed(folder / "expected.npz", **inputs, logits=np.asarray(logits, np.float32))
    print(name, {k: v.shape for k, v in inputs.items()}, np.abs(logits).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "flax")
    out = parser.parse_args().out
    for name in CASES:
        make(name, out)


if __name__ == "__main__":
    main()
