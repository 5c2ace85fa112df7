"""Which training rows are seen how often."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.data.sampling import few_shot, mixed_sources, occurrences, oversampled
from jaxtune.data.splits import hash_text
from jaxtune.errors import ConfigError, DataError

HASHES = np.array([hash_text(f"text {i}") for i in range(400)], np.uint64)


def test_sources_and_weights_are_read_from_the_right():
    assert mixed_sources(
        ["csv:b.csv=0.5", "csv:pypi:NAME==1.0::a=b/x.csv=2", "tfds:x/y[train]=1e-1", "s3://b/a.csv?v=3=4"]
    ) == [
        ("csv:b.csv", 0.5),
        ("csv:pypi:NAME==1.0::a=b/x.csv", 2.0),
        ("tfds:x/y[train]", 0.1),
        ("s3://b/a.csv?v=3", 4.0),
    ]


@pytest.mark.parametrize(
    "entry",
    [
        "csv:b.csv",
        "=2",
        "",
        "csv:b.csv=",
        "csv:b.csv=0",
        "csv:b.csv=-1",
        "csv:b.csv=nan",
        "csv:b.csv=inf",
        "csv:b.csv=half",
        "pypi:NAME==1.0",
        "csv:pypi:NAME==1.0::x.csv",
        "pypi:NAME==1.0#sha256=" + 64 * "1",
    ],
)
def test_an_entry_without_a_weight_is_named_with_the_form(entry):
    with pytest.raises(ConfigError, match=r"data\.mix.*SOURCE=WEIGHT"):
        mixed_sources([entry])


@given(st.lists(st.floats(0, 5), min_size=1, max_size=50), st.integers(0, 2**32))
def test_an_example_occurs_its_whole_times_and_perhaps_once_more(repeats, seed):
    repeats = np.array(repeats)
    raw = np.random.Philox(seed).random_raw(len(repeats))
    ids = occurrences(repeats, raw)
    assert np.all(np.diff(ids) >= 0)
    count = np.bincount(ids, minlength=len(repeats))
    assert np.all((count == np.floor(repeats)) | (count == np.ceil(repeats)))


def test_the_rest_is_a_probability():
    raw = np.random.Philox(0).random_raw(20_000)
    assert abs(len(occurrences(np.full(20_000, 2.3), raw)) / 20_000 - 2.3) < 0.02


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_oversampling_shows_every_class_equally_often(targets, data):
    targets = np.array(targets)
    before = np.array(
        data.draw(st.lists(st.sampled_from([0.5, 1, 2]), min_size=len(targets), max_size=len(targets)))
    )
    after = oversampled(targets, before)
    seen = np.bincount(targets, weights=after)
    assert seen[seen > 0] == pytest.approx(np.bincount(targets, weights=before).max())
    assert np.all(after >= before - 1e-12)


def test_few_rows_of_each_label_whatever_the_order():
    targets = np.arange(400) % 3
    chosen = few_shot(HASHES, targets, 16, 0)
    assert np.bincount(targets[chosen]).tolist() == [16, 16, 16]
    assert np.all(np.diff(chosen) > 0)
    turned = few_shot(HASHES[::-1], targets[::-1], 16, 0)
    assert sorted(399 - turned) == chosen.tolist()
    assert set(few_shot(HASHES, targets, 8, 0)) < set(chosen)
    assert set(few_shot(HASHES, targets, 16, 1)) != set(chosen)
    assert len(few_shot(HASHES, None, 16, 0)) == 16


def test_a_text_counts_once_among_the_few():
    doubled = np.concatenate([HASHES[:10], HASHES[:10]])
    assert few_shot(doubled, None, 10, 0).tolist() == list(range(10))
    with pytest.raises(DataError, match=r"data\.shots is 11, but the training data has 10 different texts"):
        few_shot(doubled, None, 11, 0)


def test_a_label_with_too_few_rows_is_named_with_their_number():
    targets = np.r_[np.zeros(395, int), np.ones(5, int)]
    with pytest.raises(DataError, match=r"data\.shots is 6, but label 'rare' has 5 .*lower data\.shots to 5"):
        few_shot(HASHES, targets, 6, 0, ("often", "rare"))
    with pytest.raises(DataError, match=r"label 'never' has 0"):
        few_shot(HASHES, targets, 5, 0, ("often", "rare", "never"))
