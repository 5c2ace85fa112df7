"""Changed copies of training rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.config import DataConfig
from jaxtune.data.augmentation import OPERATIONS, Augmentation, augment, change
from jaxtune.data.pipeline import Rows, load_splits
from jaxtune.data.sources import open_source
from jaxtune.data.wordnet import WordNet
from jaxtune.errors import ConfigError, SourceError

SYNONYMS = {"film": ("movie", "motion picture"), "good": ("fine",), "slow": ("sluggish",)}


def synonyms(word):
    return SYNONYMS.get(word, ())


def wish(*entries):
    return Augmentation.parse(entries)


def write_wordnet(folder):
    """WordNet's files with two meanings of "film" and "go(p)", at their true places in bytes."""
    folder.mkdir(parents=True)
    licence = "  1 This is a licence.\n"
    meanings = {
        "noun": [
            "06 n 02 film 0 motion_picture 0 001 @ 00000000 n 0000 | a story",
            "06 n 01 film 1 000 | skin",
        ],
        "adj": ["00 s 0a Film 0 go(p) 0 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 000 | w_cnt is hexadecimal"],
    }
    for part in ("noun", "verb", "adj", "adv"):
        data, offsets = licence, []
        for meaning in meanings.get(part, ()):
            offsets.append(len(data.encode()))
            data += f"{offsets[-1]:08d} {meaning}\n"
        (folder / f"data.{part}").write_text(data)
        listed = " ".join(f"{offset:08d}" for offset in offsets)
        entry = f"film {part[0]} {len(offsets)} 1 @ {len(offsets)} 0 {listed}  \n" if offsets else ""
        (folder / f"index.{part}").write_text(licence + entry)
    return folder


def test_synonyms_are_read_from_wordnets_files(tmp_path):
    words = WordNet(write_wordnet(tmp_path / "dict"))
    assert words.synonyms("film") == ("motion picture", "go", *"abcdefgh")
    assert words.synonyms("films") == ()
    (tmp_path / "dict" / "data.adv").unlink()
    with pytest.raises(SourceError, match=r"data\.wordnet.*has no data\.adv"):
        WordNet(tmp_path / "dict")


def test_damaged_files_of_wordnet_are_named(tmp_path):
    folder = write_wordnet(tmp_path / "dict")
    (folder / "data.noun").write_text("x" + (folder / "data.noun").read_text())
    with pytest.raises(SourceError, match=r"data\.noun: no meaning at byte 23"):
        WordNet(folder).synonyms("film")
    (folder / "index.verb").write_text("go v two 1\n")
    with pytest.raises(SourceError, match=r"index\.verb:1: not a line of WordNet's index"):
        WordNet(folder).synonyms("go")


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=80), st.sampled_from(OPERATIONS), st.sampled_from([0.05, 0.5, 1.0]), st.integers(0, 2)
)
def test_a_copy_differs_is_not_empty_and_is_always_the_same(text, operation, share, copy):
    asked = wish(f"{operation}={share}")
    made = change(text, asked, copy, synonyms)
    assert made == change(text, asked, copy, synonyms)
    if made is not None:
        assert made.strip()
        assert made.casefold().split() != text.casefold().split()


@pytest.mark.parametrize(
    ("operation", "text", "copies"),
    [
        ("synonyms=1", "Film! GOOD film, (slow).", {"Movie! FINE movie, (sluggish).", "Motion picture! FINE motion picture, (sluggish)."}),
        ("synonyms=0.1", "They are of the", {None}),
        ("swap=0.1", "Good film.", {"Film good."}),
        ("swap=1", "good", {None}),
        ("insert=0.1", "Good", {"Fine good", "Good fine"}),
        ("insert=1", "nothing known", {None}),
        ("delete=1", "a good, film.", {"a."}),
        ("delete=0.5", "Good film.", {"Film.", "Good.", None}),
        ("delete=0.5", "a good, film", {"a, film", "good, film", "a good,", "a,", "film", "good,", None}),
        ("delete=1", "!!!", {None}),
    ],
)  # fmt: skip
def test_words_change_and_marks_and_capitals_stay(operation, text, copies):
    found = {change(text, wish(operation), copy, synonyms) for copy in range(60)}
    assert found <= copies
    assert len(found) >= min(2, len(copies))


