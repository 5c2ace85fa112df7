"""The small files of a checkpoint that are neither weights nor config.json: kept when it is saved again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxtune.hub.tensor_files.formats import FLAX_INDEX, SAFETENSORS_INDEX, is_pickle

_KEPT = (".json", ".txt", ".jinja", ".model", ".md", ".spm", ".bpe", ".codes", ".tiktoken", ".vocab")
_NOT_KEPT = ("config.json", SAFETENSORS_INDEX, FLAX_INDEX)
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_MOST_BYTES = 64 << 20


def copy_side_files(source: Path, target: Path) -> None:
    """Copy what ``target`` does not have yet: tokenizer, generation settings, chat template, model card.

    Weights are left out, and so is every pickle.
    """
    for file in [*_beside(source), *_modules(source)]:
        new = target / file.relative_to(source)
        if not new.exists() and file.stat().st_size <= _MOST_BYTES:
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, new)


def _beside(source: Path) -> Iterator[Path]:
    for file in sorted(source.iterdir()):
        known = file.suffix in _KEPT or file.name.split(".")[0].upper() in _LICENCES
        if file.is_file() and known and file.name not in _NOT_KEPT and not file.name.endswith(".index.json"):
            yield file


def _modules(source: Path) -> Iterator[Path]:
    """Files of the folders that a sentence-transformers checkpoint names (pooling, normalisation)."""
    try:
        paths = [str(module["path"]) for module in json.loads((source / "modules.json").read_text())]
    except (OSError, ValueError, TypeError, KeyError):
        return
    for path in paths:
        folder = source / path
        if path and Path(path).name == path and folder.is_dir():
            yield from (f for f in sorted(folder.iterdir()) if f.is_file() and not is_pickle(f.name))
