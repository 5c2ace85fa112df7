"""What torch made of the family cases (see tests/goldens/make_family_goldens.py), and checkpoints to load."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxtune.models.registry import family_of_config
from jaxtune.models.weight_map import WeightEntry
from tests.models.family_cases import Case, write_folder

FOLDER = Path(__file__).parents[1] / "goldens" / "families"


class FamilyGolden:
    """The golden of one case."""

    def __init__(self, case: Case, file: str | None = None) -> None:
        self.case = case
        self.z = np.load(FOLDER / f"{file or case.name}.npz")
        config = json.loads(str(self.z["config"]))
        assert config == dict(case.config), "the golden is of another configuration; make the goldens again"

    def __getitem__(self, key: str) -> np.ndarray:
        return self.z[key]

    def of(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays ``prefix/NAME`` by NAME."""
        return {key.removeprefix(f"{prefix}/"): self.z[key] for key in self.z if key.startswith(f"{prefix}/")}

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return self.of("inputs")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(shape) for name, shape in json.loads(str(self.z["shapes"])).items()}

    def write(self, folder: Path, dtype: Any = np.float32, salt: str = "") -> dict[str, np.ndarray]:
        """Write the checkpoint that torch read; returns its tensors."""
        return write_folder(folder, self.case, self.shapes, dtype, salt)


def to_file(
    params: Mapping[str, Any], config: Any, head: str | None, names: set[str]
) -> dict[str, np.ndarray]:
    """The tensors ``names`` of a checkpoint, in torch's layout, for a tree of ours (of gradients, say)."""
    flat = flatten_dict(params, sep="/")
    pieces: dict[str, list[tuple[int, np.ndarray]]] = {}
    for path, name, entry in _entries(config, head):
        if path not in flat:
            continue
        known = [other for other in name if other in names]
        assert known, f"{path} is called {name}, which no tensor is"
        array = _in_file(np.asarray(flat.pop(path)), entry, config)
        pieces.setdefault(known[0], []).append((entry.part[0] if entry.part else 0, array))
    assert not flat, f"parameters without a name: {sorted(flat)}"
    return {
        name: np.concatenate(
            [array for _, array in sorted(parts, key=lambda part: part[0])], _output(name, parts)
        )
        for name, parts in pieces.items()
    }


def _entries(config: Any, head: str | None) -> Iterator[tuple[str, tuple[str, ...], WeightEntry]]:
    """Path in the whole tree and names in the checkpoint of every entry."""
    family = family_of_config(config)
    for entry in family.weight_map(config):
        yield f"backbone/{entry.path}", tuple(family.prefix + n for n in (entry.hf, *entry.aliases)), entry
    for entry in family.heads[head].weight_map(config) if head is not None else ():
        yield f"head/{entry.path}", (entry.hf, *entry.aliases), entry


def _in_file(array: np.ndarray, entry: WeightEntry, config: Any) -> np.ndarray:
    if entry.transform == "transpose":
        # Torch's convolutions have their axes reversed as a whole.
        return array.T
    if entry.transform in ("pad_rows", "pad_columns"):
        assert not array[config.vocab_size :].any(), "rows that pad the table must have no gradient"
        array = array[: config.vocab_size]
    return array[None] if entry.transform == "pad_columns" else array


def _output(name: str, parts: list[tuple[int, np.ndarray]]) -> int:
    """The axis of a fused tensor's outputs: GPT-2's lie last, those of a torch Linear first."""
    return -1 if ".c_attn." in name else 0


def check_gradients(golden: FamilyGolden, gradients: Mapping[str, np.ndarray]) -> None:
    """‖Δg‖ ≤ 1e-4·‖g‖ + 1e-7·‖all g‖ for every tensor.

    Of a large tensor the file holds the norm and 64 elements: their distance, scaled up to the
    size of the tensor, estimates the distance of the whole.
    """
    total = float(golden["total_norm"])
    assert sorted(gradients) == sorted(map(str, golden["names"]))
    wrong = {}
    for name, ours in gradients.items():
        norm = float(golden[f"norm/{name}"])
        bar = 1e-4 * norm + 1e-7 * total
        theirs, scale = golden[f"grad/{name}"], 1.0
        difference = abs(np.linalg.norm(ours.astype(np.float64)) - norm)
        if f"at/{name}" in golden.z:
            sample = ours.ravel()[golden[f"at/{name}"]]
            scale = math.sqrt(ours.size / sample.size)
        else:
            sample = ours
        difference = max(difference, scale * np.linalg.norm(sample - theirs))
        if not difference <= bar:
            wrong[name] = f"{difference:.1e} > {bar:.1e}"
    assert not wrong
