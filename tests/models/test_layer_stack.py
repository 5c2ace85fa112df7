"""The canonical tree and its stacked form."""

import jax
import numpy as np
import optax
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.models.layer_stack import stack_layers, unstack_layers


def tree(layers: int) -> dict:
    rng = np.random.default_rng(layers)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    blocks = {
        str(i): {"attention": {"kernel": array(3, 2)}, "norm": {"scale": array(3)}} for i in range(layers)
    }
    return {"backbone": {"layers": blocks, "pooler": {"bias": array(2)}}}


@given(st.integers(1, 12))
def test_stacking_and_back_is_the_identity(layers):
    params = tree(layers)
    stacked = stack_layers(params)
    assert stacked["backbone"]["layers"]["attention"]["kernel"].shape == (layers, 3, 2)
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(stacked), params)


def test_both_ways_are_idempotent():
    params = tree(11)
    stacked = stack_layers(params)
    jax.tree.map(np.testing.assert_array_equal, stack_layers(stacked), stacked)
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(params), params)


def test_optimizer_states_are_changed_too():
    params = tree(3)
    state = optax.adamw(1e-3).init(params)
    changed = unstack_layers(stack_layers(state))
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    assert jax.tree.map(np.shape, changed) == jax.tree.map(np.shape, state)
