"""Dynamic masking: as many tokens as asked for, never more than a batch has room for, 80/10/10."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.data.batches import build_batch
from jaxtune.data.examples import Examples
from jaxtune.data.loader import Batches
from jaxtune.data.planning import StepPlan, plan_evaluation, plan_training
from jaxtune.labels import IGNORED
from jaxtune.tasks.noise.masking import Masking

MASK, SPECIAL, VOCABULARY = 3, (0, 1, 2, 3, 50), 200


def example(rng, lengths):
    """[special] words of so many tokens each [special]."""
    words = np.repeat(np.arange(len(lengths)), lengths)
    tokens = rng.integers(4, 50, len(words))
    return {
        "tokens": np.concatenate([[1], tokens, [2]]).astype(np.int32),
        "token_types": np.zeros(len(words) + 2, np.int32),
        "words": np.concatenate([[-1], words, [-1]]).astype(np.int32),
    }


def masking(share=0.15, whole_word=False):
    return Masking(share, MASK, VOCABULARY, SPECIAL, whole_word, around=2)


word_lengths = st.lists(st.integers(1, 6), min_size=1, max_size=60)
shares = st.one_of(st.just(0.15), st.floats(0.01, 0.99))


@given(word_lengths, shares, st.booleans(), st.integers(0, 2**32 - 1))
def test_a_share_of_the_words_is_to_be_told_and_nothing_else_changes(lengths, share, whole_word, seed):
    rng = np.random.default_rng(seed)
    given_, mask = example(rng, lengths), masking(share, whole_word)
    made = mask(given_, np.random.default_rng(seed))
    chosen = made["labels"] != IGNORED
    count, quota = sum(lengths), max(1, round(share * sum(lengths)))
    assert 1 <= chosen.sum() <= quota
    assert whole_word or chosen.sum() == min(quota, count)
    assert not chosen[[0, -1]].any(), "special tokens are never masked"
    np.testing.assert_array_equal(made["labels"][chosen], given_["tokens"][chosen])
    np.testing.assert_array_equal(made["tokens"][~chosen], given_["tokens"][~chosen])
    put = made["tokens"][chosen]
    assert not np.isin(put[put != MASK], SPECIAL).any(), "no special token but the mask is put in"
    assert put.max() < VOCABULARY


@given(word_lengths, shares, st.integers(0, 2**32 - 1))
def test_whole_words_are_chosen_whole_where_one_fits(lengths, share, seed):
    rng = np.random.default_rng(seed)
    given_, mask = example(rng, lengths), masking(share, whole_word=True)
    chosen = mask(given_, rng)["labels"] != IGNORED
    of_words = [chosen[given_["words"] == word] for word in range(len(lengths))]
    if min(lengths) <= mask.quota(sum(lengths)):
        assert all(of.all() or not of.any() for of in of_words)
    else:
        assert sum(of.any() for of in of_words) == 1


@settings(max_examples=300)
@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=12), min_size=1, max_size=12),
    shares,
    st.booleans(),
    st.integers(0, 10),
    st.integers(0, 2**32 - 1),
)
def test_no_row_has_more_labels_than_there_is_room_for(texts, share, whole_word, spare, seed):
    """However full the row: build_batch would fail on one label too many."""
    rng, mask = np.random.default_rng(seed), masking(share, whole_word)
    examples = Examples.from_list(example(rng, lengths) for lengths in texts)
    length, slots = int(examples.lengths.sum()) + spare, len(texts)
    most = mask.most_labels(length, slots)
    made = {i: mask(examples.arrays_of(i), rng) for i in range(slots)}
    step = StepPlan((tuple(range(slots)),), length, slots)
    batch = build_batch(examples, step, arrays_of=made.__getitem__, most_labels=most)
    assert batch["at"].shape == batch["labels"].shape == (1, most)
    told = batch["labels"][0] != IGNORED
    assert told.sum() == sum((m["labels"] != IGNORED).sum() for m in made.values())
    whole = np.concatenate([examples.tokens_of(i) for i in range(slots)])
    np.testing.assert_array_equal(whole[batch["at"][0][told]], batch["labels"][0][told])


@given(st.integers(1, 2000), shares)
def test_the_room_is_no_larger_than_one_more_a_text(length, share):
    """And exact for one text alone that fills its row."""
    mask = masking(share)
    assert mask.most_labels(length, 1) <= share * length + 1
    assert mask.most_labels(length, 10) <= share * length + 10
    if length > 2:
        assert mask.most_labels(length, 1) >= mask.quota(length - 2)


def test_eighty_ten_ten():
    rng = np.random.default_rng(0)
    given_ = example(rng, [1] * 40_000)
    made = masking(0.5)(given_, rng)
    chosen = made["labels"] != IGNORED
    put, was = made["tokens"][chosen], made["labels"][chosen]
    # A random word is the one that was there once in 195 times.
    shares_found = [(put == MASK).mean(), ((put != MASK) & (put != was)).mean(), (put == was).mean()]
    np.testing.assert_allclose(shares_found, [0.8, 0.1 * 194 / 195, 0.1 + 0.1 / 195], atol=0.006)
    drawn = put[(put != MASK) & (put != was)]
    assert set(np.unique(drawn)) == set(range(VOCABULARY)) - set(SPECIAL), (
        "every word is drawn, no special token"
    )


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return Examples.from_list(example(rng, rng.integers(1, 4, n)) for n in rng.integers(3, 20, 40))


def batches(examples, plan, **options):
    return list(Batches(examples, plan, dynamic=masking(), prefetch=0, **options))


def test_masks_are_new_in_every_epoch_and_a_function_of_the_seed(examples):
    plan = plan_training(examples.lengths, batching="padded", batch_size=40, seed=0, epochs=2)
    again = batches(examples, plan)
    by_example = [b["labels"][np.argsort(b["example_ids"][:, 0])] for b in again]
    assert not np.array_equal(*by_example), "another epoch, other masks"
    for one, other in zip(again, batches(examples, plan)):
        np.testing.assert_array_equal(one["tokens"], other["tokens"])
    other_seed = batches(examples, plan, seed=1)
    assert not np.array_equal(again[0]["tokens"], other_seed[0]["tokens"])


def test_an_evaluation_masks_alike_however_its_rows_are_laid_out(examples):
    found = []
    for batching in ("packed", "padded"):
        plan = plan_evaluation(examples.lengths, batching=batching, batch_size=8)
        labels = {}
        for batch in batches(examples, plan):
            for row in range(len(batch["tokens"])):
                for n, i in enumerate(batch["example_ids"][row]):
                    own = batch["segment_ids"][row][batch["at"][row]] == n + 1
                    told = own & (batch["labels"][row] != IGNORED)
                    if i >= 0:
                        labels[int(i)] = (
                            batch["at"][row][told] - batch["starts"][row, n],
                            batch["labels"][row][told],
                        )
        found.append(labels)
    assert found[0].keys() == found[1].keys() == set(range(40))
    for i in range(40):
        np.testing.assert_array_equal(found[0][i], found[1][i])
