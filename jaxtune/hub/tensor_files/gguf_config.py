"""What a GGUF file says in place of a config.json."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxtune.errors import WeightsError
from jaxtune.hub.tensor_files.gguf_file import GgufFile, open_gguf
from jaxtune.hub.tensor_files.gguf_tensors import ROPE_FACTORS, GgufTensor


def config_of_gguf(path: Path) -> dict[str, Any]:
    """The config.json that Hugging Face would have for a GGUF file.

    Raises:
        WeightsError: damaged, of another architecture (lists those that are read), or with a setting that is
            not supported, by name.
    """
    file = open_gguf(path)
    if file.architecture not in _ARCHITECTURES:
        raise WeightsError(
            f"{path}: general.architecture {file.architecture!r} is not supported; supported: {', '.join(_ARCHITECTURES)}."
        )
    try:
        _check_sizes(file)
        return _ARCHITECTURES[file.architecture](file)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"{path}: its metadata cannot be understood: {error}") from error


def _check_sizes(file: GgufFile) -> None:
    """Compare the sizes with the tensors, before a model of some wrong size is laid out.

    Raises:
        WeightsError: they contradict each other; names both.
    """
    layers = {name.split(".")[1] for name in file.slots if name.startswith("blk.")}
    tables = {"token_embd.weight": (1, "embedding_length"), "position_embd.weight": (0, "context_length")}
    tables["blk.0.ffn_up.weight"] = (0, "feed_forward_length")
    found = {"block_count": (len(layers), "the layers of its tensors")}
    for name, (axis, key) in tables.items():
        if name in file.slots and len(file.slots[name].shape) == 2:
            found[key] = (file.slots[name].shape[axis], name)
    for key, (size, where) in found.items():
        if file.get(key) is not None and int(file.get(key)) != size:
            raise WeightsError(
                f"{file.path}: {file.architecture}.{key} is {file.get(key)}, and {where} say {size}. Fetch it again."
            )


def _decoder(file: GgufFile, model_type: str, architecture: str) -> dict[str, Any]:
    """What all decoders with rotary positions have."""
    if file.get("expert_count"):
        raise WeightsError(
            f"{file.path}: {file.architecture}.expert_count is not supported; use a dense model."
        )
    hidden, heads = int(file.need("embedding_length")), int(file.need("attention.head_count"))
    head_dim = int(file.get("attention.key_length") or hidden // heads)
    rows = (
        file.slots["blk.0.attn_q.weight"].shape[0]
        if "blk.0.attn_q.weight" in file.slots
        else heads * head_dim
    )
    if rows != heads * head_dim or not rows:
        raise WeightsError(
            f"{file.path}: {heads} heads of {head_dim} are {heads * head_dim} rows, and blk.0.attn_q.weight has {rows}. "
            "Fetch it again."
        )
    for key in ("attention.value_length", "rope.dimension_count"):
        if int(file.get(key) or head_dim) != head_dim:
            raise WeightsError(
                f"{file.path}: {file.architecture}.{key}={file.get(key)} is not supported; use {head_dim}, the size of a head."
            )
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": _rows(file, "token_embd.weight"),
        "hidden_size": hidden,
        "intermediate_size": int(file.need("feed_forward_length")),
        "num_hidden_layers": int(file.need("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(file.get("attention.head_count_kv") or heads),
        "head_dim": head_dim,
        "max_position_embeddings": int(file.need("context_length")),
        "rms_norm_eps": _decimal(file.need("attention.layer_norm_rms_epsilon")),
        "rope_theta": _decimal(file.get("rope.freq_base") or 10000.0),
        "tie_word_embeddings": "output.weight" not in file.slots,
        "dtype": "float32",
        **_token_ids(file),
    }
    scaling = _rope_scaling(file, head_dim, config["rope_theta"])
    return config | ({"rope_scaling": scaling} if scaling else {})


def _rows(file: GgufFile, name: str) -> int:
    if name not in file.slots or len(file.slots[name].shape) != 2:
        raise WeightsError(f"{file.path} has no table {name}: it cannot be read without.")
    return file.slots[name].shape[0]


def _decimal(value: Any) -> float:
    """The decimal that a float32 was made from: 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _token_ids(file: GgufFile) -> dict[str, Any]:
    found = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token = file.metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        if token is not None:
            found[f"{ours}_token_id"] = int(token)
    # A chat model ends its turn with a token of its own.
    turn = file.metadata.get("tokenizer.ggml.eot_token_id")
    if turn is not None and "eos_token_id" in found and turn != found["eos_token_id"]:
        return found | {"eos_token_id": [found["eos_token_id"], int(turn)]}
    return found


