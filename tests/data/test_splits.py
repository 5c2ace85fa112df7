"""The same text lies in the same split, always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.data.splits import (
    by_split,
    fold_of,
    hash_text,
    in_fold,
    places,
    places_by_label,
    rehash,
    split_of_name,
    three_way,
)
from jaxtune.errors import ConfigError, DataError


def place(text):
    return places(np.array([hash_text(text)], np.uint64))[0]


@given(st.text())
def test_case_and_white_space_do_not_count(text):
    assert 0 <= place(text) < 1
    assert hash_text(f"  {text}\n") == hash_text(text)
    assert hash_text(" ".join(text.split())) == hash_text(text)


def test_the_hash_never_changes():
    assert hash_text("A good film.") == hash_text("a GOOD  film.\r\n")
    assert place("A good film.") == pytest.approx(0.7035843244104922, abs=1e-12)
    again = places(rehash(np.array([hash_text("A good film.")], np.uint64)))
    assert again[0] == pytest.approx(0.17136459346422817, abs=1e-12)


def test_shares_are_kept_and_follow_the_places():
    texts = [f"text {i}" for i in range(4000)]
    hashes = np.array([hash_text(text) for text in texts], np.uint64)
    splits = three_way(hashes, (0.1, 0.2))
    assert sorted(np.concatenate(list(splits.values()))) == list(range(4000))
    assert abs(len(splits["validation"]) - 400) < 80
    assert abs(len(splits["test"]) - 800) < 110
    assert all(place(texts[i]) < 0.1 for i in splits["validation"])
    assert all(0.1 <= place(texts[i]) < 0.3 for i in splits["test"])
    assert len(three_way(hashes, (0, 0))["train"]) == 4000


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("sst2.dev.tsv", "validation"),
        ("val.jsonl", "validation"),
        ("test_set.csv", "test"),
        ("contest.csv", None),
        ("reviews.csv", None),
        ("retrain.csv", None),
    ],
)
def test_file_names_speak_of_splits(name, split):
    assert split_of_name(name) == split


def test_files_are_sorted_into_splits():
    assert by_split(["b.csv", "a.csv"]) == {"train": ["a.csv", "b.csv"]}
    names = ["data/test-0.parquet", "data/train-1.parquet", "data/train-0.parquet", "extra.parquet"]
    assert by_split(names) == {
        "train": ["data/train-0.parquet", "data/train-1.parquet"],
        "test": ["data/test-0.parquet"],
    }
    assert by_split(["train/a.csv", "dev/a.csv"]) == {"train": ["train/a.csv"], "validation": ["dev/a.csv"]}


def test_a_split_that_was_cut_by_hash_can_be_cut_again():
    hashes = np.array([hash_text(f"text {i}") for i in range(20_000)], np.uint64)
    once = three_way(hashes, (0.1, 0.1))
    for part in once.values():
        again = three_way(rehash(hashes[part]), (0.1, 0.1))
        assert [len(again[name]) / len(part) for name in ("validation", "test")] == pytest.approx(
            [0.1, 0.1], abs=0.03
        )


rows = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["a", "b", 1, None])), min_size=1, max_size=200)


@given(rows, st.sampled_from([(0.1, 0.1), (0.3, 0.2), (0.0, 0.5)]))
def test_each_label_has_its_share_up_to_one_text(drawn, shares):
    # The label follows from the text here; the same text may occur often.
    drawn = [(text, ("a", "b", 1, None)[text % 4]) for text, _ in drawn]
    hashes = np.array([hash_text(str(text)) for text, _ in drawn], np.uint64)
    labels = [label for _, label in drawn]
    splits = three_way(hashes, shares, places_by_label(hashes, labels))
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(drawn)))
    split_of = {}
    for name, indices in splits.items():
        for i in indices:
            assert split_of.setdefault(drawn[i][0], name) == name
    for label in set(labels):
        count = labels.count(label)
        largest = max(sum(1 for other, _ in drawn if other == text) for text, own in drawn if own == label)
        for name, share in (("validation", shares[0]), ("test", shares[1])):
            there = sum(labels[i] == label for i in splits[name])
            assert abs(there - share * count) <= largest


@given(rows, st.integers(2, 6), st.booleans())
def test_folds_partition_the_rows_and_no_text_is_in_two(drawn, count, stratify):
    hashes = np.array([hash_text(str(text)) for text, _ in drawn], np.uint64)
    at = places_by_label(hashes, [label for _, label in drawn]) if stratify else places(hashes)
    folds = np.stack([in_fold(at, (number, count)) for number in range(1, count + 1)])
    assert np.all(folds.sum(axis=0) == 1)
    for text in {text for text, _ in drawn}:
        own = folds[:, [text == other for other, _ in drawn]]
        assert np.all(own == own[:, :1])


def test_stratified_places_do_not_depend_on_the_order_of_the_rows():
    hashes = np.array([hash_text(f"text {i}") for i in range(300)], np.uint64)
    labels = [("x", "y", "z")[i % 7 % 3] for i in range(300)]
    at = places_by_label(hashes, labels)
    assert np.array_equal(places_by_label(hashes[::-1], labels[::-1])[::-1], at)
    for label in "xyz":
        own = np.array([other == label for other in labels])
        assert np.sort(at[own]) == pytest.approx((np.arange(own.sum()) + 0.5) / own.sum())
    with pytest.raises(DataError, match=r"data\.stratify needs one label per row; the column holds lists"):
        places_by_label(hashes[:2], [["B-PER"], ["O"]])


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "2", "2/", "a/b", "-1/5", "1/5/5", ""])
def test_what_is_no_fold_is_named(text):
    with pytest.raises(ConfigError, match=r"data\.fold is .*expected as 2/5"):
        fold_of(text)


def test_folds_are_read():
    assert fold_of("2/5") == (2, 5)
