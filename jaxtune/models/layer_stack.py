"""Layers one after the other, and the two forms of their parameters.

There is one canonical tree, a branch per layer; rules, checkpoints and exports speak of it. A run
may hold its layers stacked as [L, …] and scan over them; ``stack_layers`` and ``unstack_layers``
map between the two, for any pytree that holds parameter-shaped dicts (an optimizer state too).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxtune.models.attention import ATTENTION_OUTPUT

LAYERS = "layers"
_KEEP_ATTENTION = jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUT)


def _offload(primitive: Any, *args: Any, **params: Any) -> Any:
    """What ``dots`` keeps, but in the host's memory; what attention gives out stays on the device."""
    if _KEEP_ATTENTION(primitive, *args, **params):
        return True
    return _DOTS_TO_HOST(primitive, *args, **params)


_DOTS = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
_DOTS_TO_HOST = jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host")
REMAT_POLICIES: dict[str, Any] = {
    "full": None,
    "attention": _KEEP_ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(_DOTS, _KEEP_ATTENTION),
    "offload": _offload,
}
"""What a backward pass keeps and need not compute again; ``none`` is no remat at all, and keeps everything.

``full`` keeps nothing but the input of each layer, ``attention`` what attention gives out as well,
``dots`` the results of matrix products with parameters too, and ``offload`` these in the host's memory.
"""

T = TypeVar("T")


def layer_stack(
    layer: type[nn.Module], args: Sequence[Any], count: int, *, scan: bool = False, remat: str = "none"
) -> nn.Module:
    """A module ``(x, indices [L], caches, context) -> (x, caches)`` that runs ``count`` layers.

    Args:
        layer: module with ``__call__(x, index, cache, context) -> (x, cache)``; the index is a Python
            number in the canonical form and traced under scan (see ``of_layer``).
        args: fields that all layers are built with.
        scan: hold the parameters stacked and scan over them.
        remat: ``none``, or a name of ``REMAT_POLICIES``.
    """
    kind: Any = layer
    if remat != "none":
        # prevent_cse is only needed outside a scan, where XLA could undo the recomputation.
        static = () if scan else (2,)
        kind = nn.remat(layer, policy=REMAT_POLICIES[remat], prevent_cse=not scan, static_argnums=static)
    if not scan:
        return _Unrolled(kind, count, tuple(args))
    scanned: Any = nn.scan(
        kind,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, 0, nn.broadcast),
        length=count,
    )
    return scanned(*args)


class _Unrolled(nn.Module):
    """The layers one after the other, each a branch of its own: ``layers/0``, ``layers/1`` …"""

    layer: type[nn.Module]
    count: int
    args: tuple[Any, ...]

    @nn.compact
    def __call__(self, x: Array, _indices: Array, caches: Any, context: Any) -> tuple[Array, Any]:
        written = []
        for index in range(self.count):
            cache = None if caches is None else caches[index]
            x, cache = self.layer(*self.args, name=str(index))(x, index, cache, context)
            written.append(cache)
        return x, None if caches is None else tuple(written)


def of_layer(values: Sequence[T], index: Int[Array, ""] | int) -> T | Array:
    """What one layer uses of settings that differ between layers, its index traced or not."""
    if isinstance(index, int):
        return values[index]
    return values[0] if len(set(values)) == 1 else jnp.asarray(values)[index]


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