def _rope_scaling(file: GgufFile, head_dim: int, theta: float) -> dict[str, Any] | None:
    kind = file.get("rope.scaling.type", "none")
    if ROPE_FACTORS in file.slots:
        return _llama3_scaling(file, head_dim, theta)
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise WeightsError(
            f"{file.path}: rope.scaling.type={kind!r} is not supported; use linear, yarn or none."
        )
    scaling = {"rope_type": kind, "factor": _decimal(file.need("rope.scaling.factor"))}
    if kind == "yarn":
        if float(file.get("rope.scaling.attn_factor") or 1.0) != 1.0:
            raise WeightsError(f"{file.path}: rope.scaling.attn_factor is not supported; use 1.0.")
        scaling["original_max_position_embeddings"] = int(file.need("rope.scaling.original_context_length"))
    return scaling


def _llama3_scaling(file: GgufFile, head_dim: int, theta: float) -> dict[str, Any]:
    """The settings that llama3's factors in the file were computed from.

    Raises:
        WeightsError: they were computed from others than Meta's.
    """
    tensor = GgufTensor(file, file.slots[ROPE_FACTORS])
    given = np.asarray(tensor.rows(0, math.prod(tensor.shape)), np.float64).reshape(-1)
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high, factor = 1.0, 4.0, float(given.max(initial=1.0))
    for context in (8192, 4096, 16384, 2048):
        smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if given.shape == expected.shape and np.allclose(given, expected, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": _decimal(factor),
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise WeightsError(
        f"{file.path}: {ROPE_FACTORS} holds other factors than Llama 3's scaling gives; it is not supported."
    )


def _llama(file: GgufFile) -> dict[str, Any]:
    window = file.get("attention.sliding_window")
    config = (
        _decoder(file, "mistral", "MistralForCausalLM")
        if window
        else _decoder(file, "llama", "LlamaForCausalLM")
    )
    if window:
        config["sliding_window"] = int(window)
    return config | {
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.slots,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.slots,
    }


def _qwen2(file: GgufFile) -> dict[str, Any]:
    return _decoder(file, "qwen2", "Qwen2ForCausalLM") | {"hidden_act": "silu", "use_sliding_window": False}


def _qwen3(file: GgufFile) -> dict[str, Any]:
    return _decoder(file, "qwen3", "Qwen3ForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "attention_bias": "blk.0.attn_q.bias" in file.slots,
    }


def _gemma(file: GgufFile, model_type: str, architecture: str, pattern: int, largest: int) -> dict[str, Any]:
    """Gemma 2 or 3: every ``pattern``-th layer sees all, the others a window; ``largest`` has so many layers."""
    config = _decoder(file, model_type, architecture)
    layers = config["num_hidden_layers"]
    # The scale of attention is not in the file; llama.cpp knows the largest model by its layers, too.
    scale = (
        config["hidden_size"] // config["num_attention_heads"] if layers == largest else config["head_dim"]
    )
    return config | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scale,
        "sliding_window": int(file.need("attention.sliding_window")),
        "layer_types": [
            "full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)
        ],
    }


def _gemma2(file: GgufFile) -> dict[str, Any]:
    return _gemma(file, "gemma2", "Gemma2ForCausalLM", 2, 46) | {
        "attn_logit_softcapping": _decimal(file.get("attn_logit_softcapping") or 50.0),
        "final_logit_softcapping": _decimal(file.get("final_logit_softcapping") or 30.0),
    }


def _gemma3(file: GgufFile) -> dict[str, Any]:
    return _gemma(file, "gemma3_text", "Gemma3ForCausalLM", 6, 62) | {
        "rope_local_base_freq": _decimal(file.get("rope.freq_base_swa") or 10000.0),
        "sliding_window_pattern": 6,
    }


def _gpt2(file: GgufFile) -> dict[str, Any]:
    hidden = int(file.need("embedding_length"))
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": _rows(file, "token_embd.weight"),
        "n_positions": int(file.need("context_length")),
        "n_embd": hidden,
        "n_layer": int(file.need("block_count")),
        "n_head": int(file.need("attention.head_count")),
        "n_inner": int(file.get("feed_forward_length") or 4 * hidden),
        "layer_norm_epsilon": _decimal(file.need("attention.layer_norm_epsilon")),
        "activation_function": "gelu_new",
        "tie_word_embeddings": "output.weight" not in file.slots,
        "dtype": "float32",
        **_token_ids(file),
    }


_ARCHITECTURES: dict[str, Callable[[GgufFile], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
}
