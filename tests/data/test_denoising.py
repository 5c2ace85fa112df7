"""Span corruption: nothing is lost, and as much is cut out as was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.data.denoising import SpanCorruption, noise_mask

FIRST = 32099
EOS = 1


def told_together(source, target):
    """The text that input and target make: every sentinel replaced by what the target says after it."""
    spans, current = {}, None
    for token in target[:-1]:
        if token > FIRST - 100:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    merged = []
    for token in source[:-1]:
        merged += spans[token] if token > FIRST - 100 else [token]
    return merged


@given(st.integers(2, 600), st.floats(0.05, 0.9), st.floats(1.0, 8.0), st.integers(0, 2**32 - 1))
def test_input_and_target_make_the_text(length, density, mean_length, seed):
    rng = np.random.default_rng(seed)
    text = rng.integers(2, 30000, length)
    source, target = SpanCorruption(FIRST, density, mean_length, EOS)(text, rng)
    assert source[-1] == target[-1] == EOS
    assert told_together(source, target) == text.tolist()
    sentinels = [t for t in source if t > FIRST - 100]
    assert sentinels == [FIRST - i for i in range(len(sentinels))]
    assert [t for t in target if t > FIRST - 100] == [*sentinels, FIRST - len(sentinels)]
    assert source[0] == text[0], "the first span is a kept one"


@given(st.integers(2, 500), st.floats(0.05, 0.9), st.floats(1.0, 8.0), st.integers(0, 1000))
def test_the_share_cut_out_is_the_one_asked_for(length, density, mean_length, seed):
    mask = noise_mask(length, density, mean_length, np.random.default_rng(seed))
    assert mask.size == length
    assert mask.sum() == min(max(round(length * density), 1), length - 1)


def test_spans_have_the_mean_length_asked_for():
    mask = noise_mask(2000, 0.15, 3.0, np.random.default_rng(0), most_spans=1000)
    assert np.diff(mask.astype(int)).clip(0).sum() == 100  # 300 tokens in spans of three


def test_the_same_seed_cuts_the_same():
    corrupt = SpanCorruption(FIRST)
    a, b, c = (corrupt(np.arange(2, 60), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[0], c[0])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="1 tokens is too short"):
        SpanCorruption(FIRST)(np.array([5]), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"density=1\.5 must lie between"):
        SpanCorruption(FIRST, density=1.5)
    with pytest.raises(ValueError, match="mean_length"):
        SpanCorruption(FIRST, mean_length=0.5)
