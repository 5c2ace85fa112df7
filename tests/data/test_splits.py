"""The same text lies in the same split, always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.data.splits import by_split, hash_split, hash_text, split_of_name, three_way


@given(st.text())
def test_case_and_white_space_do_not_count(text):
    assert 0 <= hash_split(text) < 1
    assert hash_split(f"  {text}\n") == hash_split(text)
    assert hash_split(" ".join(text.split())) == hash_split(text)


def test_the_hash_never_changes():
    assert hash_text("A good film.") == hash_text("a GOOD  film.\r\n")
    assert hash_split("A good film.") == pytest.approx(GOOD_FILM, abs=1e-12)


GOOD_FILM = 0.7035843244104922


def test_shares_are_kept_and_agree_with_hash_split():
    texts = [f"text {i}" for i in range(4000)]
    hashes = np.array([hash_text(text) for text in texts], np.uint64)
    splits = three_way(hashes, (0.1, 0.2))
    assert sorted(np.concatenate(list(splits.values()))) == list(range(4000))
    assert abs(len(splits["validation"]) - 400) < 80
    assert abs(len(splits["test"]) - 800) < 110
    assert all(hash_split(texts[i]) < 0.1 for i in splits["validation"])
    assert all(0.1 <= hash_split(texts[i]) < 0.3 for i in splits["test"])
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
