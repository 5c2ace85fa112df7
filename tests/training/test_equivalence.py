"""However a batch is laid out and wherever it runs, twenty steps give the same loss curve.

Dropout 0, float32, the same example ids in every step; the plain run has one example per row,
padded to one length, on one device.
"""

import jax
import numpy as np
import pytest

from jaxtune.config import Experiment, MeshConfig, OptimConfig
from jaxtune.data.batches import build_batch
from jaxtune.data.examples import Examples
from jaxtune.data.planning import StepPlan
from jaxtune.models.families.bert import BertConfig
from jaxtune.models.layer_stack import stack_layers, unstack_layers
from jaxtune.models.layers import Policy
from jaxtune.models.model import build_model, init_params
from jaxtune.parallel.mesh import batch_sharding, make_mesh, put_batch, replicated
from jaxtune.tasks.registry import make_task
from jaxtune.training.optimizers import make_optimizer, make_schedule
from jaxtune.training.state import create_state
from jaxtune.training.step import make_forward, make_train_step

STEPS, BATCH, LONGEST = 20, 32, 40
CONFIG = BertConfig(
    vocab_size=199,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=64,
).with_dropout(0.0)
OPTIM = OptimConfig(learning_rate=1e-3)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, LONGEST + 1, size=STEPS * BATCH)

    def example(n):
        tokens = rng.integers(4, CONFIG.vocab_size, size=n).astype(np.int32)
        tokens[0] = 1 + n % 3  # what the label can be read from
        return {
            "tokens": tokens,
            "token_types": (np.arange(n) > n // 2).astype(np.int32),
            "target": int(n % 3),
        }

    return Examples.from_list(example(n) for n in lengths)


def ids_of(step):
    return list(range(step * BATCH, (step + 1) * BATCH))


def plain(step, lengths):
    return StepPlan(tuple((i,) for i in ids_of(step)), LONGEST, 1)


def bucketed(step, lengths):
    ids = ids_of(step)
    longest = max(lengths[i] for i in ids)
    return StepPlan(tuple((i,) for i in reversed(ids)), int(-(-longest // 8) * 8), 1)


def packed(step, lengths):
    rows, room = [[] for _ in range(16)], [80] * 16
    for i in sorted(ids_of(step), key=lambda i: -lengths[i]):
        row = next(r for r in range(16) if room[r] >= lengths[i])
        rows[row].append(i)
        room[row] -= lengths[i]
    return StepPlan(tuple(map(tuple, rows)), 80, 12)


def curve(examples, layout=plain, *, accumulate=1, devices=1, scan=False, remat="none"):
    """Loss of each of the twenty steps, and the final parameters."""
    task = make_task(Experiment()).resolve_labels([0, 1, 2], ("a", "b", "c"))
    policy = Policy(matmul_precision="highest")
    params = init_params(build_model(CONFIG, task.head, 3), jax.random.key(0))
    model = build_model(CONFIG, task.head, 3, policy, scan_layers=scan, remat=remat)
    optimizer, schedule = make_optimizer(OPTIM), make_schedule(OPTIM, STEPS)
    mesh = make_mesh(MeshConfig(devices=devices))
    state = create_state(stack_layers(params) if scan else params, optimizer, seed=0)
    state = jax.device_put(state, replicated(mesh))
    step = make_train_step(make_forward(model), task.loss, optimizer, schedule, accumulate=accumulate)
    step = jax.jit(step, donate_argnums=0)
    losses = []
    for t in range(STEPS):
        batch = build_batch(examples, layout(t, examples.lengths))
        assert sorted(i for i in batch["example_ids"].ravel() if i >= 0) == ids_of(t)
        state, metrics = step(state, put_batch(batch, batch_sharding(mesh)))
        total, weight = jax.device_get(metrics["sums"]["loss"])
        assert weight == BATCH
        losses.append(total / weight)
    return np.array(losses), unstack_layers(jax.device_get(state.trainable))


@pytest.fixture(scope="module")
def reference(examples):
    return curve(examples)


@pytest.mark.parametrize(
    "variant",
    [
        {"layout": packed},
        {"layout": bucketed},
        {"accumulate": 4},
        {"devices": 8},
        {"layout": packed, "accumulate": 2, "devices": 8},
        {"scan": True},
        {"scan": True, "remat": "full"},
        {"remat": "dots"},
    ],
    ids=lambda v: "-".join(f"{k}={getattr(x, '__name__', x)}" for k, x in v.items()),
)
def test_same_loss_curve(examples, reference, variant):
    losses, _ = curve(examples, **variant)
    assert reference[0][0] - reference[0][-1] > 0.05, "the reference must learn, or equality says little"
    np.testing.assert_allclose(losses, reference[0], atol=1e-5, rtol=0)


def losses_by_example(examples, layout):
    """Cross-entropy of every example, by id, with fresh parameters."""
    model = build_model(CONFIG, "classification", 3, Policy(matmul_precision="highest"))
    params = init_params(model, jax.random.key(1))
    forward = jax.jit(make_forward(model), static_argnums=2)
    losses = {}
    for t in range(3):
        batch = build_batch(examples, layout(t, examples.lengths))
        log_probabilities = np.asarray(jax.nn.log_softmax(forward(params, batch, None)))
        for row, ids in enumerate(batch["example_ids"]):
            for n, example in enumerate(ids):
                if example >= 0:
                    losses[int(example)] = -log_probabilities[row, n, batch["targets"][row, n]]
    return losses


@pytest.mark.parametrize("layout", [packed, bucketed])
def test_same_loss_for_every_single_example(examples, layout):
    expected, ours = losses_by_example(examples, plain), losses_by_example(examples, layout)
    assert ours.keys() == expected.keys() == set(range(3 * BATCH))
    for example, loss in expected.items():
        assert ours[example] == pytest.approx(loss, abs=1e-5), example
