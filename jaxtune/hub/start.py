"""What a run starts with: config.json and tokenizer, of a checkpoint or of a new model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jaxtune.config import ModelConfig
from jaxtune.errors import ConfigError
from jaxtune.hub.description import Description, read_description
from jaxtune.hub.fetching.locate import locate, locate_tokenizer
from jaxtune.hub.model_config import parse_config, read_config
from jaxtune.hub.new_models import config_folder, is_new, new_config
from jaxtune.hub.tokenizer_building import Recipe, build_tokenizer
from jaxtune.hub.tokenizers import load_tokenizer
from jaxtune.models.registry import family_of

Texts = Callable[[], Iterable[str]]
_SPECIAL_IDS = ("pad", "bos", "eos")
_IDS_WHERE_NAMED = ("unk", "cls", "sep", "mask")


def describe_start(model: ModelConfig, texts: Texts) -> Description:
    """Config and tokenizer that a run starts with.

    Args:
        texts: gives the training texts; called only if a tokenizer is to be built from them.

    Raises:
        ConfigError: source, tokenizer and overrides that do not go together.
        SourceError: not found, or no config.json or tokenizer in it.
        WeightsError: an architecture or option that is not supported.
        DataError: the training texts cannot be read.
    """
    recipe = None if model.tokenizer is None else Recipe.parse(model.tokenizer)
    if is_new(model.source):
        return with_pad_token(_describe_new(model, recipe, texts))
    _check_of_checkpoint(model, recipe)
    if model.tokenizer is None:
        return with_pad_token(read_description(model.source))
    folder = locate(model.source, checkpoint=True)
    raw = read_config(folder)
    tokenizer = load_tokenizer(locate_tokenizer(model.tokenizer))
    return with_pad_token(Description(raw, parse_config(folder, raw), tokenizer))


def _check_of_checkpoint(model: ModelConfig, recipe: Recipe | None) -> None:
    if model.overrides:
        raise ConfigError(
            f"`model.overrides` is {list(model.overrides)}; expected none with a checkpoint, whose settings its "
            "weights were trained with (model.source new:… starts a model of your own)"
        )
    if recipe is not None:
        raise ConfigError(
            f"`model.tokenizer` is {model.tokenizer!r}, but the embeddings of {model.source} belong to the tokens of "
            "its own tokenizer; build one for a new model: model.source new:bilstm, or new:path/to/config.json"
        )


def _describe_new(model: ModelConfig, recipe: Recipe | None, texts: Texts) -> Description:
    folder = config_folder(model.source)
    # Whatever is wrong with it is said before texts are read, which may take minutes.
    kind = family_of(new_config(model.source, model.overrides)["model_type"]).kind
    if recipe is not None:
        tokenizer = build_tokenizer(recipe, texts(), normalizer=model.normalizer, model_kind=kind)
    elif model.tokenizer is not None:
        tokenizer = load_tokenizer(locate_tokenizer(model.tokenizer))
    elif folder is not None:
        tokenizer = load_tokenizer(folder)
    else:
        raise ConfigError(
            f"`model.tokenizer` is not set, and {model.source} has none; expected one to be built from the training "
            "texts (bpe:SIZE, wordpiece:SIZE or unigram:SIZE, as wordpiece:8000), or a folder or Hub id"
        )
    raw = new_config(model.source, model.overrides, **tokenizer_settings(tokenizer, model))
    return Description(raw, parse_config(Path(model.source), raw), tokenizer)


def tokenizer_settings(tokenizer: Any, model: ModelConfig) -> dict[str, Any]:
    """What config.json says of a tokenizer: the size of its vocabulary and the ids of special tokens."""
    raw = new_config(model.source, model.overrides)
    settings = {"vocab_size": max(tokenizer.get_vocab().values()) + 1}
    if "decoder_vocab_size" in raw:
        settings["decoder_vocab_size"] = settings["vocab_size"]
    names = [*_SPECIAL_IDS, *(name for name in _IDS_WHERE_NAMED if f"{name}_token_id" in raw)]
    settings |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    if family_of(raw["model_type"]).kind == "encoder_decoder":
        # As in the paper: the decoder begins with a token of its own, or with padding where there is none.
        begins = (tokenizer.bos_token_id, tokenizer.pad_token_id)
        settings["decoder_start_token_id"] = next((i for i in begins if i is not None), None)
    return settings


def with_pad_token(description: Description) -> Description:
    """The description of a decoder with a padding token: GPT-2 and Llama have none.

    transformers finds the last token of a padded text, which a classifier reads, by ``pad_token_id``. What
    ends a text by rule is no choice for it.
    """
    raw, tokenizer = dict(description.raw_config), description.tokenizer
    if family_of(raw.get("model_type")).kind != "decoder":
        return description
    if tokenizer.pad_token_id is None:
        named = raw.get("pad_token_id")
        last = tokenizer("a")["input_ids"][-1:]
        ids = (named, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
        found = next((i for i in ids if i is not None and 0 <= i < len(tokenizer) and [i] != last), None)
        if found is None:
            return description
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(found)
    raw["pad_token_id"] = tokenizer.pad_token_id
    config = dataclasses.replace(description.config, pad_token_id=tokenizer.pad_token_id)
    return dataclasses.replace(description, raw_config=raw, config=config)
