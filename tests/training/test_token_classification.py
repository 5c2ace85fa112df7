"""Labels of words: end to end on a tiny BERT, packed, and what is wrong with rows."""

import json
import random

import pytest

import jaxtune
from jaxtune.config import DataConfig
from jaxtune.data.pipeline import Rows
from jaxtune.errors import DataError
from jaxtune.tasks.token_classification import TokenClassification
from tests.tiny import PLAIN, experiment, write_checkpoint

NAMES = {"warm": ("PER", "funny"), "dull": ("LOC", "cold")}
"""First word of an entity → its type, and the second word it may have."""


def sentence(rng):
    """Plain words with entities of one or two words among them."""
    words, tags = [], []
    for _ in range(rng.randint(3, 8)):
        if rng.random() < 0.4:
            first = rng.choice(list(NAMES))
            kind, second = NAMES[first]
            longer = rng.random() < 0.5
            words += [first, *([second] if longer else [])]
            tags += [f"B-{kind}", *([f"I-{kind}"] if longer else [])]
        words.append(rng.choice(PLAIN))
        tags.append("O")
    return {"tokens": words, "tags": tags}


def run_of(tmp_path, rows=150, **changes):
    rng = random.Random(0)
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps(sentence(rng)) + "\n" for _ in range(rows)))
    data = {"train": f"jsonl:{path}", "text": "tokens", "label": "tags", **changes.pop("data", {})}
    return experiment(tmp_path, task="token_classification", data=data, **changes)


def test_it_learns_entities(tmp_path):
    run = jaxtune.train(run_of(tmp_path, 500, model={"dropout": 0.0}, train={"epochs": 12, "batch_size": 16}))
    test = run.results["splits"]["test"]
    assert test["f1"] > 0.9
    assert run.results["metric"] == "f1"
    answer = run.predict([{"tokens": ["the", "warm", "funny", "was", "dull"]}])[0]
    assert answer["labels"] == ["O", "B-PER", "I-PER", "O", "B-LOC"]
    assert answer["entities"] == [["PER", 1, 3], ["LOC", 4, 5]]
    assert run.predict(["the warm movie"])[0]["labels"] == ["O", "B-PER", "O"]
    exported = jaxtune.load_pretrained(run.path, head="auto")
    assert exported.head == "token_classification"
    assert exported.labels[0] == "O"


def test_packed_is_padded(tmp_path):
    found = [
        jaxtune.train(run_of(tmp_path, name=b, data={"batching": b}, train={"steps": 1, "batch_size": 16}))
        for b in ("packed", "padded")
    ]
    packed, padded = (run.results["splits"]["test"] for run in found)
    assert packed["loss"] == pytest.approx(padded["loss"], abs=1e-5)
    assert {k: v for k, v in packed.items() if k != "loss"} == {
        k: v for k, v in padded.items() if k != "loss"
    }


def test_a_tokenizer_may_be_built_from_the_words(tmp_path):
    path = tmp_path / "words.jsonl"
    path.write_text(json.dumps({"tokens": ["the", "warm"], "tags": ["O", "B-PER"]}) + "\n")
    rows = Rows(
        DataConfig(train=f"jsonl:{path}", holdout=(0.0, 0.0)), {"data.text": "tokens", "data.label": "tags"}
    )
    assert list(rows.texts()) == ["the warm"]


@pytest.fixture
def tokenizer(tmp_path):
    return jaxtune.load_pretrained(write_checkpoint(tmp_path / "tiny")).tokenizer


TASK = TokenClassification("tokens", "tags", 16, ("O", "B-PER", "I-PER"))


def test_the_first_token_of_a_word_carries_its_label(tokenizer):
    (made,) = TASK.tokenize(
        [{"tokens": ["the", "movie", "plot"], "tags": ["O", "B-PER", "I-PER"]}], tokenizer, str
    )
    assert made["labels"].tolist() == [-100, 0, 1, 2, -100]
    assert len(made["labels"]) == len(made["tokens"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["the"], "tags": ["O", "O"]}, "2 labels for 1 words"),
        ({"tokens": ["the", ""], "tags": ["O", "O"]}, "as word 2"),
        ({"tokens": [], "tags": []}, "at least one"),
        ({"tokens": ["the"], "tags": ["B-MISC"]}, "'B-MISC' as label 1, which was never declared"),
        ({"tokens": ["the"], "tags": "O"}, "one label per word"),
        ({"tokens": ["the"]}, "no column 'tags'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(tokenizer, row, message):
    (made,) = TASK.tokenize([row], tokenizer, lambda i: f"words.jsonl:{i + 1}")
    assert isinstance(made, DataError)
    assert "words.jsonl:1" in str(made)
    assert message in str(made)


def test_a_predicate_is_a_second_text_without_labels(tokenizer):
    task = TokenClassification("tokens", "tags", 16, ("O", "B-A0", "B-V"), text_pair="predicate")
    assert set(task.columns_read.values()) == {"tokens", "predicate", "tags"}
    row = {"tokens": ["the", "movie", "was"], "tags": ["O", "B-A0", "B-V"]}
    given = [2, [2], "was", ["was"]]
    made = task.tokenize([row | {"predicate": value} for value in given], tokenizer, str)
    pair = tokenizer([row["tokens"]], [["was"]], is_split_into_words=True)
    for example in made:
        assert example["tokens"].tolist() == pair["input_ids"][0]
        assert example["token_types"].tolist() == [0, 0, 0, 0, 0, 1, 1]
        assert example["labels"].tolist() == [-100, 0, 1, 2, -100, -100, -100]
    for value in (3, -1, "", None, [], [None], True):
        (error,) = task.tokenize([row | {"predicate": value}], tokenizer, lambda i: "roles.jsonl:1")
        assert isinstance(error, DataError)
        assert "roles.jsonl:1: column 'predicate'" in str(error)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["B-PER", "I-PER", "O"], ["O", "B-LOC"]], None),
        (
            [["O", "O"], ["O", "I-PER", "B-PER"]],
            "1 tags in 1 of 2 training rows break the scheme IOB2, but keep to IOB1",
        ),
        (
            [["B-PER", "O"], ["B-PER", "I-LOC"], ["I-PER", "O", "I-LOC"]],
            "3 tags in 2 of 3 training rows break the scheme IOB2, the first in row 2: word 2, 'I-LOC' continues no",
        ),
        (
            [[1, 2], [0, 4]],
            "1 tags in 1 of 2 training rows break the scheme IOB2, the first in row 2: word 2, 'I-LOC'",
        ),
        ([["B-PER", "I-PER"], ["I-PER", "X"], None, ["O", None]], None),
    ],
)
def test_tags_that_break_the_scheme_are_counted(rows, said, caplog):
    labels = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    task = TokenClassification("tokens", "tags", 16, labels).resolve_labels(rows)
    assert task.labels == labels
    assert (said in caplog.text) if said else not caplog.records


def test_labels_that_are_no_bio_tags_have_accuracy():
    task = TokenClassification("tokens", "tags", 16).resolve_labels([["NOUN", "VERB"], ["NOUN"]])
    assert task.labels == ("NOUN", "VERB")
    assert task.default_metric == "accuracy"
    with pytest.raises(DataError, match="different labels"):
        TokenClassification("tokens", "tags", 16).resolve_labels([["O"], ["O"]])
