"""``new:FAMILY[:SIZE]`` and ``new:path/to/config.json``: models that start from random weights."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxtune.errors import ConfigError, SourceError, WeightsError
from jaxtune.hub.model_config import parse_config, read_config
from jaxtune.models.families.bilstm import BiLSTMConfig
from jaxtune.models.families.textcnn import TextCNNConfig
from jaxtune.models.families.transformer import SIZES as TRANSFORMER_SIZES
from jaxtune.models.families.transformer import TransformerConfig
from jaxtune.models.registry import family_of

NEW = "new:"
_OF_WEIGHTS = (
    "architectures",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "dtype",
    "torch_dtype",
    "_name_or_path",
    "transformers_version",
    "quantization_config",
)
"""Settings of a config.json that speak of weights and labels, which a new model does not have yet."""
_ABSENT: Any = object()


def _baseline(model_type: str, config: Any) -> dict[str, Any]:
    return {"model_type": model_type, **dataclasses.asdict(config)}


def _transformer(size: str) -> dict[str, Any]:
    """The settings under the names of Marian's and Pegasus's config.json, as ``TransformerConfig`` reads them."""
    config = TransformerConfig.of_size(size, TransformerConfig.vocab_size)
    own = {
        "model_type": "transformer",
        "share_encoder_decoder_embeddings": config.share_embeddings,
        "normalize_before": config.pre_norm,
        "initializer_factor": config.initializer_range,
    }
    return {**config.to_hf(), **own}


STARTS: Mapping[str, Mapping[str, Callable[[], dict[str, Any]]]] = {
    "bilstm": {"base": lambda: _baseline("bilstm", BiLSTMConfig())},
    "textcnn": {"base": lambda: _baseline("textcnn", TextCNNConfig())},
    "transformer": {size: partial(_transformer, size) for size in TRANSFORMER_SIZES},
}
"""What can be started by name: family → size → its config.json; the first size is the default."""


def is_new(source: str) -> bool:
    """Whether a source stands for random weights."""
    return source.startswith(NEW)


def config_folder(source: str) -> Path | None:
    """Folder of the config.json that ``new:path/to/config.json`` names; none for a family.

    Raises:
        SourceError: neither a family that starts by name nor a file.
    """
    named = source.removeprefix(NEW)
    if named.partition(":")[0] in STARTS:
        return None
    path = Path(named).expanduser()
    folder = path.parent if path.name == "config.json" else path
    if not (folder / "config.json").is_file():
        starts = ", ".join(NEW + family for family in STARTS)
        raise SourceError(
            f"{source}: there is no config.json at {path}; expected one of {starts}, or new:path/to/config.json"
        )
    return folder


def new_config(source: str, overrides: Sequence[str] = (), **settled: Any) -> dict[str, Any]:
    """The config.json of a new model.

    Args:
        source: ``new:FAMILY[:SIZE]`` or ``new:path/to/config.json``.
        overrides: ``name=value`` each, named as in config.json, with values as JSON writes them.
        settled: settings that follow from elsewhere (from the tokenizer); overrides win.

    Raises:
        SourceError: no such family, size or file.
        ConfigError: an override that is no setting of this model, or has another type.
        WeightsError: a family or option that is not supported.
    """
    folder = config_folder(source)
    raw = _by_name(source) if folder is None else read_config(folder)
    raw = {name: value for name, value in raw.items() if name not in _OF_WEIGHTS}
    before = {**raw, **settled}
    changes = dict(map(_parsed, overrides))
    changed = {**before, **changes}
    for name, value in changes.items():
        _check_type(source, name, value, before, parse_config(Path(source), before))
    try:
        config = parse_config(Path(source), changed)
    except WeightsError as error:
        if not changes:
            raise
        raise ConfigError(f"`model.overrides` {' '.join(overrides)}: {error}") from error
    for name, value in changes.items():
        if not _is_used(name, value, before, changed, config):
            known = dict.fromkeys([*before, *(field.name for field in dataclasses.fields(config))])
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"settings: {', '.join(known)}"
            raise ConfigError(f"`model.overrides`: {name} changes nothing in a {raw['model_type']}; {hint}")
    return changed


def _by_name(source: str) -> dict[str, Any]:
    family, _, size = source.removeprefix(NEW).partition(":")
    sizes = STARTS[family]
    size = size or next(iter(sizes))
    if size not in sizes:
        raise SourceError(f"{source}: {family} has no size {size!r}; sizes: {', '.join(sizes)}")
    return sizes[size]()


def _parsed(override: str) -> tuple[str, Any]:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"`model.overrides` holds {override!r}; expected name=value, as hidden_size=256")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _check_type(source: str, name: str, value: Any, raw: Mapping[str, Any], config: Any) -> None:
    """Raises ConfigError for a value of another type than the one it replaces."""
    old = raw.get(name, getattr(config, name, None))
    if old is None or value is None:
        return
    fits = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool),
        str: isinstance(value, str),
        tuple: isinstance(value, list),
        list: isinstance(value, list),
    }
    if not fits.get(type(old), True):
        raise ConfigError(f"`model.overrides`: {name}={value!r} is of another type than {old!r} in {source}")


def _is_used(
    name: str, value: Any, before: Mapping[str, Any], changed: Mapping[str, Any], config: Any
) -> bool:
    """Whether the network depends on a setting: without it, it would be another, or none."""
    same = before.get(name, _ABSENT)
    wanted = tuple(value) if isinstance(value, list) else value
    if same == value or getattr(config, name, _ABSENT) == wanted:
        return True
    without = {n: v for n, v in changed.items() if n != name} | ({} if same is _ABSENT else {name: same})
    try:
        return bool(family_of(changed["model_type"]).config_class.from_hf(without) != config)
    except (ValueError, TypeError):
        return True
