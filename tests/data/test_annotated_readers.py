"""Tagged sentences, parallel lines and questions: rows, and what is wrong with one by its place."""

from __future__ import annotations

import json

import pytest

from jaxtune.data.scanning import scan
from jaxtune.data.sources import find_source, open_source
from jaxtune.data.sources.conll import bio_of, is_iob1
from jaxtune.errors import DataError, SourceError


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def all_rows(records):
    return [dict(records[i]) for i in range(len(records))]


CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# NN B-NP O

\t
-DOCSTART- -X- -X- O
Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""


def test_conll_2003(tmp_path):
    records = open_source(f"conll:{write(tmp_path / 'a.txt', CONLL.replace(chr(9), ''))}")
    assert all_rows(records) == [
        {
            "tokens": ["EU", "rejects", "#"],
            "pos": ["NNP", "VBZ", "NN"],
            "chunk": ["B-NP", "B-VP", "B-NP"],
            "tags": ["B-ORG", "O", "O"],
        },
        {
            "tokens": ["Peter", "Blackburn"],
            "pos": ["NNP", "NNP"],
            "chunk": ["B-NP", "I-NP"],
            "tags": ["B-PER", "I-PER"],
        },
    ]
    assert [records.where(i) for i in range(2)] == [f"{tmp_path / 'a.txt'}:3", f"{tmp_path / 'a.txt'}:9"]


def test_two_columns_tabs_and_comments(tmp_path):
    content = "\ufeff# id = 1\r\nNew York\tB-LOC\r\n#\tO\r\n\r\nx\tO"
    records = open_source(str(write(tmp_path / "a.conll", content)))
    assert all_rows(records) == [
        {"tokens": ["New York", "#"], "tags": ["B-LOC", "O"]},
        {"tokens": ["x"], "tags": ["O"]},
    ]


def test_the_older_scheme_becomes_bio(tmp_path):
    old = "a I-PER\nb I-PER\nc B-PER\nd I-LOC\ne O\n\nf I-LOC\n"
    records = open_source(f"conll:{write(tmp_path / 'a.txt', old)}")
    assert records[0]["tags"] == ["B-PER", "I-PER", "B-PER", "B-LOC", "O"]
    assert records[1]["tags"] == ["B-LOC"]


def test_a_broken_bio_sequence_is_left_as_it_is(tmp_path):
    records = open_source(f"conll:{write(tmp_path / 'a.txt', 'a B-PER' + chr(10) * 2 + 'b I-PER' + chr(10))}")
    assert records[1]["tags"] == ["I-PER"]


def test_which_scheme():
    assert is_iob1([["I-A", "B-A", "I-A", "O", "I-B"]])
    assert not is_iob1([["O", "O"]])
    assert not is_iob1([["B-A", "I-A"], ["I-A"]])
    assert not is_iob1([["I-A"], ["S-A"]])
    assert not is_iob1([["NN", "I-A"]])
    assert bio_of(["I-A", "I-A", "I-B", "O", "I-B", "B-B", "I-B"]) == [
        *("B-A", "I-A", "B-B", "O", "B-B", "B-B", "I-B")
    ]


def test_a_bad_conll_line_is_named_and_spoils_no_other_sentence(tmp_path):
    path = write(tmp_path / "a.txt", b"a O\n\nb O\nc O X\n\nd\n\n\xff O\n\ne O\n")
    records = open_source(f"conll:{path}")
    with pytest.raises(
        DataError, match=r"a\.txt:4: 3 columns, expected 2 as in line 1; got 'c O X'.*on-error"
    ):
        records[1]
    with pytest.raises(DataError, match=r"a\.txt:6: 1 columns, expected 2"):
        records[2]
    with pytest.raises(DataError, match=r"a\.txt:8: not valid UTF-8"):
        records[3]
    assert records[4] == {"tokens": ["e"], "tags": ["O"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("-DOCSTART- O\n\n", "expected a token and its tag on each line, found no such line"),
        ("one\ntwo\n", r"a\.txt:1: expected at least two columns, a token and its tag"),
    ],
)
def test_files_that_are_no_conll(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        open_source(f"conll:{write(tmp_path / 'a.txt', content)}")


def test_a_conll_folder_has_the_splits_of_its_names(tmp_path):
    for name in ("eng.train", "eng.testa", "eng.testb", "README.md"):
        write(tmp_path / name, f"{name} O\n")
    source = find_source(f"conll:{tmp_path}")
    assert source.splits == ("train", "validation", "test")
    assert source.open("validation")[0]["tokens"] == ["eng.testa"]


def test_the_same_sentence_has_the_same_hash(tmp_path):
    records = open_source(
        f"conll:{write(tmp_path / 'a.txt', 'a O' + chr(10) * 2 + 'b O' + chr(10) * 2 + 'A B-X')}"
    )
    hashes = scan(records, "tokens", None, "tags").hashes
    assert hashes[0] == hashes[2] != hashes[1]


def parallel(tmp_path, source, target):
    one, two = write(tmp_path / "a.en", source), write(tmp_path / "a.de", target)
    return f"parallel:{one},{two}"


@pytest.mark.parametrize("end", ["", "\n"])
def test_parallel_lines(tmp_path, end):
    spec = parallel(tmp_path, "\ufeffone\r\n two \nthree\n", "eins\nzwei\ndrei" + end)
    records = open_source(spec)
    assert all_rows(records) == [
        {"source": "one", "target": "eins"},
        {"source": "two", "target": "zwei"},
        {"source": "three", "target": "drei"},
    ]
    assert records.where(1) == f"{tmp_path / 'a.en'}:2 | {tmp_path / 'a.de'}:2"
    assert find_source(spec).splits == ()
    swapped = open_source(f"parallel:{tmp_path / 'a.de'},{tmp_path / 'a.en'}")
    assert swapped.fingerprint != records.fingerprint


def test_different_line_counts_are_refused_with_both(tmp_path):
    with pytest.raises(DataError, match=r"a\.en has 3 lines and .*a\.de has 2; expected as many"):
        open_source(parallel(tmp_path, "one\n\nthree\n", "eins\nzwei\n"))


def test_pairs_with_an_empty_side_are_bad_rows(tmp_path):
    records = open_source(parallel(tmp_path, "one\n\nthree\n\n", "eins\nzwei\n \n\n"))
    assert len(records) == 4
    for row, what in [(1, "the source"), (2, "the target"), (3, "the source and the target")]:
        message = rf"a\.en:{row + 1} \| .*a\.de:{row + 1}: {what} of this pair is empty.*on-error skip"
        with pytest.raises(DataError, match=message):
            records[row]


def test_parallel_needs_two_files(tmp_path):
    path = write(tmp_path / "a.en", "x")
    for rest in ("", f"{path}", f"{path},", f"{path},{path},{path}"):
        with pytest.raises(SourceError, match="expected two files with a comma"):
            find_source(f"parallel:{rest}")
    with pytest.raises(SourceError, match="is no file; parallel: takes two files"):
        find_source(f"parallel:{path},{tmp_path}")


CONTEXT = "The café in Paris opened in 1912."
GOOD = {"id": "1", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 12}]}


