"""Tiny random checkpoints of several families, as today's transformers would name their tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxtune.hub.model_config import head_of, parse_config
from jaxtune.hub.pretrained import Pretrained
from jaxtune.hub.saving import save_pretrained
from jaxtune.models.model import build_model, init_params

BERT_MLM = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 60,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 40,
}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "tie_word_embeddings": True,
}
T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 60,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": True,
}
BART = {
    "model_type": "bart",
    "architectures": ["BartForConditionalGeneration"],
    "vocab_size": 60,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 2,
}
ALL = {"bert": BERT_MLM, "gpt2": GPT2, "llama": LLAMA, "t5": T5, "bart": BART}


def write_family(folder: Path, raw: dict[str, Any], seed: int = 0) -> Path:
    """A checkpoint with random numbers everywhere, also where a fresh model has zeros and ones."""
    config, head = parse_config(folder, raw), head_of(raw)
    model = build_model(config, head)
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    save_pretrained(folder, Pretrained(model, params, raw_config=raw))
    return folder


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, of one file or of shards."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def rewrite(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Replace the weights of a folder."""
    contiguous = {name: np.ascontiguousarray(t) for name, t in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))
