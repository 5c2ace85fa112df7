"""Families by the ``model_type`` of config.json. A new family is one file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtune.models import bert
from jaxtune.models.weight_map import WeightEntry


@dataclasses.dataclass(frozen=True)
class Family:
    """What the rest of jaxtune needs to know of a family.

    Attributes:
        model_type: as in config.json.
        config_class: dataclass with ``from_hf(dict)``.
        backbone: the Linen module without a head.
        weight_map: names of the backbone's tensors for a configuration.
        prefix: what Hugging Face puts before a backbone's tensor names under a head.
        architectures: Hugging Face class name per head (none: the bare backbone).
    """

    model_type: str
    config_class: Any
    backbone: Any
    weight_map: Callable[[Any], tuple[WeightEntry, ...]]
    prefix: str
    architectures: Mapping[str | None, str]


FAMILIES: dict[str, Family] = {
    "bert": Family(
        model_type="bert",
        config_class=bert.BertConfig,
        backbone=bert.BertModel,
        weight_map=bert.weight_map,
        prefix="bert.",
        architectures={
            None: "BertModel",
            "classification": "BertForSequenceClassification",
            "regression": "BertForSequenceClassification",
        },
    ),
}


def family_of(model_type: str | None) -> Family:
    """The family of a ``model_type``.

    Raises:
        ValueError: it is not supported; lists those that are.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def family_of_config(config: Any) -> Family:
    """The family a configuration object belongs to."""
    return next(f for f in FAMILIES.values() if type(config) is f.config_class)
