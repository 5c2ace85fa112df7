"""The state of a training run on the devices, and the split of parameters into trained and frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int, UInt32

Params = dict[str, Any]


class TrainState(flax.struct.PyTreeNode):
    """All that one step reads and replaces. Gradients and optimizer state exist for ``trainable`` only.

    Attributes:
        step: optimizer steps taken.
        seed: of the run; every key is a hash of (seed, step, purpose).
        trainable, frozen: two parts of one parameter tree; ``merge`` joins them.
        opt_state: optax state for ``trainable``.
        skipped: updates skipped for a non-finite loss or gradient, in all and in a row.
    """

    step: Int[Array, ""]
    seed: UInt32[Array, ""]
    trainable: Params
    frozen: Params
    opt_state: Any
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]

    @property
    def params(self) -> Params:
        """The whole parameter tree."""
        return merge(self.trainable, self.frozen)


Trains = Callable[[str], bool]
"""Says of a parameter by its path (``backbone/layers/0/attention/query/kernel``) whether it is trained."""

TRAINED: Mapping[str, Trains] = {
    "all": lambda path: True,
    "head": lambda path: path.startswith("head/"),
}
"""What the values of ``train.trainable`` mean. A path says the same of canonical and of stacked layers."""


def create_state(params: Params, optimizer: Any, seed: int, trains: Trains = TRAINED["all"]) -> TrainState:
    """A state at step 0.

    Args:
        optimizer: an optax transformation; initialised for the trained parameters.
        trains: what is trained; the rest is frozen.
    """
    trainable, frozen = partition(params, trains)
    # Three zeros, not one shared: the state is donated, and a buffer cannot be donated twice.
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(step, jnp.uint32(seed), trainable, frozen, optimizer.init(trainable), skipped, in_a_row)


def partition(params: Params, trains: Trains) -> tuple[Params, Params]:
    """Split a tree in two by path; the inverse of ``merge``."""
    flat = flatten_dict(params, sep="/")
    chosen = {path: leaf for path, leaf in flat.items() if trains(path)}
    rest = {path: leaf for path, leaf in flat.items() if path not in chosen}
    return unflatten_dict(chosen, sep="/"), unflatten_dict(rest, sep="/")


def merge(trainable: Params, frozen: Params) -> Params:
    """Join two trees that share no leaf."""
    if not frozen:
        return trainable
    return unflatten_dict({**flatten_dict(frozen, sep="/"), **flatten_dict(trainable, sep="/")}, sep="/")


def count(params: Params) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
