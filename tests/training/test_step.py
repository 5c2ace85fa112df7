"""The train step: what it counts, and what it does with a broken batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtune.training.state import TRAINED, create_state, merge, partition
from jaxtune.training.step import make_train_step


def linear_forward(params, batch, key):
    return (batch["tokens"] @ params["head"]["kernel"])[:, None, :]


def squared_loss(logits, batch):
    error = jnp.square(logits[..., 0] - batch["targets"]) * batch["weights"]
    return {"loss": (error.sum(), batch["weights"].sum())}


def batch(rows=8, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "tokens": rng.normal(size=(rows, 3)).astype(np.float32),
        "targets": rng.normal(size=(rows, 1)).astype(np.float32),
        "weights": np.ones((rows, 1), np.float32),
    }
    return {**fields, **changes}


def make(accumulate=1, trains=TRAINED["all"], learning_rate=0.1):
    optimizer = optax.trace(0.9)
    params = {"head": {"kernel": jnp.ones((3, 1))}, "backbone": {"unused": jnp.ones(2)}}
    state = create_state(params, optimizer, 0, trains)
    step = make_train_step(
        linear_forward, squared_loss, optimizer, lambda t: learning_rate, accumulate=accumulate
    )
    return state, jax.jit(step)


def test_gradient_is_the_weighted_mean():
    state, step = make()
    data = batch(weights=np.array([[1], [0], [1], [0], [1], [0], [1], [0]], np.float32))
    new, metrics = step(state, data)
    x, y = data["tokens"][::2], data["targets"][::2]
    gradient = 2 * x.T @ (x @ np.ones((3, 1)) - y) / 4
    np.testing.assert_allclose(new.trainable["head"]["kernel"], 1 - 0.1 * gradient, rtol=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert int(new.step) == 1


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_does_not_change_the_update_when_weights_are_uneven(accumulate):
    weights = np.array([[1], [0], [0], [0], [0], [1], [1], [0]], np.float32)
    data = batch(weights=weights)
    (state, step), (_, accumulated) = make(), make(accumulate)
    whole, parts = step(state, data), accumulated(state, data)
    np.testing.assert_allclose(
        whole[0].trainable["head"]["kernel"], parts[0].trainable["head"]["kernel"], rtol=1e-6
    )
    assert float(parts[1]["sums"]["loss"][1]) == 3


def test_a_broken_batch_changes_nothing_but_the_counters():
    state, step = make()
    state, _ = step(state, batch())
    broken, metrics = step(state, batch(targets=np.full((8, 1), np.nan, np.float32)))
    assert not bool(metrics["finite"])
    for name in ("trainable", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(broken, name), getattr(state, name))
    assert (int(broken.step), int(broken.skipped), int(broken.skipped_in_a_row)) == (2, 1, 1)
    healed, metrics = step(broken, batch(seed=1))
    assert bool(metrics["finite"])
    assert (int(healed.skipped), int(healed.skipped_in_a_row)) == (1, 0)


def test_frozen_parameters_have_no_gradient_and_no_optimizer_state():
    state, step = make(trains=lambda path: path.startswith("head"))
    assert jax.tree.leaves(state.opt_state)[0].shape == (3, 1)
    assert len(jax.tree.leaves(state.opt_state)) == 1
    new, _ = step(state, batch())
    np.testing.assert_array_equal(new.frozen["backbone"]["unused"], np.ones(2))
    assert not np.array_equal(new.params["head"]["kernel"], np.ones((3, 1)))


def test_partition_and_merge_are_inverse():
    params = {"a": {"x": 1, "y": 2}, "b": {"z": 3}}
    chosen, rest = partition(params, lambda path: path.endswith(("x", "z")))
    assert (chosen, rest) == ({"a": {"x": 1}, "b": {"z": 3}}, {"a": {"y": 2}})
    assert merge(chosen, rest) == params
