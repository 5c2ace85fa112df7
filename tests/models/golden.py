"""What torch made of BERT (see tests/goldens/make_bert_goldens.py), as arguments and expectations of ours."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxtune.models.families.bert import BERT, BertConfig, weight_map
from jaxtune.models.layers import Policy
from jaxtune.models.model import build_model

FOLDER = Path(__file__).parents[1] / "goldens"
FLOAT32 = Policy(matmul_precision="highest")


class Golden:
    """One golden file."""

    def __init__(self, name: str) -> None:
        self.z = np.load(FOLDER / f"{name}.npz")

    def __getitem__(self, key: str) -> np.ndarray:
        return self.z[key]

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Tokens, segment ids, positions, token types."""
        return self["input_ids"], self["attention_mask"], None, self["token_type_ids"]

    @property
    def head(self) -> dict[str, Any]:
        return {
            "classifier": {
                "kernel": jnp.asarray(self["head/weight"].T),
                "bias": jnp.asarray(self["head/bias"]),
            }
        }

    def tiny(self, **changes: Any) -> tuple[BertConfig, dict[str, Any]]:
        """Configuration and parameters, which bert_tiny.npz carries itself."""
        raw = {**json.loads(str(self["config"])), **changes}
        config = BertConfig.from_hf(raw)
        weights = {n.removeprefix("weight/"): self[n] for n in self.z.files if n.startswith("weight/")}
        return config, from_torch(weights, config)


def from_torch(weights: Mapping[str, np.ndarray], config: BertConfig) -> dict[str, Any]:
    """Our parameter tree from torch's tensors: a second, plain reading beside the hub's."""
    flat = {}
    for part, prefix, entries in (
        ("backbone", "bert.", weight_map(config)),
        ("head", "", BERT.heads["classification"].weight_map(config)),
    ):
        for entry in entries:
            array = weights[prefix + entry.hf]
            if entry.transform == "transpose":
                array = array.T
            elif entry.transform == "pad_rows":
                array = np.pad(array, ((0, -len(array) % 128), (0, 0)))
            flat[f"{part}/{entry.path}"] = jnp.asarray(array)
    return unflatten_dict(flat, sep="/")


def to_torch(params: Mapping[str, Any], config: BertConfig) -> dict[str, np.ndarray]:
    """Torch's names and layout for a tree of ours (of gradients, say)."""
    flat = flatten_dict(params, sep="/")
    named = {}
    for part, prefix, entries in (
        ("backbone", "bert.", weight_map(config)),
        ("head", "", BERT.heads["classification"].weight_map(config)),
    ):
        for entry in entries:
            array = np.asarray(flat[f"{part}/{entry.path}"])
            if entry.transform == "transpose":
                array = array.T
            elif entry.transform == "pad_rows":
                assert not array[config.vocab_size :].any(), "rows that pad the table must have no gradient"
                array = array[: config.vocab_size]
            named[prefix + entry.hf] = array
    return named


def loss_and_gradient(
    params: Any, config: BertConfig, inputs: tuple[Any, ...], labels: np.ndarray
) -> tuple[Any, Any]:
    """Mean cross-entropy of a classification head, and its gradient."""
    model = build_model(config, "classification", params["head"]["classifier"]["bias"].size, FLOAT32)

    def loss(params: Any) -> Any:
        logits = model.apply({"params": params}, *inputs)[:, 0]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def check_gradients(golden: Golden, gradients: Mapping[str, np.ndarray]) -> None:
    """‖Δg‖ ≤ 1e-4·‖g‖ + 1e-7·‖all g‖ for every tensor.

    Of a large tensor the file holds the norm and 64 elements: their distance, scaled up to the
    size of the tensor, estimates the distance of the whole.
    """
    total = float(golden["total_norm"])
    assert sorted(gradients) == sorted(map(str, golden["names"]))
    for name, ours in gradients.items():
        theirs, norm = golden[f"grad/{name}"], float(golden[f"norm/{name}"])
        bar = 1e-4 * norm + 1e-7 * total
        assert abs(np.linalg.norm(ours.astype(np.float64)) - norm) <= bar, name
        if f"at/{name}" in golden.z.files:
            difference = ours.ravel()[golden[f"at/{name}"]] - theirs
            scale = math.sqrt(ours.size / difference.size)
        else:
            difference, scale = ours - theirs, 1.0
        assert scale * np.linalg.norm(difference) <= bar, name
