"""Small configurations of every family, each with the option it is there for; and the weights they get.

Pure data, read by ``tests/goldens/make_family_goldens.py`` under torch and by the tests under jax. No weights
are stored: each tensor follows from its name and shape (``tensor``), so both sides write the same file.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (13, 5, 9)
"""Real tokens of the three rows of every batch."""
TARGET_LENGTHS = (4, 8, 6)
"""Those on the decoder's side of an encoder-decoder."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A checkpoint to write, and how to run it.

    Attributes:
        config: config.json as the Hub has it, old names of options included.
        head: as in ``load_pretrained``.
        unused: tensors of the file that the model does not need, by shape.
        copies: tensors of the file that repeat another one, as checkpoints with tied tables often do.
        renames: (pattern, replacement) for names that checkpoints of the Hub have and transformers saves otherwise.
        untied: the file has an output table of its own, though transformers would leave it out.
        norm_center: what the scales of the norms lie around (0 where the model adds 1).
        rows: factors on single rows of tensors: makes a word likely, or impossible.
        matters: options of config.json with another value for each, which must change what torch makes of it.
        packs: its backbone is one that the other cases do not pack already.
    """

    name: str
    config: Mapping[str, Any]
    head: str | None
    unused: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    untied: bool = False
    norm_center: float = 1.0
    rows: Mapping[str, Mapping[int, float]] = dataclasses.field(default_factory=dict)
    matters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    packs: bool = False

    @property
    def model_type(self) -> str:
        return self.config["model_type"]

    @property
    def seq2seq(self) -> bool:
        return self.head == "seq2seq_lm"


def tensor(case: Case, name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """The float32 tensor of a name and shape: uniform, wide enough for every option to show in the logits."""
    name = case.copies.get(name, name)
    if case.config.get("static_position_embeddings") and name.endswith("embed_positions.weight"):
        return sinusoids(*shape)
    # The old generator: NumPy promises that its stream never changes.
    drawn = np.random.RandomState(zlib.crc32((salt + name).encode())).uniform(-1.0, 1.0, shape)
    if re.search(r"norm.*\.(weight|gamma)$|ln_.*weight$", name, re.IGNORECASE) and len(shape) == 1:
        drawn = case.norm_center + 0.3 * drawn
    elif len(shape) == 1 or name.endswith("final_logits_bias"):
        drawn = 0.3 * drawn
    elif re.search(r"emb|wte|wpe|shared|relative_attention_bias", name):
        drawn = drawn * 0.6
    else:
        drawn = drawn * (3.5 / shape[-1]) ** 0.5
    for row, factor in case.rows.get(name, {}).items():
        drawn[row] = drawn[row] * factor
    return drawn.astype(np.float32)


def sinusoids(length: int, width: int) -> np.ndarray:
    """Sines of all frequencies, then cosines: what checkpoints with fixed positions store, if they do."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def write_folder(
    folder: Path, case: Case, shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32, salt: str = ""
) -> dict[str, np.ndarray]:
    """Write config.json and model.safetensors of a case; returns the tensors."""
    from safetensors.numpy import save_file

    tensors = {name: tensor(case, name, tuple(shape), salt).astype(dtype) for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(case.config), indent=2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def inputs(case: Case, salt: str = "") -> dict[str, np.ndarray]:
    """Arguments of ``lm(…)`` and of torch alike: rows padded on the right."""
    rng = np.random.RandomState(zlib.crc32((salt + case.name).encode()))
    pad = case.config.get("pad_token_id") or 0
    vocab = case.config["vocab_size"]

    def padded(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
        # pad + 1 … pad + vocab - 1, around the corner: every word but the padding one.
        words = (pad + rng.randint(1, vocab, mask.shape)) % vocab
        return np.where(mask == 1, words, pad).astype(np.int32), mask

    ids, mask = padded(LENGTHS)
    given = {"input_ids": ids, "attention_mask": mask}
    if case.config.get("type_vocab_size", 0) > 1:
        given["token_type_ids"] = ((np.arange(ids.shape[1]) >= 3) * mask).astype(np.int32)
    if case.seq2seq:
        given["decoder_input_ids"], _ = padded(TARGET_LENGTHS)
    return given


def real_rows(case: Case, out: np.ndarray) -> np.ndarray:
    """What is compared of an output: [R, C] of the real positions, or all of it where it is per example."""
    if case.head in ("classification", "regression", "multiple_choice"):
        return out
    lengths = np.array(TARGET_LENGTHS if case.seq2seq else LENGTHS)
    return out[np.arange(out.shape[1]) < lengths[:, None]]


def labels(count: int) -> dict[str, Any]:
    """The settings of config.json for so many labels."""
    names = {str(i): f"LABEL_{i}" for i in range(count)}
    settings: dict[str, Any] = {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
    return {**settings, "problem_type": "regression"} if count == 1 else settings


def by_name(cases: tuple[Case, ...]) -> dict[str, Case]:
    found = {case.name: case for case in cases}
    assert len(found) == len(cases), "two cases of one name"
    return found
