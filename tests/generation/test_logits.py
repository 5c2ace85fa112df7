"""Logit processors: small cases by hand, properties, and transformers' own classes beside them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.generation import logits as ours
from jaxtune.generation.logits import Rules, constrain, numbers_of, rules_of, warp
from jaxtune.generation.settings import GenerationSettings

GONE = -np.inf


def scores(*rows):
    return np.array(rows, np.float32)


def whole(history):
    return np.ones(np.shape(history), bool)


# By hand


def test_repetition_counts_real_tokens_only():
    history = np.array([[0, 1, 2, 3]])
    real = np.array([[False, True, True, False]])  # left padding, and a slot not yet written
    out = ours.penalise_repetition(scores([1.0, 2.0, -2.0, 4.0]), history, real, 2.0)
    np.testing.assert_array_equal(out, scores([1.0, 1.0, -4.0, 4.0]))


@pytest.mark.parametrize(
    ("history", "size", "banned"),
    [
        ([5, 6, 5], 2, [6]),
        ([5, 6, 5, 7, 5], 2, [6, 7]),
        ([5, 5, 5], 2, [5]),
        ([5, 6, 7, 5, 6], 3, [7]),
        ([5, 6, 7, 6, 5], 3, []),
        ([5], 2, []),
        ([5, 6], 3, []),
        ([5, 6, 5], 1, [5, 6]),
    ],
)
def test_ngrams(history, size, banned):
    # The tail of the buffer holds what was there before; it must not count.
    buffer = np.array([[*history, 5, 6, 5]])
    real = np.arange(buffer.shape[1])[None] < len(history)
    out = np.asarray(ours.ban_repeated_ngrams(np.zeros((1, 9), np.float32), buffer, real, len(history), size))
    assert np.flatnonzero(out[0] == GONE).tolist() == banned


def test_ngrams_do_not_see_padding():
    history = np.array([[0, 0, 0, 4, 0]])
    real = np.array([[False, False, False, True, True]])
    out = ours.ban_repeated_ngrams(np.zeros((1, 5), np.float32), history, real, 5, 2)
    # With the padding, (0, 0) and (0, 4) would have been seen before.
    np.testing.assert_array_equal(out, np.zeros((1, 5)))


def test_forced_tokens_and_the_minimum_length():
    settings = GenerationSettings(
        max_new_tokens=3, min_new_tokens=2, eos_token_ids=(1,), forced_bos_token_id=2, forced_eos_token_id=1,
        suppress_token_ids=(3,),
    )  # fmt: skip
    rules, numbers = rules_of(settings), numbers_of(settings)
    given_scores, history = scores([1.0, 1.0, 1.0, 9.0]), np.zeros((1, 4), int)

    def at(step):
        return np.asarray(constrain(given_scores, history, whole(history), 1 + step, step, rules, numbers))[0]

    np.testing.assert_array_equal(at(0), [GONE, GONE, 0.0, GONE])
    np.testing.assert_array_equal(at(1), [1.0, GONE, 1.0, GONE])
    np.testing.assert_array_equal(at(2), [GONE, 0.0, GONE, GONE])


def test_rules_without_effect_change_nothing():
    rules = rules_of(GenerationSettings(eos_token_ids=(1,)))
    assert rules == Rules(eos=(1,))
    given_scores, history = scores([3.0, -1.0]), np.zeros((1, 2), int)
    numbers = numbers_of(GenerationSettings())
    assert constrain(given_scores, history, whole(history), 2, 0, rules, numbers) is given_scores
    assert warp(given_scores, rules, numbers) is given_scores


def test_top_k_keeps_ties():
    out = ours.keep_top_k(scores([1.0, 3.0, 2.0, 2.0], [4.0, 3.0, 2.0, 1.0]), 2)
    np.testing.assert_array_equal(out, scores([GONE, 3.0, 2.0, 2.0], [4.0, 3.0, GONE, GONE]))
    np.testing.assert_array_equal(ours.keep_top_k(scores([1.0, 2.0]), 50), scores([1.0, 2.0]))


def test_min_p():
    p = np.log(np.array([[0.5, 0.26, 0.24]], np.float32))
    np.testing.assert_array_equal(np.isfinite(ours.keep_min_p(p, 0.5)), [[True, True, False]])


# Properties

# XLA on a CPU takes a subnormal number for zero.
logit_rows = st.lists(st.floats(-20, 20, width=32, allow_subnormal=False), min_size=2, max_size=12)


@given(logit_rows, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_of_that_mass(row, p):
    kept = np.isfinite(np.asarray(ours.keep_top_p(scores(row), p))[0])
    exact = np.exp(np.array(row, np.float64))
    exact /= exact.sum()
    assert kept.any()
    assert exact[kept].sum() >= p - 1e-6
    assert exact[kept].sum() - exact[kept].min() < p + 1e-6  # without its least it would be too small
    assert exact[kept].min() >= exact[~kept].max(initial=0) - 1e-6


@given(logit_rows, st.integers(1, 12))
def test_top_k_keeps_the_largest(row, k):
    out = np.asarray(ours.keep_top_k(scores(row), k))[0]
    least = sorted(np.float32(row))[::-1][: min(k, len(row))][-1]
    np.testing.assert_array_equal(np.isfinite(out), np.float32(row) >= least)


@given(logit_rows, st.floats(0.01, 1.0))
def test_min_p_keeps_the_likeliest(row, p):
    kept = np.isfinite(np.asarray(ours.keep_min_p(scores(row), p))[0])
    assert kept[np.float32(row) == np.float32(row).max()].all()
    exact = np.exp(np.array(row, np.float64) - max(row))
    clear = np.abs(exact - p) > 1e-5
    np.testing.assert_array_equal(kept[clear], exact[clear] > p)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=10), st.integers(1, 4), st.integers(0, 3), st.data())
def test_no_ngram_comes_twice(history, size, padding, data):
    buffer = np.array([[*[0] * padding, *history, 1, 2]])
    cursor = padding + len(history)
    real = (np.arange(buffer.shape[1]) >= padding) & (np.arange(buffer.shape[1]) < cursor)
    out = np.asarray(
        ours.ban_repeated_ngrams(np.zeros((1, 4), np.float32), buffer, real[None], cursor, size)
    )[0]
    seen = {tuple(history[i : i + size]) for i in range(len(history) - size + 1)}
    tail = tuple(history[len(history) - size + 1 :]) if size > 1 else ()
    for token in range(4):
        comes_twice = len(tail) == size - 1 and (*tail, token) in seen
        assert (out[token] == GONE) == comes_twice


# Beside transformers


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("torch")
    from transformers.generation import logits_process

    return logits_process


def both(theirs_class, arguments, our_result, history, given_scores):
    import torch

    expected = theirs_class(*arguments)(torch.tensor(history), torch.tensor(given_scores)).numpy()
    np.testing.assert_array_equal(np.isfinite(our_result), np.isfinite(expected))
    kept = np.isfinite(expected)
    np.testing.assert_allclose(np.asarray(our_result)[kept], expected[kept], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_transformers(theirs, seed):
    import torch

    rng = np.random.default_rng(seed)
    history = rng.integers(0, 6, (4, 12))
    given_scores = rng.normal(0, 3, (4, 40)).astype(np.float32)
    real = whole(history)

    def check(theirs_class, arguments, our_result):
        both(theirs_class, arguments, our_result, history, given_scores)

    left = np.array([0, 3, 5, 1])
    unpadded = np.arange(12) >= left[:, None]
    check(
        theirs.RepetitionPenaltyLogitsProcessor,
        (1.3, torch.tensor(left)),
        ours.penalise_repetition(given_scores, history, unpadded, 1.3),
    )
    for size in (1, 2, 3):
        check(
            theirs.NoRepeatNGramLogitsProcessor,
            (size,),
            ours.ban_repeated_ngrams(given_scores, history, real, 12, size),
        )
    check(theirs.TopKLogitsWarper, (7,), ours.keep_top_k(given_scores, 7))
    for p in (0.1, 0.5, 0.9):
        check(theirs.TopPLogitsWarper, (p,), ours.keep_top_p(given_scores, p))
        check(theirs.MinPLogitsWarper, (p,), ours.keep_min_p(given_scores, p))


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_chain_is_equal_to_transformers(theirs, seed):
    import torch
    from transformers.generation import LogitsProcessorList

    rng = np.random.default_rng(seed)
    history = rng.integers(0, 9, (4, 12))
    given_scores = rng.normal(0, 3, (4, 40)).astype(np.float32)
    s = GenerationSettings(
        max_new_tokens=9, min_new_tokens=6, eos_token_ids=(2, 3), suppress_token_ids=(11,), temperature=0.7,
        top_k=20, top_p=0.8, min_p=0.02, repetition_penalty=1.2, no_repeat_ngram_size=2,
    )  # fmt: skip
    rules, numbers = rules_of(s), numbers_of(s)
    out = warp(constrain(given_scores, history, whole(history), 12, 5, rules, numbers), rules, numbers)
    chain = LogitsProcessorList(
        [
            theirs.RepetitionPenaltyLogitsProcessor(1.2),
            theirs.NoRepeatNGramLogitsProcessor(2),
            theirs.SuppressTokensLogitsProcessor([11]),
            theirs.MinNewTokensLengthLogitsProcessor(7, 6, [2, 3]),
            theirs.TemperatureLogitsWarper(0.7),
            theirs.TopKLogitsWarper(20),
            theirs.TopPLogitsWarper(0.8),
            theirs.MinPLogitsWarper(0.02),
        ]
    )
    expected = chain(torch.tensor(history), torch.tensor(given_scores)).numpy()
    np.testing.assert_array_equal(np.isfinite(out), np.isfinite(expected))
    np.testing.assert_allclose(
        np.where(np.isfinite(out), out, 0), np.where(np.isfinite(out), expected, 0), rtol=1e-5
    )
