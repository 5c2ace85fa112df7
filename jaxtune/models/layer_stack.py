"""One canonical parameter tree, a branch per layer, and its scanned form with layers stacked as [L, …].

Rules, checkpoints and exports speak of the canonical tree; a run may change between the two forms.
Both functions take any pytree that holds parameter-shaped dicts (an optimizer state too).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

LAYERS = "layers"


def stack_layers(tree: Any) -> Any:
    """Canonical → scanned: ``layers/0/…``, ``layers/1/…`` become ``layers/…`` with a leading axis L."""

    def stack(layers: dict[str, Any]) -> dict[str, Any]:
        if not _is_canonical(layers):
            return layers
        ordered = [layers[str(i)] for i in range(len(layers))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)

    return _map_layers(tree, stack)


def unstack_layers(tree: Any) -> Any:
    """Scanned → canonical; the inverse of ``stack_layers``."""

    def unstack(layers: dict[str, Any]) -> dict[str, Any]:
        leaves = jax.tree.leaves(layers)
        if _is_canonical(layers) or not leaves:
            return layers
        return {str(i): jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(leaves[0].shape[0])}

    return _map_layers(tree, unstack)


def _is_canonical(layers: dict[str, Any]) -> bool:
    return all(name.isdigit() for name in layers)


def _map_layers(tree: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    def visit(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {k: change(v) if k == LAYERS and isinstance(v, dict) else visit(v) for k, v in node.items()}

    return jax.tree.map(visit, tree, is_leaf=lambda node: isinstance(node, dict))