def squad(tmp_path, *questions, name="a.json"):
    data = [{"title": "Cafés", "paragraphs": [{"context": CONTEXT, "qas": list(questions)}]}]
    return f"squad:{write(tmp_path / name, json.dumps({'version': '2', 'data': data}))}"


def test_squad(tmp_path):
    none = {"id": "2", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": [{}]}
    unknown = {"id": "3", "question": "When?"}
    records = open_source(squad(tmp_path, GOOD, none, unknown))
    rows = all_rows(records)
    assert rows[0] == {
        "id": "1",
        "title": "Cafés",
        "context": CONTEXT,
        "question": "Where?",
        "answers": [{"text": "Paris", "start": 12}],
        "impossible": False,
    }
    assert [(row["answers"], row["impossible"]) for row in rows[1:]] == [([], True), ([], False)]
    assert records.where(1) == f"{tmp_path / 'a.json'}: data[0].paragraphs[0].qas[1] (id 2)"
    assert set(records.columns) == set(rows[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"answers": [{"text": "Paris", "answer_start": 13}]},
            r"qas\[1\] \(id 1\): the answer 'Paris' does not match the context, which has 'aris ' at 13 "
            r"\(it stands at 12;.*--data\.on-error skip",
        ),
        ({"answers": [{"text": "Rome", "answer_start": 12}]}, "it stands nowhere in the context"),
        ({"answers": [{"text": "Paris", "answer_start": -21}]}, "it stands at 12"),
        ({"answers": [{"text": "Paris", "answer_start": "12"}]}, "expected a 'text' and an integer"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "expected a 'text' and an integer"),
        ({"answers": {"text": ["Paris"], "answer_start": [12]}}, "'answers' is .*expected a list"),
        ({"is_impossible": True}, "'is_impossible' is true and there are answers"),
        ({"is_impossible": "no"}, "expected true or false"),
        ({"question": " "}, "'question' is ' '; expected a text"),
        ({"id": None}, "'id' is None; expected a text"),
    ],
)
def test_a_bad_question_is_named_and_spoils_no_other(tmp_path, change, message):
    records = open_source(squad(tmp_path, {**GOOD, "id": "0"}, {**GOOD, **change}))
    with pytest.raises(DataError, match=message):
        records[1]
    assert records[0]["id"] == "0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON in UTF-8"),
        ("[]", "data is missing or no list; expected the JSON of SQuAD"),
        ('{"data": [{"paragraphs": 3}]}', r"data\[0\]\.paragraphs is missing or no list"),
        ('{"data": [{"paragraphs": [{}]}]}', r"data\[0\]\.paragraphs\[0\]\.qas is missing"),
        ('{"data": []}', "holds no questions"),
    ],
)
def test_files_that_are_no_squad(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        open_source(f"squad:{write(tmp_path / 'a.json', content)}")


def test_an_id_occurs_once(tmp_path):
    with pytest.raises(DataError, match=r"qas\[1\]: the id '1' is also that of .*qas\[0\]"):
        open_source(squad(tmp_path, GOOD, GOOD))


def test_a_squad_folder_has_the_splits_of_its_names(tmp_path):
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        squad(tmp_path, GOOD, name=name)
    assert find_source(f"squad:{tmp_path}").splits == ("train", "validation")


def test_unknown_kinds_name_the_known():
    with pytest.raises(SourceError, match=r"expected one of .*conll, squad, parallel, pypi, npm"):
        find_source("xml:a")
