"""From a configuration to checked, tokenised splits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from jaxtune.config import DataConfig
from jaxtune.data.batches import build_batch, unpack
from jaxtune.data.pipeline import Rows, load_splits
from jaxtune.data.planning import plan_training
from jaxtune.data.sources import open_source
from jaxtune.data.splits import hash_text, places, rehash
from jaxtune.data.tokenizing import tokenize_records
from jaxtune.errors import ConfigError, DataError

ROWS = [
    {"text": f"review number {i} " + "word " * (i % 9), "label": ("neg", "pos")[i % 2]} for i in range(300)
]


def held_place(text):
    """Where a text lies among those that shares are held out of."""
    return places(rehash(np.array([hash_text(text)], np.uint64)))[0]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def texts(split):
    return [split.records[i]["text"] for i in range(len(split.examples))]


def test_one_file_is_split_by_a_hash_of_the_text(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", [*ROWS, ROWS[3], {**ROWS[4], "text": ROWS[4]["text"].upper()}])
    splits = load_splits(DataConfig(train=f"jsonl:{path}"), word_task, None)
    assert list(splits) == ["train", "validation", "test"]
    assert sum(len(split.examples) for split in splits.values()) == 302
    for name, split in splits.items():
        assert len(split.records) == len(split.examples)
        assert split.duplicates == 0
        for text in texts(split):
            place = held_place(text)
            assert name == ("validation" if place < 0.1 else "test" if place < 0.2 else "train")
    assert splits.task.labels == ("neg", "pos") == splits["test"].labels
    assert splits.task.weighed
    first = splits["train"].examples[0]
    assert first["tokens"].tolist() == [len(word) for word in texts(splits["train"])[0].split()][:8]


def test_a_second_run_reads_the_cache_and_gets_the_same(tmp_path, word_task, monkeypatch):
    config = DataConfig(train=f"jsonl:{write(tmp_path / 'a.jsonl', ROWS)}")
    first = load_splits(config, word_task, None)
    monkeypatch.setattr(type(word_task), "tokenize", lambda *a, **k: pytest.fail("tokenised again"))
    second = load_splits(config, word_task, None)
    assert first.fingerprint == second.fingerprint
    for name in first:
        assert np.array_equal(first[name].examples.tokens, second[name].examples.tokens)
        assert first[name].summary() == second[name].summary()


def test_the_texts_of_the_training_rows_come_in_order_before_anything_is_tokenised(tmp_path, word_task):
    config = DataConfig(train=f"jsonl:{write(tmp_path / 'a.jsonl', ROWS)}", limit=50)
    rows = Rows(config, {"data.text": config.text})
    found = list(rows.texts())
    assert (
        found
        == texts(rows.tokenize(word_task, None)["train"])
        == list(Rows(config, {"data.text": config.text}).texts())
    )
    assert len(found) == 50


def test_what_is_no_text_is_left_out_of_the_texts(tmp_path):
    odd = ["{oops", {"text": None, "b": "two"}, {"text": 3, "b": "x\ud800y"}, {"text": "one", "b": "four"}]
    rows = [{"label": i % 2, **row} if isinstance(row, dict) else row for i, row in enumerate(odd)]
    config = DataConfig(
        train=f"jsonl:{write(tmp_path / 'a.jsonl', rows)}", text_pair="b", holdout=(0.0, 0.0), on_error="skip"
    )
    assert list(Rows(config, {"data.text": config.text}).texts()) == ["two", "x?y", "one", "four"]


def test_changed_data_is_seen(tmp_path, word_task):
    config = DataConfig(train=f"jsonl:{write(tmp_path / 'a.jsonl', ROWS)}")
    first = load_splits(config, word_task, None)
    write(tmp_path / "a.jsonl", [*ROWS[1:], ROWS[0]])
    assert load_splits(config, word_task, None).fingerprint != first.fingerprint


def test_given_and_own_splits_go_before_the_hash(tmp_path, word_task, caplog):
    for name, rows in [("train", ROWS[:200]), ("validation", ROWS[190:250]), ("test", ROWS[250:])]:
        write(tmp_path / "own" / f"{name}.jsonl", rows)
    own = load_splits(DataConfig(train=f"jsonl:{tmp_path / 'own'}"), word_task, None)
    assert [len(split.examples) for split in own.values()] == [200, 60, 50]
    assert own["validation"].duplicates == 10
    assert "10 (16.7%) have a text that is in train too" in own["validation"].summary()
    assert "validation: 10 examples have a text that is in train" in caplog.text
    other = write(tmp_path / "other.jsonl", ROWS[:30])
    given = load_splits(DataConfig(train=f"jsonl:{tmp_path / 'own'}", test=f"jsonl:{other}"), word_task, None)
    assert [len(split.examples) for split in given.values()] == [200, 60, 30]


def test_a_test_split_without_labels_is_held_out_of_train_instead(tmp_path, word_task):
    write(tmp_path / "own" / "train.jsonl", ROWS)
    write(tmp_path / "own" / "validation.jsonl", ROWS[:40])
    write(tmp_path / "own" / "test.jsonl", [{**row, "label": -1} for row in ROWS[:50]])
    splits = load_splits(DataConfig(train=f"jsonl:{tmp_path / 'own'}"), word_task, None)
    assert len(splits["validation"].examples) == 40
    assert len(splits["train"].examples) + len(splits["test"].examples) == 300
    assert all(0.1 <= held_place(text) < 0.2 for text in texts(splits["test"]))


def test_no_holdout_makes_no_splits(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", ROWS)
    splits = load_splits(DataConfig(train=f"jsonl:{path}", holdout=(0.0, 0.0)), word_task, None)
    assert list(splits) == ["train"]
    assert len(splits["train"].examples) == 300


BAD = [
    ('{"text": "cut', r"a\.jsonl:4: not valid JSON"),
    ({"text": None, "label": "pos"}, r"a\.jsonl:4: column 'text' is None"),
    ({"text": "  ", "label": "pos"}, r"a\.jsonl:4: column 'text'"),
    ({"text": 7, "label": "pos"}, r"a\.jsonl:4: column 'text' is 7"),
    ({"text": "fine", "label": "odd"}, r"a\.jsonl:4: column 'label' is 'odd'"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_stops_or_is_skipped_and_listed(tmp_path, word_task, row, message):
    path = write(tmp_path / "a.jsonl", [*ROWS[:3], row, *ROWS[3:]])
    config = {"train": f"jsonl:{path}", "labels": ("neg", "pos"), "holdout": (0.0, 0.0)}
    for _ in range(2):  # also after a run that skipped has filled the cache
        with pytest.raises(DataError, match=message):
            load_splits(DataConfig(**config), word_task, None)
        splits = load_splits(DataConfig(**config, on_error="skip"), word_task, None)
    train = splits["train"]
    assert len(train.examples) == len(train.records) == 300
    assert texts(train) == [row["text"] for row in ROWS]
    assert len(train.skipped) == 1
    assert "a.jsonl:4" in train.skipped[0]
    assert "1 rows skipped" in train.summary()


def test_when_every_row_is_bad_it_is_said(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", [{"text": None, "label": "pos"}] * 50)
    with pytest.raises(DataError, match=r"all \d+ rows are bad.*column 'text'"):
        load_splits(DataConfig(train=f"jsonl:{path}", on_error="skip"), word_task, None)


def test_a_missing_column_is_named_with_those_there_are(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", [{"review": "a", "stars": 1}])
    with pytest.raises(
        DataError, match=r"no column 'text' \(data\.text\); the columns are 'review', 'stars'.*--data\.text"
    ):
        load_splits(DataConfig(train=f"jsonl:{path}"), word_task, None)
    pairs = replace(word_task, text="review", text_pair="b")
    with pytest.raises(DataError, match=r"no column 'b' .*--data\.text-pair"):
        load_splits(DataConfig(train=f"jsonl:{path}", text="review", text_pair="b"), pairs, None)


def test_too_few_rows_for_a_split_are_said(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", ROWS[:2])
    with pytest.raises(
        DataError, match=r"falls into (validation|test).*data\.holdout|no row is left to train on"
    ):
        load_splits(DataConfig(train=f"jsonl:{path}"), word_task, None)


def test_fewer_rows_than_a_batch_are_trained_on(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", ROWS[:5])
    splits = load_splits(DataConfig(train=f"jsonl:{path}", holdout=(0.0, 0.0)), word_task, None)
    examples = splits["train"].examples
    plan = plan_training(examples.lengths, batching="packed", batch_size=32, seed=0, epochs=1)
    found = dict(unpack(build_batch(examples, plan.steps[0])))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert all(np.array_equal(found[i], examples[i]["tokens"]) for i in found)


def test_limit_and_bad_options(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", ROWS)
    splits = load_splits(DataConfig(train=f"jsonl:{path}", limit=20), word_task, None)
    assert [len(split.examples) for split in splits.values()] == [20, 20, 20]
    for wrong in ({"limit": 0}, {"holdout": (0.6, 0.4)}, {"holdout": (-0.1, 0.4)}):
        with pytest.raises(ConfigError, match=r"data\.(limit|holdout)"):
            load_splits(DataConfig(train=f"jsonl:{path}", **wrong), word_task, None)
    with pytest.raises(ConfigError, match=r"data\.train"):
        load_splits(DataConfig(), word_task, None)


def test_the_summary_tells_what_there_is(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", ROWS)
    lines = (
        load_splits(DataConfig(train=f"jsonl:{path}", holdout=(0.0, 0.0)), word_task, None)
        .summary()
        .splitlines()
    )
    assert lines[0] == f"train: 300 examples from jsonl:{path}"
    assert lines[1] == "  labels: neg 150 (50.0%), pos 150 (50.0%)"
    assert lines[2] == "  tokens: 5 % 3, median 7, 95 % 8, longest 8; 33.0% cut"


def test_rows_to_predict_need_no_label(tmp_path, word_task):
    path = write(tmp_path / "a.jsonl", [{"text": "one two"}, {"text": "three"}])
    done = tokenize_records(open_source(f"jsonl:{path}"), word_task, None, labelled=False)
    assert done.examples.lengths.tolist() == [2, 1]
