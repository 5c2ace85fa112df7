"""Plans: every example exactly once per epoch, the same for everyone, with little padding."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.data.planning import plan_evaluation, plan_training
from jaxtune.data.planning.layouts import packed_shape
from jaxtune.errors import ConfigError, DataError

BATCHINGS = ("packed", "bucketed", "padded")
lengths_lists = st.lists(st.integers(1, 90), min_size=1, max_size=150)


@settings(max_examples=60, deadline=None)
@given(lengths_lists, st.sampled_from(BATCHINGS), st.integers(1, 40), st.integers(0, 5), st.integers(1, 4))
def test_every_example_is_seen_exactly_once_per_epoch(lengths, batching, batch_size, seed, buckets):
    plan = plan_training(
        np.array(lengths), batching=batching, batch_size=batch_size, seed=seed, epochs=2, buckets=buckets
    )
    assert len(plan.steps_per_epoch) == 2
    assert sum(plan.steps_per_epoch) == plan.num_steps
    start = 0
    for steps in plan.steps_per_epoch:
        ids = [e for step in plan.steps[start : start + steps] for e in step.ids]
        assert sorted(ids) == list(range(len(lengths)))
        start += steps
    check_steps(plan, lengths, batch_size)


@settings(max_examples=60, deadline=None)
@given(lengths_lists, st.sampled_from(BATCHINGS), st.integers(1, 40))
def test_an_evaluation_sees_every_example_exactly_once(lengths, batching, batch_size):
    plan = plan_evaluation(np.array(lengths), batching=batching, batch_size=batch_size, row_length=16, rows=4)
    assert sorted(e for step in plan.steps for e in step.ids) == list(range(len(lengths)))
    check_steps(plan, lengths, batch_size)


def check_steps(plan, lengths, batch_size):
    for step in plan.steps:
        assert 1 <= len(step.ids) <= batch_size
        for row in step.rows:
            assert len(row) <= step.slots == plan.slots
            assert sum(lengths[e] for e in row) <= step.length
    by_length = {}
    for step in plan.steps:
        assert by_length.setdefault(step.length, len(step.rows)) == len(step.rows)
    assert plan.shapes == {step.shape for step in plan.steps}


@pytest.mark.parametrize("seed", range(3))
def test_packing_movie_reviews_wastes_little_and_holds_a_batch_per_step(movie_lengths, seed):
    lengths = movie_lengths()
    plan = plan_training(lengths, batching="packed", batch_size=32, seed=seed, epochs=3)
    assert plan.shapes == {(8, 112)}
    assert plan.padding_share <= 0.05
    assert abs(plan.mean_examples - 32) <= 0.03 * 32
    assert abs(plan.num_steps - 3 * 264) <= 3  # as many steps as one example per row would take
    assert plan.slots <= 8


@pytest.mark.parametrize("batch_size", [8, 16, 64, 256])
def test_packing_holds_other_batch_sizes_too(movie_lengths, batch_size):
    plan = plan_training(movie_lengths(), batching="packed", batch_size=batch_size, seed=0, epochs=1)
    assert plan.padding_share <= 0.08
    assert abs(plan.mean_examples - batch_size) <= 0.03 * batch_size


def test_no_example_waits_long(movie_lengths):
    plan = plan_training(movie_lengths(), batching="packed", batch_size=32, seed=0, epochs=1)
    plain = plan_training(movie_lengths(), batching="padded", batch_size=32, seed=0, epochs=1)
    turn = {e: t for t, step in enumerate(plain.steps) for e in step.ids}
    assert max(t - turn[e] for t, step in enumerate(plan.steps) for e in step.ids) <= 10


def test_two_buckets_halve_the_padding_and_leave_one_ragged_batch(movie_lengths):
    lengths = movie_lengths()
    padded, two, four = (
        plan_training(lengths, batching="bucketed", batch_size=32, seed=0, epochs=1, buckets=k)
        for k in (1, 2, 4)
    )
    assert len(two.shapes) == 2
    assert two.padding_share < 0.7 * padded.padding_share
    assert four.padding_share < two.padding_share
    ragged = [t for t, step in enumerate(two.steps) if len(step.ids) < 32]
    assert ragged == [two.num_steps - 1]
    # Short and long batches alternate; an epoch does not begin with all the short ones.
    first = [step.length for step in two.steps[:40]]
    assert len(set(first)) == 2


def test_buckets_are_the_best_there_are():
    lengths = np.array([3] * 50 + [9] * 5 + [30] * 20 + [64] * 2)
    plan = plan_training(lengths, batching="bucketed", batch_size=1, seed=0, epochs=1, buckets=3)
    best = min(
        sum(min(b for b in (one, two, 64) if b >= n) for n in lengths)
        for one in range(8, 65, 8)
        for two in range(one, 65, 8)
    )
    assert sum(step.length for step in plan.steps) == best


def test_the_plan_depends_on_the_seed_and_the_epoch_but_not_on_their_number(movie_lengths):
    lengths = movie_lengths(500)

    def plan(seed, epochs):
        return plan_training(lengths, batching="packed", batch_size=32, seed=seed, epochs=epochs)

    once, twice = plan(0, 1), plan(0, 2)
    assert twice.steps[: once.num_steps] == once.steps
    assert twice.digest == once.digest
    assert twice.steps[once.num_steps :] != once.steps
    assert plan(1, 1).steps != once.steps
    assert plan(1, 1).digest != once.digest


@pytest.mark.parametrize("batching", BATCHINGS)
def test_steps_and_fractions_of_epochs_cut_the_run_short(movie_lengths, batching):
    lengths = movie_lengths(640)
    whole = plan_training(lengths, batching=batching, batch_size=32, seed=0, epochs=2)
    part = plan_training(lengths, batching=batching, batch_size=32, seed=0, epochs=1.5)
    assert part.steps == whole.steps[: part.num_steps]
    assert part.epoch_of(part.num_steps) == pytest.approx(1.5, abs=0.05)
    assert part.epoch_of(part.steps_per_epoch[0]) == 1.0
    by_steps = plan_training(lengths, batching=batching, batch_size=32, seed=0, epochs=9, steps=50)
    assert by_steps.num_steps == 50
    assert by_steps.steps[: whole.num_steps] == whole.steps


def test_a_plan_does_not_change_between_versions(movie_lengths):
    """A run resumes with the batches it began with: when this fails, raise PLAN_VERSION."""
    lengths = movie_lengths(100)
    plan = plan_training(lengths, batching="packed", batch_size=16, seed=7, epochs=1)
    assert plan.steps[0].rows == FIRST_STEP


@pytest.mark.parametrize(
    ("batching", "one_text", "two_texts"),
    [
        ("packed", "f65e69400328d583a86c132c35ac2187", "b4bf72c25c8c89c939598433d7d0e07d"),
        ("bucketed", "5c06e49c92cb89b9548fbf594f2e28e9", "bd21b4786cf0fc12e2cf3ecd59913aa0"),
        ("padded", "b0155f1c57cc77d450f4101ca424110e", "676e7d40e279009c948fc27ed2174a8f"),
    ],
)
def test_digests_of_saved_positions_stay(batching, one_text, two_texts):
    """Those of plans that were made before there were budgets and repeats: runs of then go on."""
    lengths, decoder = np.arange(100) * 37 % 83 + 3, np.arange(100) * 17 % 41 + 2
    for digest, second in ((one_text, None), (two_texts, decoder)):
        plan = plan_training(
            lengths, batching=batching, batch_size=16, seed=7, epochs=1, decoder_lengths=second
        )
        assert plan.digest == digest


FIRST_STEP = ((55, 14, 41), (15, 74, 61, 97), (80, 13, 49, 90), (78, 12, 52, 4, 43))


def test_fewer_rows_than_one_batch_make_one_ragged_batch():
    for batching in BATCHINGS:
        plan = plan_training(np.array([5, 9, 4]), batching=batching, batch_size=32, seed=0, epochs=1)
        assert plan.num_steps == 1
        assert sorted(plan.steps[0].ids) == [0, 1, 2]


def test_long_texts_get_rows_that_hold_them():
    lengths = np.where(np.arange(1000) % 50 == 0, 128, 20)
    rows, length = packed_shape(lengths, 32)
    assert length >= 128
    assert rows * length <= 1.08 * 32 * lengths.mean() / 0.975


def test_given_rows_or_row_length_are_kept(movie_lengths):
    lengths = movie_lengths()
    given_length = plan_training(lengths, batching="packed", batch_size=32, seed=0, epochs=1, row_length=256)
    assert given_length.shapes == {(4, 256)}
    given_rows = plan_training(lengths, batching="packed", batch_size=32, seed=0, epochs=1, rows=16)
    assert given_rows.shapes == {(16, 80)}


def test_bad_sizes_are_named():
    lengths = np.array([5, 90])
    with pytest.raises(ConfigError, match=r"data\.row_length: 64 tokens are fewer than .* \(90\)"):
        plan_training(lengths, batching="packed", batch_size=2, seed=0, epochs=1, row_length=64)
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        plan_training(lengths, batching="packed", batch_size=0, seed=0, epochs=1)
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        plan_training(lengths, batching="packed", batch_size=2, seed=0, epochs=0)
    with pytest.raises(DataError, match="no examples"):
        plan_training(np.zeros(0, int), batching="packed", batch_size=2, seed=0, epochs=1)


@pytest.mark.slow
def test_large_data_is_planned_in_seconds(movie_lengths):
    start = time.process_time()
    plan_training(movie_lengths(100_000), batching="packed", batch_size=32, seed=0, epochs=3)
    assert time.process_time() - start < 20


@settings(max_examples=80, deadline=None)
@given(
    lengths_lists,
    st.sampled_from(BATCHINGS),
    st.integers(96, 2000),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([None, 96, 200]),
    st.integers(0, 3),
)
def test_a_budget_of_tokens_is_kept_and_every_example_seen_once(
    lengths, batching, max_tokens, buckets, two_texts, row_length, seed
):
    lengths = np.array(lengths)
    decoder = lengths[::-1].copy() if two_texts else None
    arguments = {
        "batching": batching,
        "batch_size": 7,
        "buckets": buckets,
        "row_length": row_length if batching == "packed" and not two_texts else None,
        "decoder_lengths": decoder,
        "max_tokens": max(max_tokens, row_length or 0),
    }
    plan = plan_training(lengths, seed=seed, epochs=1, **arguments)
    assert sorted(e for step in plan.steps for e in step.ids) == list(range(len(lengths)))
    check_steps(plan, lengths, len(lengths))
    for step in plan.steps:
        assert len(step.rows) * max(step.length, step.decoder_length) <= arguments["max_tokens"]
        if two_texts:
            assert all(sum(decoder[e] for e in row) <= step.decoder_length for row in step.rows)
    # The same for an evaluation, which raises a budget that its longest example does not fit into.
    longest = 8 * -(-max(lengths) // 8)
    for budget in (arguments["max_tokens"], 1):
        once = plan_evaluation(lengths, **{**arguments, "max_tokens": budget})
        assert sorted(e for step in once.steps for e in step.ids) == list(range(len(lengths)))
        if row_length is None:
            most = max(budget, longest)
            assert all(len(s.rows) * max(s.length, s.decoder_length) <= most for s in once.steps)


def test_a_budget_fills_its_batches(movie_lengths):
    lengths = movie_lengths()
    packed = plan_training(lengths, batching="packed", batch_size=1, seed=0, epochs=1, max_tokens=1024)
    assert packed.shapes == {(16, 64)} or packed.shapes == {(8, 128)}
    assert packed.padding_share <= 0.08
    bucketed = plan_training(
        lengths, batching="bucketed", batch_size=1, seed=0, epochs=1, max_tokens=1024, buckets=3
    )
    # From eight rows on multiples of eight, which devices divide; of short texts there are more.
    assert all(rows % 8 == 0 and 0.5 < rows * length / 1024 <= 1 for rows, length in bucketed.shapes)
    assert len({rows for rows, _ in bucketed.shapes}) == 3
    ragged = [t for t, step in enumerate(bucketed.steps) if len(step.ids) < len(step.rows)]
    assert len(ragged) <= 1
    padded = plan_training(lengths, batching="padded", batch_size=1, seed=0, epochs=1, max_tokens=600)
    assert padded.shapes == {(600 // 80, 80)}


def test_a_budget_is_part_of_the_digest_and_names_what_does_not_fit(movie_lengths):
    lengths = np.append(movie_lengths(299), 77)

    def plan(**more):
        return plan_training(lengths, batching="padded", batch_size=8, seed=0, epochs=1, **more)

    assert len({plan().digest, plan(max_tokens=640).digest, plan(max_tokens=648).digest}) == 3
    with pytest.raises(ConfigError, match=r"data\.max_tokens: 79 tokens .* takes 80 .*data\.max_length"):
        plan(max_tokens=79)
    with pytest.raises(ConfigError, match=r"takes 640 \(rows of 80 tokens, 8 of them\)"):
        plan_training(lengths, batching="packed", batch_size=8, seed=0, epochs=1, max_tokens=639, rows=8)
    two = {"decoder_lengths": np.full(300, 90)}
    with pytest.raises(ConfigError, match=r"takes 96"):
        plan(max_tokens=95, **two)
    assert plan(max_tokens=96, **two).shapes == {(1, 80)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.sampled_from([0.0, 0.3, 1.0, 2.5])), min_size=1, max_size=80),
    st.sampled_from(BATCHINGS),
    st.booleans(),
)
def test_repeats_say_how_often_an_example_occurs(drawn, batching, budget):
    lengths, repeats = (np.array(column) for column in zip((20, 1.0), *drawn))
    plan = plan_training(
        lengths,
        batching=batching,
        batch_size=8,
        seed=1,
        epochs=3,
        repeats=repeats,
        max_tokens=200 if budget else None,
    )
    start = 0
    for steps in plan.steps_per_epoch:
        ids = [e for step in plan.steps[start : start + steps] for e in step.ids]
        count = np.bincount(ids, minlength=len(lengths))
        assert np.all((count == np.floor(repeats)) | (count == np.ceil(repeats)))
        start += steps
    check_steps(plan, lengths, 8 if not budget else 10**6)


def test_repeats_of_one_are_the_plain_plan_and_others_its_average(movie_lengths):
    lengths = movie_lengths(400)

    def plan(repeats, epochs=1):
        return plan_training(
            lengths, batching="packed", batch_size=16, seed=0, epochs=epochs, repeats=repeats
        )

    assert plan(np.ones(400)).steps == plan(None).steps
    assert plan(np.ones(400)).digest != plan(None).digest
    often = np.where(np.arange(400) < 200, 1.0, 0.25)
    seen = np.bincount([e for s in plan(often, 40).steps for e in s.ids], minlength=400)
    assert np.all(seen[:200] == 40)
    assert abs(seen[200:].mean() - 10) < 0.5
    for wrong in (np.zeros(400), np.full(400, np.nan), np.ones(3), np.full(400, 0.5)):
        with pytest.raises(ConfigError, match="repeats"):
            plan(wrong)
