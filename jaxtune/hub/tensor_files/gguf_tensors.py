"""The tensors of a GGUF file under Hugging Face's names, dequantised a few rows at a time.

llama.cpp stores some tensors otherwise than Hugging Face does: Llama's queries and keys with their rows
permuted (for interleaved rotary embeddings), Gemma's norms as 1 + scale, GPT-2's Conv1D turned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxtune.errors import WeightsError
from jaxtune.hub.tensor_files.gguf_file import GgufFile, GgufSlot, open_gguf
from jaxtune.hub.tensor_files.safetensors_file import Slot

PLAIN = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3.1's stretching of the wavelengths: a setting, read with the configuration."""

_WHOLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_OF_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OF_GEMMA_LAYER = _OF_LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_OF_GPT2_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_LAYER = re.compile(r"blk\.(?P<index>\d+)\.(?P<name>\w+)\.(?P<kind>weight|bias)")


class GgufTensors:
    """The tensors of one GGUF file.

    Raises:
        WeightsError: the file is damaged.
    """

    torch_layout = True
    slots: Mapping[str, Slot] = {}
    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self._file = open_gguf(path)
        self.turned_conv1d = self._file.architecture == "gpt2"
        self._where = {
            hf_name(self._file.architecture, name): slot
            for name, slot in self._file.slots.items()
            if name != ROPE_FACTORS
        }

    def names(self) -> list[str]:
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._where[name].shape

    def open(self, name: str) -> GgufTensor:
        slot = self._where[name]
        return GgufTensor(self._file, slot)


def hf_name(architecture: str, name: str) -> str:
    """Hugging Face's name of a tensor; one that is not known keeps its own."""
    whole, of_layer, layers = _WHOLE, _OF_LAYER, "model.layers"
    if architecture.startswith("gemma"):
        of_layer = _OF_GEMMA_LAYER
    elif architecture == "gpt2":
        whole, of_layer, layers = _GPT2, _OF_GPT2_LAYER, "transformer.h"
    layer = _LAYER.fullmatch(name)
    if layer is not None and layer["name"] in of_layer:
        return f"{layers}.{layer['index']}.{of_layer[layer['name']]}.{layer['kind']}"
    module, _, kind = name.rpartition(".")
    return f"{whole[module]}.{kind}" if module in whole else name


class GgufTensor:
    """One tensor, dequantised where it is asked for.

    Raises:
        WeightsError: of a block type that is not supported, by name.
    """

    def __init__(self, file: GgufFile, slot: GgufSlot) -> None:
        if slot.type not in (*PLAIN, *BLOCKS):
            raise WeightsError(
                f"{file.path}: tensor {slot.name} is of type {slot.type}; expected one of {', '.join((*PLAIN, *BLOCKS))}."
            )
        self.shape = slot.shape
        self.dtype: Any = np.dtype(PLAIN.get(slot.type, np.float32))
        self._type = slot.type
        rows = slot.shape[0] if len(slot.shape) > 1 else 1
        self._raw = slot.data.reshape(rows, -1)
        self._order = _row_order(file, slot)
        self._is_offset = file.architecture.startswith("gemma") and slot.name.endswith("_norm.weight")
        if self._is_offset:
            self.dtype = np.dtype(np.float32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows in Hugging Face's order (of a vector, elements)."""
        chosen = slice(start, stop) if self._order is None else self._order[start:stop]
        if len(self.shape) < 2:
            values = self._values(self._raw)[0][chosen]
        else:
            values = self._values(self._raw[chosen]).reshape(-1, *self.shape[1:])
        return values.astype(np.float32) - np.float32(1) if self._is_offset else values

    def _values(self, raw: np.ndarray) -> np.ndarray:
        if self._type in PLAIN:
            return raw.view(PLAIN[self._type])
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        if not raw.size:
            return np.zeros(raw.shape, np.float32)
        return dequantize(np.ascontiguousarray(raw), GGMLQuantizationType[self._type])


def _row_order(file: GgufFile, slot: GgufSlot) -> np.ndarray | None:
    """Where in the file each row of a tensor lies, if they are permuted there.

    llama.cpp holds a head's rows as pairs (0, half), (1, half + 1) …; Hugging Face as two halves.
    """
    layer = _LAYER.fullmatch(slot.name)
    if file.architecture != "llama" or layer is None or layer["name"] not in ("attn_q", "attn_k"):
        return None
    heads = int(file.need("attention.head_count"))
    if layer["name"] == "attn_k":
        heads = int(file.get("attention.head_count_kv", heads))
    rows = slot.shape[0]
    if heads < 1 or rows % (2 * heads):
        raise WeightsError(
            f"{file.path}: tensor {slot.name} has {rows} rows, which are not {heads} heads of pairs."
        )
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
