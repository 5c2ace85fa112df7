"""Where parameters lie on a mesh: a table of path patterns, and FSDP for what it leaves open.

A rule names the dimensions that ``tensor`` splits: columns of what reads the hidden states and rows of what
writes them, so that a layer needs one sum over ``tensor`` at the end of each block (Shoeybi et al. 2019,
Megatron-LM, section 3), and the rows of the word table. ``fsdp`` then takes the largest dimension that is
left and divides (Rajbhandari et al. 2020, ZeRO-3); arrays of fewer than 2^14 elements stay whole.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import DictKey, tree_map_with_path

from jaxtune.errors import ConfigError
from jaxtune.parallel.mesh import AXES, FSDP, TENSOR

SMALLEST = 2**14
"""Elements from which an array is worth being split by FSDP."""
LAYERS = "layers"

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Paths that match ``pattern`` (``*`` is any text, ``/`` included) and the mesh axis of each dimension.

    Attributes:
        axes: of the canonical parameter, without the axis of stacked layers; fewer than there are
            dimensions leave the others whole.
        exact: take ``axes`` as they are: FSDP adds nothing.
    """

    pattern: str
    axes: Axes = ()
    exact: bool = False


SHARED = (
    Rule("*attention/query/*", (None, TENSOR)),
    Rule("*attention/key/*", (None, TENSOR)),
    Rule("*attention/value/*", (None, TENSOR)),
    Rule("*attention/output/kernel", (TENSOR, None)),
    Rule("*attention/output/bias"),
    Rule("*/mlp_up/*", (None, TENSOR)),
    Rule("*/mlp_gate/*", (None, TENSOR)),
    Rule("*/mlp_down/kernel", (TENSOR, None)),
    Rule("*/mlp_down/bias"),
    Rule("*/word/embedding", (TENSOR, None)),
    Rule("*/lm_head/embedding", (TENSOR, None)),
    Rule("head/bias", (TENSOR,)),
    Rule("*norm/scale"),
    Rule("*norm/bias"),
    Rule("*/position/embedding"),
    Rule("*/token_type/embedding"),
    Rule("*/relative_bias/embedding"),
    Rule("*/projection/*"),
    Rule("*/pooler/*"),
    Rule("head/dense/*"),
    Rule("head/classifier/*"),
)
"""Of the names that all families share. A bias takes the last axis of its kernel's rule."""

FAMILIES: Mapping[str, tuple[Rule, ...]] = {
    "deberta-v2": (
        Rule("*attention/position_query/*", (None, TENSOR)),
        Rule("*attention/position_key/*", (None, TENSOR)),
        Rule("*/distance/*"),
        Rule("*/conv/*"),
    ),
    "bilstm": (Rule("*/input/*"), Rule("*/recurrent/*")),
    "textcnn": (Rule("backbone/convolutions_*"),),
}
"""Rules of a family, before the shared ones."""


def rules_of(model_type: str, overrides: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The table of a family: what the user says first, then the family's own rules, then those all share.

    Args:
        overrides: as ``*/mlp_up/kernel=fsdp,tensor``.

    Raises:
        ConfigError: an override that is no rule, or names no mesh axis.
    """
    return (*(_parse(text) for text in overrides), *FAMILIES.get(model_type, ()), *SHARED)


def _parse(text: str) -> Rule:
    pattern, equals, names = text.partition("=")
    axes = tuple(None if name == "-" else name for name in names.split(",")) if names else ()
    unknown = [name for name in axes if name is not None and name not in AXES]
    if not equals or not pattern or unknown:
        wrong = f"{unknown[0]!r} is no mesh axis" if unknown else "it has no `=` between pattern and axes"
        raise ConfigError(
            f"`mesh.rules`: {text!r}: {wrong}; expected PATTERN=axis,axis with one of {', '.join(AXES)} or - "
            "per dimension, as */mlp_up/kernel=fsdp,tensor"
        )
    return Rule(pattern, axes, exact=True)


def spec_of(path: str, shape: Sequence[int], rules: Sequence[Rule], mesh: Mesh | AbstractMesh) -> P:
    """How one parameter lies on the mesh.

    Args:
        path: as ``backbone/layers/3/mlp_up/kernel``, or ``backbone/layers/mlp_up/kernel`` of stacked layers.

    Raises:
        ConfigError: no rule matches, a rule does not fit the shape, or a dimension does not divide.
    """
    rule = next((rule for rule in rules if fnmatchcase(path, rule.pattern)), None)
    if rule is None:
        raise ConfigError(
            f"no sharding rule matches the parameter {path} {tuple(shape)}; add one, as "
            f"--mesh.rules '{path}={','.join('-' for _ in shape)}', or a line in parallel/rules.py"
        )
    stacked = is_stacked(path)
    inner = shape[1:] if stacked else shape
    axes = _fitted(rule, path, inner, mesh)
    if not rule.exact:
        axes = _with_fsdp(axes, inner, mesh.shape[FSDP])
    return P(*((None,) if stacked else ()), *axes)


def is_stacked(path: str) -> bool:
    """Whether the path is of layers that are held together as [L, …]."""
    parts = path.split("/")
    return any(a == LAYERS and not b.isdigit() for a, b in itertools.pairwise(parts))


def _fitted(rule: Rule, path: str, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> list[str | None]:
    """The rule's axes for this shape, without those of size 1."""
    named = rule.axes
    if len(named) > len(shape) == 1 and not rule.exact:
        named = named[-1:]
    if len(named) > len(shape):
        raise ConfigError(
            f"`mesh.rules`: {rule.pattern}={','.join(a or '-' for a in named)} names {len(named)} dimensions, "
            f"and {path} has {len(shape)} {tuple(shape)}"
        )
    axes: list[str | None] = [*named, *(None for _ in shape[len(named) :])]
    for i, axis in enumerate(axes):
        if axis is None or mesh.shape[axis] == 1:
            axes[i] = None
        elif shape[i] % mesh.shape[axis]:
            if path.endswith("embedding") or path == "head/bias":
                axes[i] = None  # a vocabulary padded to 128 rows that still does not divide stays whole
                continue
            raise ConfigError(
                f"{path} {tuple(shape)}: dimension {i} of {shape[i]} does not divide over `mesh.{axis}` "
                f"{mesh.shape[axis]}; sizes that fit: {', '.join(map(str, divisors(shape[i], mesh.size)))}"
            )
    return axes


def _with_fsdp(axes: list[str | None], shape: Sequence[int], size: int) -> list[str | None]:
    if size == 1 or math.prod(shape) < SMALLEST:
        return axes
    free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % size == 0]
    if not free:
        return axes
    # Of two that are equally large the first, as `max` has it.
    largest = max(free, key=lambda i: shape[i])
    return [FSDP if i == largest else axis for i, axis in enumerate(axes)]


