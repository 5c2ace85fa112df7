from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.errors import DataError
from jaxtune.tasks.reading.encoding import TextColumns, tokenize_records

PLACES = "data.jsonl:{}".format


def tokenize(tokenizer, *records, pair=None, max_length=16):
    columns = TextColumns("text", pair, max_length)
    return tokenize_records(columns, records, tokenizer, lambda i: PLACES(i + 1), None)


def reference(tokenizer, *texts, max_length):
    """What the tokenizer itself makes of the whole texts."""
    encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_token_type_ids=True)
    return encoded["input_ids"], encoded["token_type_ids"], bool(encoded.encodings[0].overflowing)


def as_reference(example):
    return example["tokens"].tolist(), example["token_types"].tolist(), example["truncated"]


def test_an_example_is_what_the_tokenizer_makes_of_the_text(tokenizer):
    (example,) = tokenize(tokenizer, {"text": "The film was boldly good", "other": 3})
    assert as_reference(example) == reference(tokenizer, "The film was boldly good", max_length=16)
    assert example["tokens"].dtype == example["token_types"].dtype == np.int32
    assert not example["truncated"]
    assert example["target"] == 0


def test_bytes_are_read_as_utf_8(tokenizer):
    good, bad = tokenize(tokenizer, {"text": b"good film"}, {"text": b"good \xff"})
    assert as_reference(good) == reference(tokenizer, "good film", max_length=16)
    assert "data.jsonl:2" in str(bad)
    assert "not valid UTF-8 at byte 5" in str(bad)


@pytest.mark.parametrize(
    "value", [None, 3.5, 7, "", "  \t\n", ["good"], "a\ud800b", "\x00\x01", np.float64(2)]
)
def test_a_text_of_no_use_is_an_error_with_its_place(tokenizer, value):
    good, bad, last = tokenize(tokenizer, {"text": "good"}, {"text": value}, {"text": "bad"})
    assert isinstance(bad, DataError)
    assert "data.jsonl:2" in str(bad)
    assert "'text'" in str(bad)
    assert "--data.on-error skip" in str(bad)
    assert good["tokens"].tolist() != last["tokens"].tolist()


def test_a_missing_column_lists_the_columns_there_are(tokenizer):
    (error,) = tokenize(tokenizer, {"review": "good", "stars": 3})
    assert str(error) == (
        "data.jsonl:1: there is no column 'text'; the columns are: 'review', 'stars'. "
        "Name the right one with --data.text."
    )


def test_a_long_value_is_shortened_in_the_message(tokenizer):
    (error,) = tokenize(tokenizer, {"text": list(range(100_000))})
    assert len(str(error)) < 300


def test_the_second_text_of_a_pair_is_checked_too(tokenizer):
    records = [{"text": "good film", "reply": "not bad"}, {"text": "good film", "reply": " "}]
    good, bad = tokenize(tokenizer, *records, pair="reply")
    assert as_reference(good) == reference(tokenizer, "good film", "not bad", max_length=16)
    assert "'reply'" in str(bad)


@pytest.mark.parametrize(
    "text",
    [
        "the film was not good, it is a bad plot. " * 25_000,
        "goods" * 200_000,
        "的电影" * 300_000,
        " " * 900_000 + "good film",
        "good" + " " * 1_000_000,
        "\x00" * 1_000_000 + "good film was bad",
        "movies" + "́" * 50_000 + " good film" * 50_000,
    ],
    ids=["sentences", "one word", "han", "late start", "only one token", "control characters", "accents"],
)
def test_a_text_of_1_mb_gives_the_same_tokens_as_the_whole(tokenizer, text):
    (example,) = tokenize(tokenizer, {"text": text})
    assert as_reference(example) == reference(tokenizer, text, max_length=16)


def test_1_mb_is_fast(tokenizer):
    records = [{"text": "the film was not good, it is a bad plot. " * 25_000}] * 20
    start = time.process_time()
    examples = tokenize(tokenizer, *records, max_length=128)
    assert time.process_time() - start < 5
    assert all(example["truncated"] for example in examples)


def test_a_pair_of_1_mb_each_is_fast(tokenizer):
    start = time.process_time()
    (example,) = tokenize(tokenizer, {"text": "good " * 200_000, "reply": "bad " * 250_000}, pair="reply")
    assert time.process_time() - start < 10
    assert example["truncated"]
    # 13 tokens beside the special ones; the odd one goes to the longer text, the second.
    assert np.bincount(example["token_types"]).tolist() == [1 + 6 + 1, 7 + 1]


words = st.sampled_from(["good", "films", "boldly", "unknownword", "的", ".", "  ", "ΣΑΣ", "é", "don't"])


@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1), st.integers(1, 400), st.integers(3, 70), st.booleans())
def test_cutting_never_shows(tokenizer, parts, repeats, max_length, spaced):
    text = "good" + (" " if spaced else "").join(parts) * repeats
    (example,) = tokenize(tokenizer, {"text": text}, max_length=max_length)
    assert as_reference(example) == reference(tokenizer, text, max_length=max_length)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(20, 71))
def test_cutting_never_shows_in_a_pair(tokenizer, first, second, max_length):
    texts = "good " * first, "bad " * second
    (example,) = tokenize(tokenizer, dict(zip(["text", "reply"], texts)), pair="reply", max_length=max_length)
    assert as_reference(example) == reference(tokenizer, *texts, max_length=max_length)
