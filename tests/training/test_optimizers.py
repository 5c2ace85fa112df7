"""Schedules against their formulas, optimizers against hand-made updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.config import OptimConfig
from jaxtune.models.layer_stack import stack_layers, unstack_layers
from jaxtune.training.optimizers import decays, make_optimizer, make_schedule, warmup_steps

PEAK, TOTAL, WARMUP, END = 0.1, 100, 10, 0.25


def fraction(step):
    return (step - WARMUP) / (TOTAL - WARMUP)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("linear", lambda s: 1 - (1 - END) * fraction(s)),
        ("cosine", lambda s: END + (1 - END) * (1 + np.cos(np.pi * fraction(s))) / 2),
        ("polynomial", lambda s: END + (1 - END) * (1 - fraction(s)) ** 2),
        ("exponential", lambda s: END ** fraction(s)),
        ("constant", lambda s: 1.0),
        ("inverse_sqrt", lambda s: np.sqrt(WARMUP / s)),
    ],
)
def test_schedules(name, formula):
    schedule = make_schedule(OptimConfig(learning_rate=PEAK, schedule=name, end_factor=END), TOTAL)
    for step in range(WARMUP):
        assert float(schedule(step)) == pytest.approx(PEAK * step / WARMUP, rel=1e-5)
    for step in range(WARMUP, TOTAL):
        assert float(schedule(step)) == pytest.approx(PEAK * formula(step), rel=1e-5), step


def test_warmup_is_a_share_or_a_number_of_steps():
    assert warmup_steps(OptimConfig(warmup=0.1), 792) == 80  # rounded up, as transformers does
    assert warmup_steps(OptimConfig(warmup=0.1), 100) == 10
    assert warmup_steps(OptimConfig(warmup=50), 792) == 50
    assert warmup_steps(OptimConfig(warmup=0), 792) == 0


def test_an_exponential_to_zero_ends_small_and_stays_positive():
    schedule = make_schedule(OptimConfig(schedule="exponential", warmup=0, learning_rate=1.0), 10)
    assert 0 < float(schedule(10)) <= 1.1e-3


def params():
    rng = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def block():
        return {"mlp_up": {"kernel": array(160, 130), "bias": array(130)}, "mlp_norm": {"scale": array(160)}}

    return {"backbone": {"layers": {str(i): block() for i in range(3)}}, "head": {"kernel": array(130, 2)}}


def test_decay_spares_biases_and_norms():
    mask = decays(params())["backbone"]["layers"]["0"]
    assert mask == {"mlp_up": {"kernel": True, "bias": False}, "mlp_norm": {"scale": False}}


def test_adamw_first_update_is_sign_plus_decay():
    p = params()
    grads = jax.tree.map(lambda x: 0.5 * jnp.ones_like(x), p)
    optimizer = make_optimizer(OptimConfig(weight_decay=0.1, clip_norm=None))
    direction, _ = optimizer.update(grads, optimizer.init(p), p)
    block, given = direction["backbone"]["layers"]["1"], p["backbone"]["layers"]["1"]
    np.testing.assert_allclose(block["mlp_up"]["kernel"], 1 + 0.1 * given["mlp_up"]["kernel"], atol=2e-5)
    # optax takes 1 - beta2^t in float32, where it is off by up to 3e-5 at the first step.
    np.testing.assert_allclose(block["mlp_up"]["bias"], 1.0, atol=2e-5)


def test_l1_pulls_towards_zero():
    p = params()
    optimizer = make_optimizer(OptimConfig(name="sgd", beta1=0, weight_decay=0, l1=0.3, clip_norm=None))
    direction, _ = optimizer.update(jax.tree.map(jnp.zeros_like, p), optimizer.init(p), p)
    kernel = p["head"]["kernel"]
    np.testing.assert_allclose(direction["head"]["kernel"], 0.3 * np.sign(kernel), rtol=1e-6)
    assert not direction["backbone"]["layers"]["0"]["mlp_norm"]["scale"].any()


def test_clipping_bounds_the_global_norm():
    p = params()
    grads = jax.tree.map(lambda x: 10 * jnp.ones_like(x), p)
    optimizer = make_optimizer(OptimConfig(name="sgd", beta1=0, weight_decay=0, clip_norm=1.0))
    direction, _ = optimizer.update(grads, optimizer.init(p), p)
    norm = np.sqrt(sum(float(jnp.square(x).sum()) for x in jax.tree.leaves(direction)))
    assert norm == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adafactor"])
def test_stacked_layers_take_the_same_updates(name):
    p = params()
    grads = jax.tree.map(lambda x: jnp.cos(7 * x), p)
    optimizer = make_optimizer(OptimConfig(name=name))
    direction, state = optimizer.update(grads, optimizer.init(p), p)
    stacked, stacked_state = optimizer.update(
        stack_layers(grads), optimizer.init(stack_layers(p)), stack_layers(p)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), unstack_layers(stacked), direction)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), unstack_layers(stacked_state), state
    )
