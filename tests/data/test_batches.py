"""Tokenised examples → rows → the same examples again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.data.batches import build_batch, unpack
from jaxtune.data.examples import Examples
from jaxtune.data.planning import StepPlan, plan_training

token_lists = st.lists(st.lists(st.integers(0, 30_000), min_size=1, max_size=40), min_size=1, max_size=60)


def make_examples(token_lists, targets=None):
    return Examples.from_list(
        {
            "tokens": tokens,
            "token_types": [i % 2 for i in range(len(tokens))],
            "target": targets[n] if targets else n,
        }
        for n, tokens in enumerate(token_lists)
    )


@settings(max_examples=60, deadline=None)
@given(token_lists, st.sampled_from(["packed", "bucketed", "padded"]), st.integers(1, 20), st.integers(0, 3))
def test_packed_and_unpacked_again_is_the_same(tokens, batching, batch_size, seed):
    examples = make_examples(tokens)
    plan = plan_training(examples.lengths, batching=batching, batch_size=batch_size, seed=seed, epochs=1)
    found = {}
    for step in plan.steps:
        batch = build_batch(examples, step)
        check_consistent(batch, examples)
        found |= {example: list(ids) for example, ids in unpack(batch)}
    assert found == dict(enumerate(tokens))


def check_consistent(batch, examples):
    real = batch["segment_ids"] > 0
    for name in ("tokens", "positions", "token_types"):
        assert not batch[name][~real].any()
    ids, weights = batch["example_ids"], batch["weights"]
    assert np.array_equal(ids >= 0, weights > 0)
    for b, n in np.argwhere(ids >= 0):
        start = batch["starts"][b, n]
        span = slice(start, start + examples.lengths[ids[b, n]])
        assert np.array_equal(batch["positions"][b, span], np.arange(span.stop - span.start))
        assert (batch["segment_ids"][b, span] == n + 1).all()
        assert batch["token_types"][b, span].tolist() == examples[ids[b, n]]["token_types"].tolist()
        assert batch["targets"][b, n] == examples.targets[ids[b, n]]


def test_shapes_types_and_absent_examples():
    examples = make_examples([[5, 6], [7], [8, 9, 10]], targets=[1, 0, 1])
    batch = build_batch(examples, StepPlan(((2, 1), (0,), ()), 6, 2))
    assert batch["tokens"].tolist() == [[8, 9, 10, 7, 0, 0], [5, 6, 0, 0, 0, 0], [0] * 6]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 2, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6]
    assert batch["starts"].tolist() == [[0, 3], [0, 0], [0, 0]]
    assert batch["targets"].tolist() == [[1, 0], [1, 0], [0, 0]]
    assert batch["weights"].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert batch["example_ids"].tolist() == [[2, 1], [0, -1], [-1, -1]]
    assert batch["weights"].dtype == np.float32
    assert {batch[k].dtype for k in batch if k != "weights"} == {np.dtype(np.int32)}


def test_numbers_to_predict_stay_floats():
    examples = make_examples([[5], [6]], targets=[1.5, -2.0])
    batch = build_batch(examples, StepPlan(((0,), (1,)), 8, 1))
    assert batch["targets"].dtype == np.float32
    assert batch["targets"].tolist() == [[1.5], [-2.0]]


def test_some_rows_of_a_batch_equal_those_of_the_whole():
    examples = make_examples([[5, 6], [7], [8, 9, 10]])
    step = StepPlan(((2,), (0,), (1,), ()), 8, 1)
    whole, part = build_batch(examples, step), build_batch(examples, step, slice(1, 3))
    for name in whole:
        assert np.array_equal(whole[name][1:3], part[name])


@pytest.mark.parametrize("targets", [[1, 0, 2], [0.5, -1.0, 2.0]])
def test_saved_examples_come_back(tmp_path, targets):
    examples = make_examples([[5, 6], [7], [8, 9, 10]], targets)
    examples.save(tmp_path / "cache" / "abc", {"truncated": 1})
    examples.save(tmp_path / "cache" / "abc", {"truncated": 1})  # a second process is no error
    loaded = Examples.load(tmp_path / "cache" / "abc")
    assert loaded is not None
    again, meta = loaded
    assert meta == {"truncated": 1}
    assert again.targets.dtype == examples.targets.dtype
    assert [again[i]["tokens"].tolist() for i in range(3)] == [[5, 6], [7], [8, 9, 10]]
    assert again.targets.tolist() == targets
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == ["abc"]


def test_damaged_or_absent_examples_are_not_trusted(tmp_path):
    assert Examples.load(tmp_path / "none") is None
    make_examples([[5, 6], [7]]).save(tmp_path / "abc", {})
    tokens = tmp_path / "abc" / "tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-4])
    assert Examples.load(tmp_path / "abc") is None
