"""A checkpoint's config.json: read, understood, and what it says of head and labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.tensor_files.formats import is_gguf
from jaxtune.models.model import LABELLED
from jaxtune.models.registry import family_of

logger = logging.getLogger(__name__)


def read_config(source: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder, or what a GGUF file says in its place.

    Raises:
        SourceError: no folder, no such file, or no JSON object in it.
        WeightsError: a GGUF file that is damaged or of an unknown architecture.
    """
    if is_gguf(source):
        from jaxtune.hub.tensor_files.gguf_config import config_of_gguf

        return config_of_gguf(source)
    path = source / "config.json"
    if not path.is_file():
        raise SourceError(
            f"{source} is not a checkpoint folder: it has no config.json (expected beside the weights)."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise SourceError(f"{path} holds a {type(raw).__name__}; expected an object of settings.")
    return raw


def read_generation_config(source: Path | None) -> dict[str, Any] | None:
    """The generation_config.json of a checkpoint folder, if it has one.

    Raises:
        SourceError: it is not a JSON object.
    """
    path = None if source is None else source / "generation_config.json"
    if path is None or not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise SourceError(f"{path} holds a {type(raw).__name__}; expected an object of settings.")
    return raw


def parse_config(source: Path, raw: Mapping[str, Any]) -> Any:
    """The configuration object that a config.json describes.

    Raises:
        WeightsError: an architecture or an option that is not supported, with those that are.
    """
    try:
        return family_of(raw.get("model_type")).config_class.from_hf(raw)
    except (ValueError, TypeError) as error:
        where = source if is_gguf(source) else source / "config.json"
        raise WeightsError(f"{where}: {error}") from error


def head_of(raw: Mapping[str, Any]) -> str | None:
    """The head that a config.json says its checkpoint has."""
    named = raw.get("architectures") or []
    heads = [
        name for name, head in family_of(raw.get("model_type")).heads.items() if head.architecture in named
    ]
    if "classification" not in heads:
        return heads[0] if heads else None
    outputs = len(raw.get("id2label") or {}) or raw.get("num_labels", 2)
    return "regression" if raw.get("problem_type") == "regression" or outputs == 1 else "classification"


def labels_of(raw: Mapping[str, Any], head: str | None, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Label names: the given ones, else the checkpoint's, else Hugging Face's default of two."""
    if head not in LABELLED:
        return ()
    own = raw.get("id2label") or {}
    ordered = tuple(str(own[key]) for key in sorted(own, key=int))
    if not ordered:
        ordered = tuple(f"LABEL_{i}" for i in range(raw.get("num_labels", 2)))
    renamed = given and head_of(raw) == head and len(given) == len(ordered) and tuple(given) != ordered
    if renamed and not ordered[0].startswith("LABEL_"):
        logger.warning(
            "the checkpoint's labels %s are taken as %s, in this order", list(ordered), list(given)
        )
    return tuple(given) or ordered


def check_vocabulary(source: str, tokenizer: Any, vocab_size: int) -> None:
    """Warn of a tokenizer that has more tokens than the model has embeddings."""
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens > vocab_size:
        logger.warning(
            "%s: the tokenizer has %d tokens and the model %d embeddings; a text with a token from %d on is refused",
            source,
            tokens,
            vocab_size,
            vocab_size,
        )