def test_the_share_says_how_many_words_change():
    text = " ".join(f"w{i}" for i in range(100))
    assert sum(
        len(change(text, wish("delete=0.2"), copy).split()) for copy in range(50)
    ) / 50 == pytest.approx(80, abs=2)
    swapped = change(text, wish("swap=0.05"), 0).split()
    assert sorted(swapped) == sorted(text.split())
    assert 2 <= sum(a != b for a, b in zip(swapped, text.split())) <= 10
    assert change(text, wish("swap=0.05"), 0) != change(text, wish("swap=0.05", "seed=1"), 0)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["synonym=0.1"], "none of synonyms=SHARE"),
        (["swap"], "swap=SHARE"),
        (["swap=0"], "above 0 and at most 1"),
        (["swap=1.5"], "above 0 and at most 1"),
        (["swap=nan"], "above 0 and at most 1"),
        (["swap=0.1", "swap=0.2"], "given twice"),
        (["seed=1"], "nothing to do"),
        (["seed=-1", "swap=0.1"], "seed=NUMBER"),
        (["back_translation=runs/a"], "RUN_THERE,RUN_BACK"),
        (["back_translation=a,b,c"], "RUN_THERE,RUN_BACK"),
    ],
)
def test_what_cannot_be_augmented_with_is_named(entries, said):
    with pytest.raises(ConfigError, match=rf"data\.augment.*{said}"):
        Augmentation.parse(entries)
    with pytest.raises(ConfigError, match=r"data\.augment"):
        Rows(DataConfig(train="a.csv", augment=tuple(entries)), {})


ROWS = [{"text": f"a good film number {i}", "label": ("neg", "pos")[i % 2], "id": i} for i in range(200)]


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return f"jsonl:{path}"


def test_copies_stand_after_the_rows_and_say_where_they_are_from(tmp_path):
    records = open_source(
        write(tmp_path / "a.jsonl", [ROWS[0], "{oops", {"text": "!", "label": "pos"}, ROWS[3]])
    )
    made = augment(records, "text", wish("synonyms=0.1", "swap=0.1"), 2, synonyms=synonyms)
    assert made.origins[:4].tolist() == [0, 1, 2, 3]
    assert set(made.origins[4:].tolist()) == {0, 3}  # neither of the bad row, nor of one without words
    texts = [made[i]["text"] for i in range(4, len(made))]
    assert len(set(texts)) == len(texts) == 4
    for i in range(4, len(made)):
        source = records[int(made.origins[i])]
        assert {**made[i], "text": source["text"]} == source
        assert made[i]["text"] != source["text"]
        assert made.where(i) == f"{records.where(int(made.origins[i]))} (a changed copy)"
    assert made.where(1) == records.where(1)
    others = augment(records, "text", wish("synonyms=0.1", "swap=0.1", "seed=7"), 2, synonyms=synonyms)
    again = augment(records, "text", wish("synonyms=0.1", "swap=0.1"), 2, synonyms=synonyms)
    assert again.fingerprint == made.fingerprint != others.fingerprint


def test_texts_are_translated_there_and_back(tmp_path):
    records = open_source(write(tmp_path / "a.jsonl", ROWS[:4]))
    asked = []

    def rewrite(texts):
        asked.extend(texts)
        return [" ", texts[1].upper(), *(text.replace("good", "decent") for text in texts[2:])]

    made = augment(records, "text", wish("back_translation=there,back"), 3, rewrite=rewrite)
    assert asked == [row["text"] for row in ROWS[:4]]
    assert made.origins.tolist() == [0, 1, 2, 3, 2, 3]  # neither an empty answer nor the same text again
    assert made[4]["text"] == "a decent film number 2"
    with pytest.raises(ConfigError, match="back_translation needs runs"):
        augment(records, "text", wish("back_translation=there,back"), 1)


def test_only_the_training_split_gets_copies_and_they_share_their_labels(tmp_path, word_task):
    source = write(tmp_path / "a.jsonl", ROWS)
    plain = load_splits(DataConfig(train=source), word_task, None)
    config = DataConfig(
        train=source,
        augment=("synonyms=0.2", "swap=0.2"),
        augment_copies=2,
        wordnet=str(write_wordnet(tmp_path / "w")),
    )
    rows = Rows(config, word_task.columns_read)
    splits = rows.tokenize(word_task, None)
    train, before = splits["train"], plain["train"]
    count = len(before.examples)
    assert 2 * count < len(train.examples) <= 3 * count
    for name in ("validation", "test"):
        assert splits[name].fingerprint == plain[name].fingerprint
    for i in range(count, len(train.examples)):
        row = train.records[i]
        assert train.labels[train.examples[i]["target"]] == row["label"] == ROWS[row["id"]]["label"]
        assert row["text"] != ROWS[row["id"]]["text"]
    added = len(train.examples) - count
    assert f"{added:,} changed copies beside the rows" in train.summary()
    # An evaluation of a finished run sees the rows as they are.
    assert load_splits(config, word_task, None)["train"].fingerprint == before.fingerprint
    again = Rows(config, word_task.columns_read).tokenize(word_task, None)
    assert np.array_equal(again["train"].examples.tokens, train.examples.tokens)
