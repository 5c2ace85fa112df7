"""Text infilling: a share of the words goes, spans become one mask each, and no text grows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.tasks.noise.infilling import Infilling, _poisson

MASK, START = 7, 2
AROUND = (1, 1)


def example(lengths, sentences=1):
    """<s> words of so many tokens, each token another number </s>."""
    words = np.repeat(np.arange(len(lengths)), lengths)
    return {
        "tokens": np.concatenate([[0], 100 + np.arange(len(words)), [2]]).astype(np.int32),
        "words": np.concatenate([[-1], words, [-1]]).astype(np.int32),
        "sentences": np.concatenate([[-1], words * sentences // len(lengths), [-1]]).astype(np.int32),
    }


word_lengths = st.lists(st.integers(1, 5), min_size=1, max_size=80)


@given(word_lengths, st.floats(0.05, 0.5), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_words_asked_for_are_gone_and_the_text_is_told(lengths, share, permute, seed):
    noise = Infilling(MASK, START, AROUND, permute, share)
    given_ = example(lengths, sentences=4)
    made = noise(given_, np.random.default_rng(seed))
    source, tokens = made["tokens"], given_["tokens"]
    assert len(source) == len(made["token_types"]) <= len(tokens), "a text never grows"
    np.testing.assert_array_equal(made["labels"], tokens)
    np.testing.assert_array_equal(made["decoder_tokens"], [START, *tokens[:-1]])
    assert (source[0], source[-1]) == (0, 2)
    kept = source[source != MASK][1:-1] - 100
    assert len(set(kept)) == len(kept)
    assert permute or (np.diff(kept) > 0).all(), "what is kept stays in order"
    words = given_["words"][1:-1]
    of_words = [np.isin(np.flatnonzero(words == w), kept) for w in range(len(lengths))]
    assert all(of.all() or not of.any() for of in of_words), "whole words go"
    assert sum(not of.any() for of in of_words) == max(1, round(share * len(lengths)))
    masks = np.flatnonzero(source == MASK)
    assert len(masks) >= 1
    assert (np.diff(masks) > 1).all(), "a kept word stands between two masks"


def test_spans_have_three_words_and_some_have_none():
    made = Infilling(MASK, START, AROUND)(example([1] * 20_000), np.random.default_rng(0))
    source = made["tokens"]
    positions = np.flatnonzero(source == MASK)
    gone = source[positions + 1] - source[positions - 1] - 1
    inside = (positions > 1) & (positions < len(source) - 2)
    gone = gone[inside]
    assert gone.mean() == pytest.approx(3.0, abs=0.12)
    assert (gone == 0).mean() == pytest.approx(np.exp(-3), abs=0.015)
    assert gone.var() == pytest.approx(3.0, abs=0.35)


def test_the_numbers_are_those_of_a_poisson_distribution():
    drawn = [_poisson(3.0, u) for u in (np.arange(10_000) + 0.5) / 10_000]
    shares = np.bincount(drawn)[:6] / 10_000
    np.testing.assert_allclose(shares, [0.0498, 0.1494, 0.2240, 0.2240, 0.1680, 0.1008], atol=2e-4)
    assert _poisson(3.0, 1.0 - 2**-53) < 40


def test_sentences_are_shuffled_whole():
    noise = Infilling(MASK, START, AROUND, permute=True, share=0.01)
    orders = set()
    for seed in range(40):
        source = noise(example([1] * 60, sentences=3), np.random.default_rng(seed))["tokens"]
        kept = source[(source >= 100)] - 100
        firsts = [int(k) // 20 for k in kept]
        order = [s for i, s in enumerate(firsts) if i == 0 or s != firsts[i - 1]]
        assert len(order) == 3, "no sentence is torn"
        orders.add(tuple(order))
    assert len(orders) == 6


def test_more_masks_than_words_are_refused():
    with pytest.raises(ValueError, match=r"share=0\.6"):
        Infilling(MASK, START, AROUND, share=0.6)
