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
    columns = {"data.text": "text", "data.text_pair": "b"}
    assert list(Rows(config, columns).texts()) == ["two", "x?y", "one", "four"]


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


def test_mixed_sources_are_seen_by_weight_and_leak_nothing(tmp_path, word_task):
    main = f"jsonl:{write(tmp_path / 'a.jsonl', ROWS)}"
    plain = load_splits(DataConfig(train=main), word_task, None)
    more = [{"text": f"another text {i}", "label": ("pos", "neg")[i % 2]} for i in range(50)]
    held = [
        {"text": text.upper(), "label": "pos"}
        for name in ("validation", "test")
        for text in texts(plain[name])
    ]
    mixed = f"jsonl:{write(tmp_path / 'b.jsonl', [*more, *held])}"
    splits = load_splits(DataConfig(train=main, mix=(f"{mixed}=0.5", f"{mixed}=2")), word_task, None)
    train = splits["train"]
    assert [splits[n].fingerprint for n in ("validation", "test")] == [
        plain[n].fingerprint for n in ("validation", "test")
    ]
    count = len(plain["train"].examples)
    assert texts(train) == [*texts(plain["train"]), *(row["text"] for row in [*more, *more])]
    assert train.repeats.tolist() == [1.0] * count + [0.5] * 50 + [2.0] * 50
    assert plain["train"].repeats is None
    assert splits["test"].duplicates == 0
    assert (
        f"of these 50 from {mixed}, seen 0.5 times per epoch on average; {len(held)} others left out"
        in train.summary()
    )
    assert "b.jsonl:1" in train.records.where(count)
    write(tmp_path / "b.jsonl", held)
    with pytest.raises(
        DataError, match=r"data\.mix: every row of .*b\.jsonl has a text of validation or test"
    ):
        load_splits(DataConfig(train=main, mix=(f"{mixed}=2",)), word_task, None)
    write(tmp_path / "b.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match="no column 'label'"):
        load_splits(DataConfig(train=main, mix=(f"{mixed}=2",)), word_task, None)
    with pytest.raises(ConfigError, match=r"data\.mix"):
        Rows(DataConfig(train=main, mix=(mixed,)), {})


def test_labels_of_mixed_sources_must_agree(tmp_path, word_task):
    """Parquet files may have integer labels and names for them, as TFDS has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def classes(name, *labels):
        table = pa.table(
            {"text": [f"{name} {i}" for i in range(60)], "label": [i % len(labels) for i in range(60)]}
        )
        features = {"label": {"names": labels, "_type": "ClassLabel"}}
        told = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(table.replace_schema_metadata(told), tmp_path / f"{name}.parquet")
        return f"parquet:{tmp_path / name}.parquet"

    one, same, other = (
        classes("one", "neg", "pos"),
        classes("two", "neg", "pos"),
        classes("three", "neg", "neutral", "pos"),
    )
    names = f"jsonl:{write(tmp_path / 'names.jsonl', ROWS[:40])}"
    numbers = f"jsonl:{write(tmp_path / 'numbers.jsonl', [{**row, 'label': i % 2} for i, row in enumerate(ROWS[:40])])}"

    def mixed(train, mix, **more):
        return load_splits(DataConfig(train=train, mix=(f"{mix}=1",), **more), word_task, None)

    for train, mix in ((one, same), (one, names), (names, one), (one, numbers)):
        splits = mixed(train, mix)
        train = splits["train"]
        assert train.labels == ("neg", "pos")
        for i in range(len(train.examples)):
            label = train.records[i]["label"]
            meant = label if isinstance(label, str) else ("neg", "pos")[label]
            assert train.labels[train.examples[i]["target"]] == meant
    with pytest.raises(
        DataError, match=r"labels of .*one.* are numbers of neg, pos, those of .*three.* of neg, neutral"
    ):
        mixed(one, other)
    with pytest.raises(
        DataError, match=r"labels of .*numbers.* are numbers, those of .*names.* are names.*--data\.labels"
    ):
        mixed(names, numbers)
    assert mixed(names, numbers, labels=("neg", "pos"))["train"].labels == ("neg", "pos")


def test_folds_take_the_test_split_from_the_rows(tmp_path, word_task):
    path = f"jsonl:{write(tmp_path / 'a.jsonl', [*ROWS, ROWS[3], ROWS[5]])}"
    for stratify in (False, True):
        tested = []
        for number in range(1, 5):
            config = DataConfig(train=path, fold=f"{number}/4", holdout=(0.2, 0.0), stratify=stratify)
            splits = load_splits(config, word_task, None)
            tested += texts(splits["test"])
            seen = [set(texts(split)) for split in splits.values()]
            assert sum(map(len, seen)) == len(set().union(*seen)) == 300
            share = len(splits["validation"].examples) / (302 - len(splits["test"].examples))
            assert share == pytest.approx(0.2, abs=0.01 if stratify else 0.09)
            assert f"fold {number}/4 of {path} by a hash of the text" in splits["test"].summary()
            if stratify:
                labels = [splits["test"].records[i]["label"] for i in range(len(splits["test"].examples))]
                assert abs(labels.count("neg") - labels.count("pos")) <= 4
        assert sorted(tested) == sorted([row["text"] for row in ROWS] + [ROWS[3]["text"], ROWS[5]["text"]])
    assert list(load_splits(replace(config, holdout=(0.0, 0.0)), word_task, None)) == ["train", "test"]
    with pytest.raises(ConfigError, match=r"data\.fold .*data\.test is"):
        Rows(replace(config, test=path), {})
    for name in ("train", "test"):
        write(tmp_path / "own" / f"{name}.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"has its own; name the split.* as .*own\[train\]"):
        load_splits(replace(config, train=f"jsonl:{tmp_path / 'own'}"), word_task, None)
    whole = load_splits(replace(config, train=f"jsonl:{tmp_path / 'own'}[train]"), word_task, None)
    assert sum(len(split.examples) for split in whole.values()) == 300


def test_stratified_shares_are_those_of_each_label(tmp_path, word_task):
    rows = [{**row, "label": "rare" if i % 15 == 0 else "often"} for i, row in enumerate(ROWS)]
    config = DataConfig(train=f"jsonl:{write(tmp_path / 'a.jsonl', rows)}", stratify=True)
    splits = load_splits(config, word_task, None)
    counts = {name: np.bincount(split.examples.targets).tolist() for name, split in splits.items()}
    assert counts == {"train": [224, 16], "validation": [28, 2], "test": [28, 2]}
    assert "10% of" in splits["test"].origin
    assert splits["test"].origin.endswith("by a hash of the text, label by label")


def test_few_shots_and_balance_change_the_training_split_only(tmp_path, word_task):
    rows = [{**row, "label": "rare" if i % 6 == 0 else "often"} for i, row in enumerate(ROWS)]
    config = DataConfig(train=f"jsonl:{write(tmp_path / 'a.jsonl', [*rows, rows[0]])}")
    plain = load_splits(config, word_task, None)
    few = load_splits(replace(config, shots=16), word_task, None)
    assert np.bincount(few["train"].examples.targets).tolist() == [16, 16]
    assert len(set(texts(few["train"]))) == 32 <= len(set(texts(few["train"])) & set(texts(plain["train"])))
    assert "16 rows of each label, of " in few["train"].summary()
    other = load_splits(replace(config, shots=16, shots_seed=1), word_task, None)
    assert set(texts(other["train"])) != set(texts(few["train"]))
    balanced = load_splits(replace(config, balance="oversample"), word_task, None)
    train = balanced["train"]
    often, rare = np.bincount(train.examples.targets)
    assert np.unique(train.repeats).tolist() == pytest.approx([1.0, often / rare])
    assert f"all labels seen equally often: rare {often / rare:.3g} times per epoch" in train.summary()
    for changed in (few, other, balanced):
        assert [changed[n].fingerprint for n in ("validation", "test")] == [
            plain[n].fingerprint for n in ("validation", "test")
        ]
    with pytest.raises(DataError, match=r"data\.shots is 60, but label 'rare' has \d\d different texts"):
        load_splits(replace(config, shots=60), word_task, None)


def test_the_summary_tells_of_doubled_contradicting_and_rare_rows(tmp_path, word_task):
    rows = [*ROWS, ROWS[0], {**ROWS[1], "label": "neg"}, {"text": ROWS[1]["text"].upper(), "label": "odd"}]
    path = write(tmp_path / "a.jsonl", rows)
    config = DataConfig(train=f"jsonl:{path}", holdout=(0.0, 0.0), labels=("neg", "pos", "odd", "never"))
    said = load_splits(config, word_task, None).summary()
    assert "  3 (1.0%) repeat the text of another row of train\n" in said
    assert f"  1 texts have several labels, one of them 'pos' in {path}:2 and 'neg' in {path}:302\n" in said
    assert "  warning: labels with fewer than 10 rows: odd 1, never 0" in said
    clean = load_splits(
        DataConfig(train=f"jsonl:{write(tmp_path / 'b.jsonl', ROWS)}"), word_task, None
    ).summary()
    assert not any(word in clean for word in ("repeat", "several labels", "warning"))


def test_numbers_among_names_of_labels_are_warned_of(tmp_path, word_task):
    rows = [{**row, "label": ("neg", "1", "pos", "0")[i % 4]} for i, row in enumerate(ROWS)]
    said = load_splits(
        DataConfig(train=f"jsonl:{write(tmp_path / 'a.jsonl', rows)}"), word_task, None
    ).summary()
    assert "warning: some labels are numbers (0, 1), others names (neg, pos)" in said
    assert "--data.labels" in said
