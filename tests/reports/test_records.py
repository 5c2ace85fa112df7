from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from jaxtune.config import Experiment, dump_yaml
from jaxtune.errors import RunError
from jaxtune.reports.example_scores import ExampleScores
from jaxtune.reports.records import RunRecord, dump_record, load_record, read_run, rows_fingerprint

ROWS = [
    {
        "id": 0,
        "text": "a",
        "target": "no",
        "label": "no",
        "score": 0.9,
        "probabilities": {"no": 0.9, "yes": 0.1},
    },
    {
        "id": 1,
        "text": "b\u2028",
        "target": "yes",
        "label": "no",
        "score": 0.7,
        "probabilities": {"no": 0.7, "yes": 0.3},
    },
]


def write_run(folder, rows=ROWS, metrics=None):
    """A finished run, without what a record does not need."""
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_yaml(Experiment(name=folder.name, output=str(folder.parent))))
    splits = {"validation": {"accuracy": 1.0}, "test": metrics or {"accuracy": 0.5, "support": [1, 1]}}
    (folder / "results.json").write_text(json.dumps({"step": 3, "splits": splits}))
    provenance = {
        "time": "now",
        "data": {"train": "t0"},
        "command": "secret",
        "machine": {"cpu": "x", "cores": 4},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "predictions.jsonl").write_text(lines)
    return str(folder)


def test_a_run_becomes_a_record_that_reads_back(tmp_path):
    record = read_run(write_run(tmp_path / "one"))
    assert (record.name, record.split, record.seed) == ("one", "test", 0)
    assert record.metric("accuracy") == 0.5
    assert record.fingerprints == {"train": "t0"}
    assert record.rows == {"test": rows_fingerprint(ROWS)}
    assert "output" not in record.config
    text = dump_record(record)
    assert str(tmp_path) not in text
    assert "secret" not in text
    (tmp_path / "one.json").write_text(text)
    again = load_record(str(tmp_path / "one.json"))
    assert dump_record(again) == text
    assert again.examples.scores("loss").value() == record.examples.scores("loss").value()


def test_a_folder_with_a_record_is_a_run(tmp_path):
    record = read_run(write_run(tmp_path / "one"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "record.json").write_text(dump_record(dataclasses.replace(record, name="two")))
    assert read_run(str(tmp_path / "two")).name == "two"


def test_numbers_are_compact():
    examples = ExampleScores(
        np.array([1 / 3]),
        np.array([123456789.0]),
        columns={"em": np.array([[2 / 3]]), "f1": np.array([[2, 3.5]])},
    )
    text = dump_record(RunRecord("a", {}, "test", {}, examples=examples))
    assert (
        '"examples":{"targets":[0.333333],"outputs":[123456789],"columns":{"em":[0.666667],"f1":[[2,3.5]]}}'
        in text
    )


def test_the_fingerprint_sees_texts_pairs_and_targets():
    prints = [
        rows_fingerprint(rows)
        for rows in (
            [{"text": "a"}],
            [{"text": "b"}],
            [{"text": "a", "target": 1}],
            [{"text": "a", "text_pair": "b"}],
        )
    ]
    assert len(set(prints)) == 4
    assert rows_fingerprint([{"text": "a", "label": "x"}]) == prints[0]


def test_a_metric_that_is_not_there_or_not_true(tmp_path):
    record = read_run(write_run(tmp_path / "one", metrics={"accuracy": 0.75}))
    with pytest.raises(RunError, match=r"its accuracy is 0\.75, but its examples give 0\.5"):
        record.metric("accuracy")
    with pytest.raises(RunError, match="one has no metric 'bleu' of the test split; it has: accuracy"):
        record.metric("bleu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "expected a JSON object, got list"),
        ("{}", "is not a whole record"),
        ('{"format": 99}', "is of format 99, of a newer jaxtune"),
        (
            '{"name":"a","config":{},"split":"test","metrics":{},"fingerprints":{},"rows":{},"made":{},'
            '"examples":{"targets":[1,2],"outputs":[1]}}',
            "columns of different lengths",
        ),
        (
            '{"name":"a","config":{},"split":"test","metrics":{},"fingerprints":{},"rows":{},"made":{},'
            '"examples":{"target":[1]}}',
            "is not a whole record",
        ),
    ],
)
def test_a_damaged_record(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RunError, match=said):
        load_record(str(tmp_path / "a.json"))


def test_an_unfinished_run(tmp_path):
    path = write_run(tmp_path / "one")
    (tmp_path / "one" / "predictions.jsonl").unlink()
    with pytest.raises(RunError, match=r"predictions\.jsonl cannot be read"):
        read_run(path)
    (tmp_path / "one" / "results.json").unlink()
    with pytest.raises(RunError, match="is no finished run"):
        read_run(path)


def test_scores_whose_mean_is_not_the_metric_are_not_used(tmp_path):
    rows = [
        {"text": "a", "target": "b", "scores": {"bleu": 50.0, "em": 1}},
        {"scores": {"bleu": 10.0, "em": 0}},
    ]
    record = read_run(write_run(tmp_path / "one", rows, metrics={"bleu": 12.0, "em": 0.5}))
    assert record.metric("bleu") == 12
    assert record.scores("bleu") is None
    assert record.scores("em").value() == 0.5
