"""An experiment's way to plain dicts and YAML, and back."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal

from jaxtune.config.checks import validate
from jaxtune.config.experiment import CONFIG_VERSION, Experiment
from jaxtune.errors import ConfigError


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as nested dicts of plain values (tuples become lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return plain(experiment)


def from_dict(raw: Any, where: str = "config") -> Experiment:
    """Build and check an experiment from nested dicts.

    Args:
        where: name of the file, for messages.

    Raises:
        ConfigError: unknown field (with the nearest valid name), ill-typed value, or newer version.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of fields, got {type(raw).__name__}")
    version = raw.get("version", CONFIG_VERSION)
    if isinstance(version, int) and version > CONFIG_VERSION:
        raise ConfigError(
            f"{where}: version {version!r} was written by a newer jaxtune; this one reads up to "
            f"{CONFIG_VERSION}. Upgrade jaxtune: pip install -U jaxtune"
        )
    experiment = _build(Experiment, raw, where, "")
    try:
        validate(experiment)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return experiment


def dump_yaml(experiment: Experiment) -> str:
    """The experiment as YAML."""
    import yaml

    # Escaped, not raw: PyYAML writes some control characters (U+0085) in a way it reads back otherwise.
    return yaml.safe_dump(to_dict(experiment), sort_keys=False, allow_unicode=False)


def load_yaml(text: str, where: str = "config") -> Experiment:
    """Read an experiment from YAML (JSON is YAML too).

    Raises:
        ConfigError: not YAML (with line), a field given twice, or what ``from_dict`` raises.
    """
    import yaml

    try:
        node = yaml.compose(text, yaml.SafeLoader)
        _refuse_doubled(node, where)
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = where if mark is None else f"{where}:{mark.line + 1}"
        raise ConfigError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    return from_dict({} if raw is None else raw, where)


def _refuse_doubled(node: Any, where: str) -> None:
    """Raises ConfigError for a field that is given twice: YAML would take the last one silently."""
    if node is None or not isinstance(node.value, list):
        return
    seen: set[str] = set()
    for child in node.value:
        if not isinstance(child, tuple):
            _refuse_doubled(child, where)
            continue
        key, value = child
        if key.value in seen and isinstance(key.value, str):
            raise ConfigError(
                f"{where}:{key.start_mark.line + 1}: `{key.value}` is given twice; expected each field once"
            )
        if isinstance(key.value, str):
            seen.add(key.value)
        _refuse_doubled(value, where)


def _build(cls: Any, raw: dict[str, Any], where: str, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    for name in raw:
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.5)
            hint = f"; did you mean `{prefix}{near[0]}`?" if near else f"; fields: {', '.join(hints)}"
            raise ConfigError(f"{where}: unknown field `{prefix}{name}`{hint}")
    values = {name: _coerce(hints[name], value, where, prefix + name) for name, value in raw.items()}
    return cls(**values)


def _coerce(hint: Any, value: Any, where: str, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: `{path}` holds fields of its own; got {value!r}")
        return _build(hint, value, where, path + ".")
    converted = _match(hint, value)
    if converted is _NO_MATCH:
        raise ConfigError(f"{where}: `{path}` expects {_describe(hint)}; got {value!r}")
    return converted


_NO_MATCH: Any = object()


def _match(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint`` asks for, or ``_NO_MATCH``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((m for a in args if (m := _match(a, value)) is not _NO_MATCH), _NO_MATCH)
    if origin is Literal:
        return value if value in args and isinstance(value, str) else _NO_MATCH
    if origin is tuple:
        return _match_tuple(args, value)
    if hint is type(None):
        return None if value is None else _NO_MATCH
    if hint is float and not isinstance(value, bool):
        return _as_float(value)
    if isinstance(value, bool) and hint is not bool:
        return _NO_MATCH
    return value if isinstance(value, hint) else _NO_MATCH


def _match_tuple(args: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return _NO_MATCH
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        return _NO_MATCH
    items = tuple(_match(kind, item) for kind, item in zip(kinds, value))
    return _NO_MATCH if _NO_MATCH in items else items


def _as_float(value: Any) -> Any:
    # YAML 1.1 reads 5e-5 (no dot) as a string; people write learning rates that way.
    try:
        return float(value) if isinstance(value, (int, float, str)) else _NO_MATCH
    except ValueError:
        return _NO_MATCH


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin is tuple:
        inner = _describe(args[0])
        return f"a list of {inner}" if args[-1] is Ellipsis else f"{len(args)} values, each {inner}"
    names = {type(None): "null", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
