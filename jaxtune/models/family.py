"""What the rest of jaxtune needs to know of a family; each family's file makes one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from jaxtune.models.cache import Cache
from jaxtune.models.heads import Head
from jaxtune.models.weight_map import WeightEntry

Kind = Literal["encoder", "decoder", "encoder_decoder"]


def _no_cache(config: Any, batch: int, length: int, dtype: Any) -> Cache:
    raise TypeError(f"a {type(config).__name__} is that of an encoder, which has no cache")


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        model_type: as in config.json.
        config_class: frozen dataclass with ``from_hf(dict)`` and ``with_dropout(rate)``, and always
            with vocab_size, hidden_size, num_hidden_layers, max_position_embeddings (none: no limit),
            pad_token_id and initializer_range, whatever config.json calls them.
        backbone: the Linen module without a head, ``(config, policy, scan_layers, remat, attention)``.
        weight_map: names of the backbone's tensors for a configuration.
        prefix: what Hugging Face puts before a backbone's tensor names under a head.
        base_architecture: Hugging Face's class without a head.
        heads: the heads there are, by name.
        empty_cache: ``(config, batch, length, dtype)`` → the cache of a model that generates.
        scannable: whether the layers of a configuration are all alike.
        constants: tensors that Hugging Face's class stores and that are computed here, by name without the prefix.
    """

    model_type: str
    kind: Kind
    config_class: Any
    backbone: Any
    weight_map: Callable[[Any], tuple[WeightEntry, ...]]
    prefix: str
    base_architecture: str
    heads: Mapping[str, Head]
    empty_cache: Callable[[Any, int, int, Any], Cache] = _no_cache
    scannable: Callable[[Any], bool] = lambda config: True
    constants: Callable[[Any], Mapping[str, np.ndarray]] = lambda config: {}

    def attention_heads(self, config: Any) -> tuple[int, int]:
        """Heads, and key/value heads, that the attentions of all layers have a multiple of; 0 without attention."""
        if self.kind == "encoder_decoder":
            heads = math.gcd(*(config.side(decoder).heads for decoder in (False, True)))
            return heads, heads
        heads = getattr(config, "num_attention_heads", 0)
        return heads, getattr(config, "num_key_value_heads", heads)
