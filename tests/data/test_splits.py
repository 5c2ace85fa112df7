"""The same text lies in the same split, always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.data.splits import by_split, hash_text, places, rehash, split_of_name, three_way


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
