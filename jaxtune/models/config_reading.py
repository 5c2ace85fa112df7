"""Reading a config.json into a family's dataclass, so that no option is ignored in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_SIZES = frozenset(
    {
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings"),
    }
)
"""Fields that count something there must be one of."""


def read_fields(
    cls: type[T],
    raw: Mapping[str, Any],
    *,
    renamed: Mapping[str, str] | None = None,
    supported: Mapping[str, tuple[Any, ...]] | None = None,
    **settled: Any,
) -> T:
    """A dataclass from the settings of a config.json.

    Args:
        renamed: field of ours → name in config.json, where they differ (``hidden_size`` → ``n_embd``).
        supported: settings that change the network → values that are supported; others are refused.
        settled: fields whose value the family has worked out itself.

    Raises:
        ValueError: an option that is not supported, by name and value.
    """
    for name, allowed in (supported or {}).items():
        if name in raw and raw[name] not in allowed:
            raise ValueError(
                f"config.json: {name}={raw[name]!r} is not supported; use one of {_listed(allowed)}"
            )
    values = dict(settled)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = (renamed or {}).get(field.name, field.name)
        # A null in config.json stands for the default, as it does in transformers.
        if field.name not in values and raw.get(name) is not None:
            values[field.name] = _hashable(raw[name])
        if field.name in _SIZES:
            _check_size(name, values.get(field.name))
    return cls(**values)


def _check_size(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(
            f"config.json: {name}={value!r} is not supported; expected a whole number, 1 or more"
        )


def check_divides(config: Any, whole: str, part: str) -> None:
    """Raise ValueError unless one setting is a multiple of another."""
    a, b = getattr(config, whole), getattr(config, part)
    if a % b:
        raise ValueError(f"config.json: {whole}={a} is not divisible by {part}={b}")


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, values))
