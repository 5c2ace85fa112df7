"""``save_pretrained``: a model as a folder that transformers (and jaxtune) load."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtune import files
from jaxtune.errors import RunError, SourceError
from jaxtune.hub.exporting import EXPORT_DTYPES, Export
from jaxtune.hub.fetching.cache import discard, flush, publish
from jaxtune.hub.side_files import copy_side_files
from jaxtune.hub.tensor_files.formats import FLAX, FLAX_INDEX, SAFETENSORS_INDEX, is_gguf
from jaxtune.hub.tensor_files.safetensors_file import FLOATS
from jaxtune.hub.tensor_files.tensors import Tensors, open_tensors
from jaxtune.hub.weights import some
from jaxtune.hub.writing import MAX_SHARD_SIZE, Output, write_safetensors
from jaxtune.models.families.transformer import TransformerConfig
from jaxtune.models.registry import family_of, family_of_config

if TYPE_CHECKING:
    from jaxtune.hub.pretrained import Pretrained

logger = logging.getLogger(__name__)

_OTHER_WEIGHTS = (SAFETENSORS_INDEX, FLAX, FLAX_INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights of the checkpoint that is being replaced; left beside ours, a reader could take them."""
_STAGING = ".saving-"
_HF_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def save_pretrained(
    folder: str | Path,
    pretrained: Pretrained,
    *,
    overwrite: bool = False,
    modern_names: bool = False,
    dtype: str | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Write config.json, safetensors and the tokenizer in Hugging Face's layout.

    A model that ``load_pretrained`` read from safetensors keeps every tensor's name and type; parameters that
    were not trained keep their bits, and tensors that the model does not use are copied. Any other model (one that
    was trained here, or read from GGUF or msgpack) is written as with ``modern_names``.

    A new folder appears whole or not at all. In an existing one each file is replaced in one step.

    Args:
        folder: where to; local, or any address that fsspec writes.
        pretrained: what ``load_pretrained`` gave, with trained ``params`` perhaps.
        overwrite: replace a checkpoint that is there. A folder that is no checkpoint is never touched.
        modern_names: today's names: no ``gamma`` and ``beta``, the prefix of the model's class, each tied tensor
            once, nothing that the model does not use.
        dtype: ``float32``, ``float16`` or ``bfloat16`` for all weights; none keeps each tensor's own.
        max_shard_size: bytes in one file; more is split, with an index.

    Raises:
        RunError: the folder is in use, or cannot be written.
        SourceError: the checkpoint it was read from is gone, and with it the names and the tensors to be kept.
        ValueError: an unknown dtype.
    """
    if dtype is not None and dtype not in EXPORT_DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; expected one of {', '.join(EXPORT_DTYPES)}")
    if max_shard_size < 1:
        raise ValueError(f"max_shard_size is {max_shard_size}; expected a number of bytes")
    target = str(folder)
    names = [name for name in files.list_dir(target) if not name.startswith(_STAGING)]
    _check_target(target, names, overwrite)

    def write(into: Path) -> None:
        _write(into, pretrained, modern_names, dtype, max_shard_size)

    try:
        if files.is_remote(target):
            with tempfile.TemporaryDirectory() as staging:
                write(Path(staging))
                _move_in(Path(staging), target, names)
        elif files.is_dir(target):
            for leftover in Path(target).glob(f"{_STAGING}*"):  # of a save that was killed
                discard(leftover)
            with tempfile.TemporaryDirectory(dir=target, prefix=_STAGING) as staging:
                write(Path(staging))
                flush(Path(staging))
                _move_in(Path(staging), target, names)
        else:
            with publish(Path(target)) as new:
                new.mkdir()
                write(new)
    except OSError as error:
        raise RunError(f"cannot write the checkpoint {target}: {error}") from error


def hf_config(
    pretrained: Pretrained,
    outputs: Sequence[Output] = (),
    *,
    original: bool = False,
    named: bool = False,
    modern: bool = False,
) -> dict[str, Any]:
    """The config.json of a model: all that was read, and what describes the head and the files today.

    Args:
        outputs: what is written; none means float32.
        original: the tensors of the checkpoint are all there, so that without a head it is what it was.
        named: say the type in any case.
        modern: where a family of ours is one of transformers' under another name, say that name.

    Raises:
        ValueError: a model that was made without a config.json, of a family that names its settings otherwise.
    """
    family = family_of_config(pretrained.config)
    config = dict(pretrained.raw_config) or _config_of_fields(pretrained.config)
    if modern and isinstance(pretrained.config, TransformerConfig):
        config |= pretrained.config.to_hf()
        family = family_of(config["model_type"])
    head = pretrained.head
    if head is not None:
        config["architectures"] = [family.heads[head].architecture]
    elif not (original and config.get("architectures")):
        config["architectures"] = [family.base_architecture]
    # transformers loads in the type named here, whatever the file has.
    fields = [name for name in ("dtype", "torch_dtype") if name in config] or (["dtype"] if named else [])
    config |= dict.fromkeys(fields, _main_dtype(outputs))
    if head in ("classification", "regression", "token_classification"):
        config.pop("num_labels", None)  # it follows from id2label, and would contradict it
        config |= _head_settings(pretrained, config)
    return config


def _config_of_fields(config: Any) -> dict[str, Any]:
    """A config.json of the fields of a configuration object, if that is read as the same again."""
    family = family_of_config(config)
    raw = {"model_type": family.model_type, **vars(config)}
    if type(config).from_hf(raw) != config:
        raise ValueError(
            f"a {family.model_type} cannot be saved without the config.json it is made from: give Pretrained(…, "
            "raw_config=…)"
        )
    return raw


def _main_dtype(outputs: Sequence[Output]) -> str:
    """The type that most weights are written in."""
    sizes: Counter[str] = Counter()
    for output in outputs:
        if output.dtype in FLOATS:
            sizes[output.dtype] += output.elements
    return _HF_DTYPES[sizes.most_common(1)[0][0]] if sizes else "float32"


def _head_settings(pretrained: Pretrained, raw: Mapping[str, Any]) -> dict[str, Any]:
    regression = pretrained.head == "regression"
    labels = ("LABEL_0",) if regression else pretrained.labels
    id2label = {str(i): label for i, label in enumerate(labels)}
    settings: dict[str, Any] = {
        "id2label": id2label,
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if pretrained.head == "token_classification":
        return settings
    problem = "regression" if regression else "single_label_classification"
    # A model whose labels do not exclude each other stays one as long as its labels do.
    if raw.get("problem_type") == "multi_label_classification" and raw.get("id2label") == id2label:
        problem = "multi_label_classification"
    return settings | {"problem_type": pretrained.problem_type or problem}


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


@contextmanager
def _origin(pretrained: Pretrained, modern_names: bool) -> Iterator[Tensors | None]:
    """The safetensors that a model was read from; none for a model of another origin."""
    folder = pretrained.folder
    if folder is None or is_gguf(folder) or (modern_names and not folder.exists()):
        yield None
        return
    if not folder.exists():
        raise SourceError(
            f"{folder}, which this model was read from, is gone, and with it the names and the unused tensors that a "
            "save keeps. Bring it back, or save with --modern-names (modern_names=True in Python)."
        )
    with open_tensors(folder) as tensors:
        yield tensors if tensors.slots else None


def _write(
    folder: Path, pretrained: Pretrained, modern_names: bool, dtype: str | None, max_shard_size: int
) -> None:
    with _origin(pretrained, modern_names) as origin:
        export = Export(
            pretrained.params,
            pretrained.config,
            pretrained.head,
            pretrained.model.num_labels,
            EXPORT_DTYPES.get(dtype or ""),
        )
        original = origin is not None and not modern_names
        outputs = export.original(origin) if origin is not None and original else export.modern(origin)
        metadata = (dict(origin.metadata) if origin is not None else {}) or {"format": "pt"}
        write_safetensors(folder, outputs, metadata, max_shard_size)
    if export.overflowed:
        logger.warning("%s: finite values became infinite in %s", dtype, some(export.overflowed))
    _write_tokenizer(folder, pretrained)
    if pretrained.folder is not None and pretrained.folder.is_dir():
        copy_side_files(pretrained.folder, folder)
    config = hf_config(pretrained, outputs, original=original, named=dtype is not None, modern=modern_names)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _write_tokenizer(folder: Path, pretrained: Pretrained) -> None:
    """The tokenizer, if it was used or there are no files of it to copy."""
    if "tokenizer" not in vars(pretrained) and pretrained.folder is not None and pretrained.folder.is_dir():
        return
    try:
        tokenizer = pretrained.tokenizer
    except SourceError:
        return  # a checkpoint without one is saved without one
    tokenizer.save_pretrained(str(folder))


def _move_in(staging: Path, target: str, before: list[str]) -> None:
    """Replace files one by one, config.json last: until then the old one is there, or none fits."""
    written = files.walk(str(staging))
    for name in sorted(written, key=lambda name: (name == "config.json", name)):
        if files.is_remote(target):
            files.copy(str(staging / name), files.join(target, name))
        else:
            (Path(target) / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(Path(target) / name)
    stale = [
        n
        for n in before
        if n not in written
        and (
            n in _OTHER_WEIGHTS
            or n == "model.safetensors"
            or (n.startswith("model-") and n.endswith(".safetensors"))
        )
    ]
    for name in stale:
        files.remove(files.join(target, name))
