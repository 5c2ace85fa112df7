"""Which files a checkpoint is made of, and which of them are safe to read.

Pickle files run code when they are read; jaxtune never opens one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jaxtune.errors import WeightsError

PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""Endings under which weights are stored as pickles."""

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
FLAX = "flax_model.msgpack"
FLAX_INDEX = "flax_model.msgpack.index.json"


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file: weights, configuration and tokenizer in one."""
    return path.suffix.lower() == ".gguf"


def is_pickle(name: str) -> bool:
    """Whether a file of this name may be a pickle."""
    return name.lower().endswith(PICKLE_ENDINGS)


def has_safe_weights(names: Iterable[str]) -> bool:
    """Whether weights that can be read without running code are among these file names."""
    return not {SAFETENSORS, SAFETENSORS_INDEX, FLAX, FLAX_INDEX}.isdisjoint(names)


def pickle_refusal(where: str, names: Iterable[str]) -> WeightsError:
    """The error for a checkpoint that only has pickled weights, naming them and the way out."""
    listed = ", ".join(sorted(names))
    return WeightsError(
        f"{where} has its weights only as {listed}: pickle files, which can run any code when opened, so they are "
        "not read. Use a revision or a conversion with model.safetensors. Where you trust the file and have torch: "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes one."
    )