def divisors(number: int, most: int) -> list[int]:
    """Divisors of ``number`` up to ``most``."""
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def check_heads(heads: int, kv_heads: int, mesh: Mesh | AbstractMesh) -> None:
    """Check that whole heads lie on each device of ``tensor``.

    Raises:
        ConfigError: they do not; names the sizes that fit.
    """
    size, common = mesh.shape[TENSOR], math.gcd(heads, kv_heads)
    if common % size:
        what = f"{heads} heads" if heads == kv_heads else f"{heads} heads and {kv_heads} key/value heads"
        raise ConfigError(
            f"`mesh.tensor` is {size}, and the model has {what}; expected one of "
            f"{', '.join(map(str, divisors(common, common)))}"
        )


def shardings_of(tree: Any, rules: Sequence[Rule], mesh: Mesh | AbstractMesh) -> Any:
    """Shardings of a parameter tree, or of a state that holds such trees.

    A leaf of the optimizer that belongs to a parameter and has its shape lies where the parameter does; one
    that has another shape (Adafactor's factors) is split by FSDP alone; numbers lie everywhere.

    Args:
        tree: arrays or ``jax.ShapeDtypeStruct``.

    Raises:
        ConfigError: see ``spec_of``.
    """
    shapes = _parameter_shapes(tree)

    def place(keys: Any, leaf: Any) -> NamedSharding:
        path = _parameter_path(keys)
        if path is None:
            return NamedSharding(mesh, P())
        if shapes[path] == leaf.shape:
            return NamedSharding(mesh, spec_of(path, leaf.shape, rules, mesh))
        stacked = is_stacked(path)
        inner = leaf.shape[1:] if stacked else leaf.shape
        axes = _with_fsdp([None] * len(inner), inner, mesh.shape[FSDP])
        return NamedSharding(mesh, P(*((None,) if stacked else ()), *axes))

    return tree_map_with_path(place, tree)


def _parameter_path(keys: Any) -> str | None:
    """The path of the parameter that a leaf is or belongs to: the names of dicts that its own path ends in."""
    names: list[str] = []
    for key in reversed(keys):
        if not isinstance(key, DictKey):
            break
        names.append(str(key.key))
    return "/".join(reversed(names)) or None


def _parameter_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a tree or state: that of the largest leaf of its path."""
    shapes: dict[str, tuple[int, ...]] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = _parameter_path(keys)
        if path is not None:
            shapes[path] = max(shapes.get(path, ()), leaf.shape, key=math.prod)
    return shapes


def layout_table(shapes: Any, rules: Sequence[Rule], mesh: Mesh | AbstractMesh) -> list[dict[str, Any]]:
    """Where the parameters lie, one row for those that are alike in all layers.

    Args:
        shapes: the canonical parameters, or their shapes and dtypes.

    Returns:
        rows with ``parameter`` (a pattern), ``arrays``, ``shape``, ``axes`` and ``bytes on a device``.

    Raises:
        ConfigError: see ``spec_of``.
    """
    rows: dict[tuple[str, Any, str], dict[str, Any]] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = _parameter_path(keys) or ""
        spec = spec_of(path, leaf.shape, rules, mesh)
        axes = ", ".join(axis or "-" for axis in spec) if any(spec) else "whole"
        parts = math.prod(mesh.shape[axis] for axis in spec if axis is not None)
        name = re.sub(rf"\b{LAYERS}/\d+/", f"{LAYERS}/*/", path)
        row = rows.setdefault(
            (name, leaf.shape, axes),
            {"parameter": name, "arrays": 0, "shape": list(leaf.shape), "axes": axes, "bytes on a device": 0},
        )
        row["arrays"] += 1
        row["bytes on a device"] += math.prod(leaf.shape) * leaf.dtype.itemsize // parts
    return list(rows.values())
