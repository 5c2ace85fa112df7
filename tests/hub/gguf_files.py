"""GGUF files of tiny models, written as llama.cpp's converter would: its names, its permutation, its offsets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
WHOLE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}


def gguf_name(name: str, architecture: str) -> str:
    module, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"(?:model\.layers|transformer\.h)\.(\d+)\.(.*)", module)
    if layer is None:
        return f"{WHOLE[module]}.{kind}"
    names = GPT2 if architecture == "gpt2" else LAYER | (GEMMA if architecture.startswith("gemma") else {})
    return f"blk.{layer[1]}.{names[layer[2]]}.{kind}"


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """As ``LlamaModel.permute`` of llama.cpp's convert_hf_to_gguf.py."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def as_stored(name: str, tensor: np.ndarray, architecture: str, raw: dict[str, Any]) -> np.ndarray:
    if architecture == "llama" and ".q_proj." in name:
        return permuted(tensor, raw["num_attention_heads"])
    if architecture == "llama" and ".k_proj." in name:
        return permuted(tensor, raw["num_key_value_heads"])
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if architecture == "gpt2" and re.search(r"\.c_(attn|proj|fc)\.weight", name):
        return tensor.T
    return tensor


def metadata_of(raw: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Sizes of a model by llama.cpp's names; the kind of number decides the type."""
    if architecture == "gpt2":
        return {
            "block_count": raw["n_layer"],
            "context_length": raw["n_positions"],
            "embedding_length": raw["n_embd"],
            "feed_forward_length": 4 * raw["n_embd"],
            "attention.head_count": raw["n_head"],
            "attention.layer_norm_epsilon": 1e-5,
        }
    heads = raw["num_attention_heads"]
    return {
        "block_count": raw["num_hidden_layers"],
        "context_length": raw["max_position_embeddings"],
        "embedding_length": raw["hidden_size"],
        "feed_forward_length": raw["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": raw["num_key_value_heads"],
        "attention.key_length": raw.get("head_dim", raw["hidden_size"] // heads),
        "attention.value_length": raw.get("head_dim", raw["hidden_size"] // heads),
        "attention.layer_norm_rms_epsilon": raw.get("rms_norm_eps", 1e-6),
        "rope.freq_base": float(raw.get("rope_theta", 10000.0)),
    }


BYTE_LEVEL = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<|end|>", *"abcdefghij", "Ġ", "ab", "Ġab", "<tool>", "Ċ"],
    "tokenizer.ggml.token_type": [3, *[1] * 13, 4, 1],
    "tokenizer.ggml.merges": ["a b", "Ġ ab"],
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.bos_token_id": 0,
}


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    raw: dict[str, Any],
    architecture: str,
    *,
    quantise: dict[str, str] | None = None,
    extra: dict[str, Any] | None = None,
    blocks: dict[str, tuple[np.ndarray, str]] | None = None,
    plain: dict[str, np.ndarray] | None = None,
    tokenizer: dict[str, Any] | None = None,
) -> Path:
    """Write tensors given under Hugging Face's names.

    Args:
        quantise: Hugging Face's name → type it is quantised to; the others are float32.
        extra: metadata beside the sizes; without a dot in front it is the architecture's.
        blocks: Hugging Face's name → bytes of blocks and their type, in place of numbers.
        plain: tensors under llama.cpp's own names.
        tokenizer: its metadata.
    """
    writer = gguf.GGUFWriter(str(path), architecture)
    sizes = {f"{architecture}.{name}": value for name, value in metadata_of(raw, architecture).items()}
    for name, value in {**sizes, **(extra or {}), **(BYTE_LEVEL if tokenizer is None else tokenizer)}.items():
        add(writer, name, value)
    for name, tensor in tensors.items():
        where = gguf_name(name, architecture)
        if name in (blocks or {}):
            data, kind = blocks[name]
            writer.add_tensor(where, data, raw_dtype=gguf.GGMLQuantizationType[kind])
            continue
        stored = np.ascontiguousarray(as_stored(name, tensor, architecture, raw), np.float32)
        kind = (quantise or {}).get(name)
        if kind is None:
            writer.add_tensor(where, stored)
        else:
            dtype = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(where, gguf.quants.quantize(stored, dtype), raw_dtype=dtype)
    for name, tensor in (plain or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: Any, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
