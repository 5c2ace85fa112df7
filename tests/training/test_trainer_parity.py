"""Twenty steps give the losses that Hugging Face Trainer gives (see tests/goldens/make_trainer_goldens.py).

The whole recipe is in them: the loss, its gradient, clipping, AdamW with decay off biases and norms, warm-up
and linear decay. benchmarks/loss_curve.py compares the same live, on the real checkpoint and data.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxtune.config import Experiment, OptimConfig
from jaxtune.data.batches import build_batch
from jaxtune.data.examples import Examples
from jaxtune.data.planning import StepPlan
from jaxtune.models.model import build_model
from jaxtune.tasks.registry import make_task
from jaxtune.training import optimizers
from jaxtune.training.optimizers import make_optimizer, make_schedule
from jaxtune.training.state import create_state
from jaxtune.training.step import make_forward, make_train_step
from tests.models.golden import FLOAT32, Golden

BAR = 1e-4


@pytest.fixture(scope="module")
def golden():
    return Golden("trainer_tiny")


@pytest.fixture(scope="module")
def examples(golden):
    def texts():
        for step, row in np.ndindex(golden["labels"].shape):
            real = golden["attention_mask"][step, row] == 1
            yield {
                "tokens": golden["input_ids"][step, row][real].astype(np.int32),
                "token_types": golden["token_type_ids"][step, row][real].astype(np.int32),
                "target": int(golden["labels"][step, row]),
            }

    return Examples.from_list(texts())


def one_per_row(ids, length):
    return StepPlan(tuple((i,) for i in ids), length, 1)


def two_per_row(ids, length):
    return StepPlan(tuple(zip(ids[::2], ids[1::2])), 2 * length, 2)


def curves(golden, examples, layout=one_per_row, **changes):
    """Losses, gradient norms and learning rates of jaxtune's step on the golden's batches."""
    optim = dataclasses.replace(OptimConfig(**json.loads(str(golden["recipe"]))), **changes)
    steps, batch_size, length = golden["input_ids"].shape
    config, params = Golden("bert_tiny").tiny()
    task = make_task(Experiment()).resolve_labels([0, 1, 2], ("a", "b", "c"))
    model = build_model(config.with_dropout(0.0), task.head, 3, FLOAT32)
    optimizer, schedule = make_optimizer(optim), make_schedule(optim, steps)
    step = jax.jit(make_train_step(make_forward(model), task.loss, optimizer, schedule))
    state = create_state(params, optimizer, seed=0)
    losses, norms, rates = [], [], []
    for t in range(steps):
        rates.append(float(schedule(state.step)))
        ids = range(t * batch_size, (t + 1) * batch_size)
        state, metrics = step(state, build_batch(examples, layout(ids, length)))
        total, weight = metrics["sums"]["loss"]
        assert weight == batch_size
        losses.append(float(total / weight))
        norms.append(float(metrics["grad_norm"]))
    return np.array(losses), np.array(norms), np.array(rates)


def test_the_golden_learns_and_clips(golden):
    assert golden["losses"][0] - golden["losses"][-1] > 0.2
    assert golden["grad_norms"].min() < 1 < golden["grad_norms"].max()


@pytest.mark.parametrize("layout", [one_per_row, two_per_row])
def test_same_losses_as_trainer(golden, examples, layout):
    losses, norms, rates = curves(golden, examples, layout)
    np.testing.assert_allclose(losses, golden["losses"], atol=BAR, rtol=0)
    np.testing.assert_allclose(norms, golden["grad_norms"], rtol=1e-3)
    np.testing.assert_allclose(rates, golden["learning_rates"], rtol=1e-5)


# What the golden can tell apart does not change from day to day.
@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"clip_norm": None}, {"weight_decay": 0.0}, {"warmup": 0.15}, {"schedule": "cosine"}, {"beta2": 0.99}],
    ids=str,
)
def test_another_recipe_is_told_apart(golden, examples, change):
    losses, _, _ = curves(golden, examples, **change)
    assert np.abs(losses - golden["losses"]).max() > 10 * BAR


@pytest.mark.slow
def test_decay_of_biases_and_norms_is_told_apart(golden, examples, monkeypatch):
    monkeypatch.setattr(optimizers, "decays", lambda params: jax.tree.map(lambda _: True, params))
    losses, _, _ = curves(golden, examples)
    assert np.abs(losses - golden["losses"]).max() > 10 * BAR
