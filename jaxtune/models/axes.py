"""Names of an activation's axes, and the place where a mesh says how they are split.

A model names the axes of its large activations with ``constrain``; without a mesh that does nothing. What
runs the model on one installs, with ``constrained_by``, the function that turns names into a sharding. Model
files then know of no mesh. (Flax's ``with_logical_constraint`` needs a mesh context that JAX deprecates.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Array

Names = tuple[str | None, ...]
Constraint = Callable[[Array, Names], Array]

HIDDEN = ("batch", "sequence", "embed")
"""Hidden states [B, S, D]."""
QUERIES = ("batch", "sequence", "heads", None)
"""Queries, and what attention makes of them [B, S, H, C]."""
KEYS = ("batch", "keys", "kv_heads", None)
"""Keys and values [B, T, K, C]: each device that holds a share of the queries sees all of them."""
WIDE = ("batch", "sequence", "mlp")
"""Inside a feed-forward [B, S, F]."""
TABLE = ("vocabulary", None)
"""A table of words as it is looked up [V, D]."""

_installed: ContextVar[Constraint | None] = ContextVar("constraint", default=None)


def constrain(x: Array, names: Names) -> Array:
    """``x``, laid out as what is installed says of axes with these names."""
    constraint = _installed.get()
    return x if constraint is None else constraint(x, names)


@contextmanager
def constrained_by(constraint: Constraint) -> Iterator[None]:
    """Within the context (that is, while a function is traced) ``constrain`` calls ``constraint``."""
    token = _installed.set(constraint)
    try:
        yield
    finally:
        _installed.reset(token)
