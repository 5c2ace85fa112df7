"""One stream of global batches, whatever the number of processes and wherever it was restored."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxtune.data.examples import Examples
from jaxtune.data.loader import Batches
from jaxtune.data.planning import plan_training
from jaxtune.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def examples(movie_lengths):
    rng = np.random.default_rng(0)
    return Examples.from_list(
        {"tokens": rng.integers(1, 30_000, n), "token_types": np.zeros(n), "target": int(n % 2)}
        for n in movie_lengths(600)
    )


def make_plan(examples, batching="packed", seed=0, epochs=2):
    return plan_training(examples.lengths, batching=batching, batch_size=32, seed=seed, epochs=epochs)


def global_batches(examples, plan, processes, record=None, count=None):
    """What all processes together see: their rows stacked, batch by batch, and their position after it."""
    loaders = [Batches(examples, plan, process_index=p, process_count=processes) for p in range(processes)]
    for loader in loaders:
        if record is not None:
            loader.restore(record)
    seen = []
    for shares in zip(*loaders):
        seen.append({name: np.concatenate([share[name] for share in shares]) for name in shares[0]})
        if len(seen) == count:
            break
    positions = [loader.position() for loader in loaders]
    assert all(position == positions[0] for position in positions)
    for loader in loaders:
        loader.close()
    return seen, positions[0]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("batching", ["packed", "bucketed", "padded"])
def test_any_number_of_processes_sees_the_same_global_batches(examples, batching):
    plan = make_plan(examples, batching)
    alone, _ = global_batches(examples, plan, 1)
    assert len(alone) == plan.num_steps
    for processes in (2, 4):
        assert_same(alone, global_batches(examples, plan, processes)[0])


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 4), (4, 2), (2, 1)])
def test_restoring_goes_on_as_if_nothing_had_happened(examples, before, after):
    plan = make_plan(examples)
    whole, _ = global_batches(examples, plan, 1)
    first, record = global_batches(examples, plan, before, count=7)
    assert record["step"] == 7
    rest, _ = global_batches(examples, plan, after, record=json.loads(json.dumps(record)))
    assert_same(whole, first + rest)


def test_start_step_and_position_agree(examples):
    plan = make_plan(examples)
    loader = Batches(examples, plan, start_step=5, prefetch=0)
    assert loader.position() == {"step": 5, "plan": plan.digest}
    batch = next(loader)
    whole, _ = global_batches(examples, plan, 1, count=6)
    assert_same([batch], whole[5:])


def test_a_longer_run_restores_a_shorter_ones_position(examples):
    _, record = global_batches(examples, make_plan(examples, epochs=1), 1)
    rest, _ = global_batches(examples, make_plan(examples, epochs=2), 1, record=record)
    assert len(rest) == make_plan(examples, epochs=2).steps_per_epoch[1]


def test_a_position_of_other_batches_is_refused(examples):
    record = Batches(examples, make_plan(examples)).position()
    with pytest.raises(DataError, match=r"other batches.*train\.seed"):
        Batches(examples, make_plan(examples, seed=1)).restore(record)


def test_rows_that_cannot_be_shared_are_refused(examples):
    with pytest.raises(ConfigError, match=r"8 rows cannot be shared by 3 processes: set data\.rows"):
        Batches(examples, make_plan(examples), process_count=3)
