"""Span corruption: nothing is lost, and as much is cut out as T5's published preprocessing does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.tasks.noise.span_corruption import SpanCorruption, noise_counts, noise_mask

SENTINELS = tuple(range(32099, 31999, -1))
EOS = 1


def told_together(source, target):
    """The text that input and target make: every sentinel replaced by what the target says after it."""
    spans, current = {}, None
    for token in target[:-1]:
        if token in SENTINELS:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    merged = []
    for token in source[:-1]:
        merged += spans[token] if token in SENTINELS else [token]
    return merged


@given(st.integers(2, 600), st.floats(0.05, 0.9), st.floats(1.0, 8.0), st.integers(0, 2**32 - 1))
def test_input_and_target_make_the_text(length, density, mean_length, seed):
    rng = np.random.default_rng(seed)
    text = rng.integers(2, 30000, length)
    corrupt = SpanCorruption(SENTINELS, density, mean_length, EOS)
    source, target = corrupt(text, rng)
    assert source[-1] == target[-1] == EOS
    assert told_together(source, target) == text.tolist()
    sentinels = tuple(t for t in source if t in SENTINELS)
    assert sentinels == tuple(t for t in target if t in SENTINELS) == SENTINELS[: len(sentinels)]
    assert source[0] == text[0], "the first span is a kept one"
    assert target[-2] == text[-1], "the last one is cut out"
    assert corrupt.lengths(length) == (len(source), len(target))


@given(st.integers(2, 500), st.floats(0.05, 0.9), st.floats(1.0, 8.0), st.integers(0, 1000))
def test_the_share_cut_out_is_the_one_asked_for(length, density, mean_length, seed):
    mask = noise_mask(length, density, mean_length, np.random.default_rng(seed))
    assert mask.size == length
    assert mask.sum() == min(max(round(length * density), 1), length - 1)


def test_spans_have_the_mean_length_asked_for():
    mask = noise_mask(2000, 0.15, 3.0, np.random.default_rng(0), most_spans=1000)
    assert np.diff(mask.astype(int)).clip(0).sum() == 100  # 300 tokens in spans of three


def test_the_counts_are_those_of_t5():
    """T5 takes 568 tokens to fill an input of 512, and tells 114; and that is the most that fits."""
    corrupt = SpanCorruption(SENTINELS, 0.15, 3.0, EOS)
    assert corrupt.lengths(568) == (512, 114)
    assert corrupt.lengths(569)[0] > 512
    # round(n · 0.15), at least 1, at most n - 1; and a third of that as spans.
    assert [noise_counts(n, 0.15, 3.0, 100) for n in (2, 5, 20, 100, 568)] == [
        (1, 1), (1, 1), (3, 1), (15, 5), (85, 28),
    ]  # fmt: skip


def test_the_same_seed_cuts_the_same():
    corrupt = SpanCorruption(SENTINELS)
    a, b, c = (corrupt(np.arange(2, 60), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[0], c[0])


def test_there_are_no_more_spans_than_sentinels():
    source, target = SpanCorruption((9, 8, 7), eos_token_id=None)(
        np.arange(100, 300), np.random.default_rng(0)
    )
    assert [t for t in source if t < 10] == [t for t in target if t < 10] == [9, 8, 7]
    assert len(target) == 30 + 3


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="1 tokens is too short"):
        SpanCorruption(SENTINELS)(np.array([5]), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"density=1\.5 must lie between"):
        SpanCorruption(SENTINELS, density=1.5)
    with pytest.raises(ValueError, match="mean_length"):
        SpanCorruption(SENTINELS, mean_length=0.5)
    with pytest.raises(ValueError, match="no sentinels"):
        SpanCorruption(())
