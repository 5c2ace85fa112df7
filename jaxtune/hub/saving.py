"""``save_pretrained``: a model as a folder that transformers (and jaxtune) load."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtune import files
from jaxtune.errors import RunError, SourceError
from jaxtune.hub.cache import discard, flush, publish
from jaxtune.hub.formats import FLAX, FLAX_INDEX, SAFETENSORS, SAFETENSORS_INDEX
from jaxtune.hub.weights import write_weights
from jaxtune.models.registry import family_of_config

if TYPE_CHECKING:
    from jaxtune.hub.pretrained import Pretrained

_OTHER_WEIGHTS = (SAFETENSORS_INDEX, FLAX, FLAX_INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights of the checkpoint that is being replaced; left beside ours, a reader could take them."""
_STAGING = ".saving-"


def save_pretrained(folder: str | Path, pretrained: Pretrained, *, overwrite: bool = False) -> None:
    """Write config.json, model.safetensors and the tokenizer in Hugging Face's layout.

    A new folder appears whole or not at all. In an existing one each file is replaced in one step.

    Args:
        folder: where to; local, or any address that fsspec writes.
        pretrained: what ``load_pretrained`` gave, with trained ``params`` perhaps.
        overwrite: replace a checkpoint that is there. A folder that is no checkpoint is never touched.

    Raises:
        RunError: the folder is in use, or cannot be written.
    """
    target = str(folder)
    names = [name for name in files.list_dir(target) if not name.startswith(_STAGING)]
    _check_target(target, names, overwrite)
    try:
        if files.is_remote(target):
            with tempfile.TemporaryDirectory() as staging:
                _write(Path(staging), pretrained)
                _move_in(Path(staging), target, names)
        elif files.is_dir(target):
            for leftover in Path(target).glob(f"{_STAGING}*"):  # of a save that was killed
                discard(leftover)
            with tempfile.TemporaryDirectory(dir=target, prefix=_STAGING) as staging:
                _write(Path(staging), pretrained)
                flush(Path(staging))
                _move_in(Path(staging), target, names)
        else:
            with publish(Path(target)) as new:
                new.mkdir()
                _write(new, pretrained)
    except OSError as error:
        raise RunError(f"cannot write the checkpoint {target}: {error}") from error


def hf_config(pretrained: Pretrained) -> dict[str, Any]:
    """The config.json of a model: all that was read, and what describes the head and the file today."""
    config = dict(pretrained.raw_config)
    family = family_of_config(pretrained.config)
    if not config:
        config = {"model_type": family.model_type, **vars(pretrained.config)}
    config["architectures"] = [family.architectures[pretrained.head]]
    # transformers loads in the type named here; ours is float32 whatever the original was.
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = "float32"
    if pretrained.head is not None:
        config.pop("num_labels", None)  # it follows from id2label, and would contradict it
        config |= _head_settings(pretrained, config)
    return config


def _head_settings(pretrained: Pretrained, raw: Mapping[str, Any]) -> dict[str, Any]:
    regression = pretrained.head == "regression"
    labels = ("LABEL_0",) if regression else pretrained.labels
    id2label = {str(i): label for i, label in enumerate(labels)}
    problem = "regression" if regression else "single_label_classification"
    # A model whose labels do not exclude each other stays one as long as its labels do.
    if raw.get("problem_type") == "multi_label_classification" and raw.get("id2label") == id2label:
        problem = "multi_label_classification"
    return {
        "id2label": id2label,
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": problem,
    }


def _check_target(target: str, names: list[str], overwrite: bool) -> None:
    if not names:
        if files.exists(target) and not files.is_dir(target):
            raise RunError(f"{target} is a file; expected a folder to save the checkpoint in.")
        return
    if "config.json" not in names:
        raise RunError(
            f"{target} holds other files ({', '.join(names[:4])}) and no checkpoint, so nothing is written there. "
            "Give a new folder."
        )
    if not overwrite:
        raise RunError(
            f"{target} holds a checkpoint already. Give a new folder, or replace it with --overwrite (overwrite=True in Python)."
        )


def _write(folder: Path, pretrained: Pretrained) -> None:
    try:
        tokenizer = pretrained.tokenizer
    except SourceError:
        tokenizer = None  # a checkpoint without one is saved without one
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    write_weights(folder / SAFETENSORS, pretrained.params, pretrained.config, pretrained.head)
    text = json.dumps(hf_config(pretrained), indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _move_in(staging: Path, target: str, before: list[str]) -> None:
    """Replace files one by one, config.json last: until then the old one is there, or none fits."""
    for name in sorted(files.walk(str(staging)), key=lambda name: (name == "config.json", name)):
        if files.is_remote(target):
            files.copy(str(staging / name), files.join(target, name))
        else:
            (staging / name).replace(Path(target) / name)
    stale = [
        n for n in before if n in _OTHER_WEIGHTS or (n.startswith("model-") and n.endswith(".safetensors"))
    ]
    for name in stale:
        files.remove(files.join(target, name))
