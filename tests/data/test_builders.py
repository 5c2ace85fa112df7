"""Our own data sets: small files in place of the packages, and the real ones."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest

from jaxtune.data.sources import find_source
from jaxtune.data.sources.builders import debian_descriptions, moby_dick, ner_finance, spam_assassin
from jaxtune.data.splits import hash_text, places
from jaxtune.errors import DataError

USERS = {name: os.environ.get(name) for name in ("JAXTUNE_CACHE", "HOME")}


def all_rows(source):
    return {split: [source.open(split)[i] for i in range(len(source.open(split)))] for split in source.splits}


@pytest.fixture
def located(monkeypatch):
    """``located(path)``: every source lies there."""

    def at(path):
        monkeypatch.setattr("jaxtune.hub.fetching.locate.locate", lambda source, **_: path)

    return at


def mail(body, headers="", subject="Hello"):
    return (
        f"From a@b  Thu Aug 22 12:36:23 2002\nReceived: secret\nSubject: {subject}\n{headers}\n{body}".encode(
            "latin-1"
        )
    )


HTML = (
    "<html><head><title>No</title><style>p {}</style></head><body>Buy<br>now&amp;<script>x()</script></body>"
)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (mail("one  two\r\n\r\n\r\n\r\nthree\x00\n"), "Hello\n\none two\n\nthree"),
        (mail("caf\xe9", "Content-Type: text/plain; charset=iso-8859-1\n"), "Hello\n\ncafé"),
        (mail("caf\xe9", "Content-Type: text/plain; charset=no-such\n"), "Hello\n\ncafé"),
        (mail("caf=E9", "Content-Transfer-Encoding: quoted-printable\n"), "Hello\n\ncafé"),
        (mail(HTML, "Content-Type: text/html\n"), "Hello\n\nBuy\nnow&"),
        (mail("x", subject="=?iso-8859-1?Q?Caf=E9?="), "Café\n\nx"),
        (mail("x", subject="=?no-such?Q?Caf=E9?="), "=?no-such?Q?Caf=E9?=\n\nx"),
        (mail("", "Content-Type: image/gif\n", subject=""), ""),
        (b"", ""),
    ],
)
def test_the_text_of_an_email(raw, text):
    assert spam_assassin.text_of(raw) == text


def test_plain_text_goes_before_html_and_attachments_are_left_out():
    parts = [
        "Content-Type: text/html\n\n<b>marked</b>",
        "Content-Type: text/plain\n\nplain",
        "Content-Type: text/plain\nContent-Disposition: attachment; filename=a\n\nattached",
    ]
    body = "".join(f"\n--X\n{part}" for part in parts) + "\n--X--\n"
    assert (
        spam_assassin.text_of(mail(body, "Content-Type: multipart/mixed; boundary=X\n")) == "Hello\n\nplain"
    )


def test_spam_assassin(located, tmp_path, caplog):
    path = tmp_path / "spam.tgz"
    groups = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")
    with tarfile.open(path, "w:gz") as archive:
        for number in range(300):
            group = groups[number % 5]
            raw = mail(f"{'Ham' if 'ham' in group else 'Spam'} number {number % 290}") if number else b""
            for end, content in ((".txt", raw), (".json", b"{}")):
                info = tarfile.TarInfo(f"package/data/{group}/{number:05}.0a{end}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    located(path)
    source = find_source("tfds:spam_assassin")
    rows = all_rows(source)
    assert source.open("test").label_names == {"label": ("ham", "spam")}
    together = [row for part in rows.values() for row in part]
    assert len(together) == 299
    assert "1 e-mails have neither subject nor text" in caplog.text
    assert all(("Spam" in row["text"]) == bool(row["label"]) for row in together)
    for split, part in rows.items():
        for row in part:
            place = places(np.array([hash_text(row["text"])], np.uint64))[0]
            assert split == ("validation" if place < 0.1 else "test" if place < 0.2 else "train")


def test_moby_dick(located, tmp_path):
    located(tmp_path)
    for number in range(1, 136):
        chapter = {"chapter": str(number), "title": f"Title {number}.", "text": f"Text {number}.\n"}
        (tmp_path / f"chapter_{number}.json").write_text(json.dumps(chapter))
    end = {"chapter": "Epilogue", "title": "Job.", "text": "Epilogue Job.\n\nThe end."}
    (tmp_path / "epilogue.json").write_text(json.dumps(end))
    rows = all_rows(find_source("tfds:moby_dick"))
    chapters = [row["chapter"] for part in rows.values() for row in part]
    assert chapters == [*(str(n) for n in range(1, 136)), "Epilogue"]
    assert {split: len(part) for split, part in rows.items()} == {"train": 121, "validation": 7, "test": 8}
    assert rows["train"][1] == {"text": "Text 2.", "chapter": "2", "title": "Title 2."}
    assert rows["test"][-1]["text"] == "The end."


@pytest.mark.parametrize("content", ["", "[]", '{"text": "x"}', '{"text": " ", "title": "x"}'])
def test_a_damaged_chapter_is_named(tmp_path, content):
    path = tmp_path / "chapter_1.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"chapter_1\.json: "):
        moby_dick.read_chapter(path, "1")


def sample(sentence, answer):
    return json.dumps({"input": [{"role": "system"}, {"content": sentence}], "ideal": answer})


def test_ner_finance(located, tmp_path, caplog):
    path = tmp_path / "samples.jsonl"
    lines = [
        sample(
            'Silicon Valley Bank (" Bank ") lends .',
            "[Silicon Valley Bank - ORGANIZATION, Bank - ORGANIZATION]",
        ),
        sample("Ann lends .", "[Bob - PERSON, Ann - PERSON]"),
        *(sample(f"Section {n} .", "No entities found") for n in range(100)),
    ]
    path.write_text("\n".join(lines) + "\n")
    located(path)
    rows = all_rows(find_source("tfds:ner_finance"))
    together = {" ".join(row["tokens"]): row["tags"] for part in rows.values() for row in part}
    assert len(together) == 102
    assert set(rows["train"][0]) == {"tokens", "tags"}
    bank = together['Silicon Valley Bank ( " Bank " ) lends .']
    assert bank == ["B-ORGANIZATION", "I-ORGANIZATION", "I-ORGANIZATION", "O", "O", "B-ORGANIZATION", *"OOOO"]
    assert together["Ann lends ."] == ["B-PERSON", "O", "O"]
    assert "1 entities do not stand in their sentence" in caplog.text
    assert "samples.jsonl:2: Bob - PERSON" in caplog.text


def test_answers_and_their_places():
    assert ner_finance.parse_answer("[A, B - C - PERSON,  D - LOCATION]") == [
        ("A, B - C", "PERSON"),
        ("D", "LOCATION"),
    ]
    tokens = ner_finance.tokenize("Bank of Rome and Bank, Rome")
    entities = [("Bank", "PERSON"), ("Bank of Rome", "ORGANIZATION"), ("Rome", "LOCATION"), ("...", "PERSON")]
    tags, lost = ner_finance.align(tokens, entities)
    assert tags == ["B-PERSON", "O", "B-LOCATION", "O", "O", "O", "O"]
    assert lost == [("Bank of Rome", "ORGANIZATION"), ("...", "PERSON")]
    # In the order they are listed, else where there is room.
    tags, lost = ner_finance.align(["b", "a", "b"], [("a", "PERSON"), ("b", "PERSON"), ("b", "LOCATION")])
    assert (tags, lost) == (["B-LOCATION", "B-PERSON", "B-PERSON"], [])


@pytest.mark.parametrize(
    "line",
    ["x", "[]", "{}", sample("a", "none"), sample("a", "[Bank - MONEY]"), sample(3, "No entities found")],
)
def test_a_damaged_sample_is_named(tmp_path, line):
    path = tmp_path / "samples.jsonl"
    path.write_text(sample("a", "No entities found") + "\n" + line)
    with pytest.raises(DataError, match=r"samples\.jsonl:2: expected a sentence and its entities"):
        ner_finance.read_sentences(path)


def descriptions(language, count=30):
    stanzas = [
        f"Package: p{n}\nDescription-md5: {n:032x}\nDescription-{language}: short {n} {language}\n"
        f" First  paragraph {n}\n in {language}.\n .\n Shared paragraph.\n .\n  * item {language} {n % 3}\n"
        for n in range(count)
    ]
    return "\n".join(stanzas)


@pytest.fixture
def debian(tmp_path, monkeypatch):
    for language in ("en", "fr", "de"):
        content = descriptions(language, 30 if language == "en" else 25)
        if language == "de":  # one description with a paragraph less
            content = content.replace(" .\n Shared paragraph.\n", "", 1)
        (tmp_path / f"Translation-{language}.gz").write_bytes(gzip.compress(content.encode()))
    monkeypatch.setattr("jaxtune.hub.fetching.apt.fetch_translations", lambda languages: tmp_path)
    monkeypatch.setattr(debian_descriptions, "HELD_OUT", 4)
    return tmp_path


def test_debian_paragraphs(debian):
    rows = all_rows(find_source("tfds:debian_descriptions/en-de"))
    assert {split: len(part) for split, part in rows.items()} == {"train": 19, "validation": 4, "test": 4}
    together = [row for part in rows.values() for row in part]
    pairs = {(row["en"], row["de"]) for row in together}
    assert len(pairs) == 27  # 24 first paragraphs, three items; what is the same in both is left out
    assert ("First paragraph 7 in en.", "First paragraph 7 in de.") in pairs
    assert ("* item en 1", "* item de 1") in pairs
    assert all(english.replace(" en", " de") == german for english, german in pairs)


def test_debian_summaries(debian):
    rows = all_rows(find_source("tfds:debian_descriptions/summaries"))
    together = {row["document"]: row["summary"] for part in rows.values() for row in part}
    assert len(together) == 30
    assert together["First paragraph 3 in en.\nShared paragraph.\n* item en 0"] == "short 3 en"


def test_what_is_held_out_is_in_no_other_split():
    pairs = [(f"Text {n}", f"{n} {variant}") for n in range(100) for variant in "ab"]
    splits = debian_descriptions.held_out([*pairs, ("TEXT  5", "5 c")], 10)
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 160 + int(any(b == "5 c" for _, b in splits["train"])),
        "validation": 10,
        "test": 10,
    }
    texts = {split: {hash_text(a) for a, _ in part} for split, part in splits.items()}
    assert sum(map(len, texts.values())) == len(set.union(*texts.values())) == 100
    # Rows added later move few others.
    more = debian_descriptions.held_out([*pairs, *((f"New {n}", "x") for n in range(10))], 10)
    assert len(set(more["test"]) & set(splits["test"])) >= 7


def test_too_few_descriptions_are_refused(debian, monkeypatch):
    monkeypatch.setattr(debian_descriptions, "HELD_OUT", 500)
    with pytest.raises(DataError, match="only 27 descriptions can be paired; expected at least 2,000"):
        find_source("tfds:debian_descriptions/en-de")


@pytest.mark.parametrize("content", ["", "Package: x\nDescription-en: y\n"])
def test_a_file_without_descriptions_is_named(tmp_path, content):
    path = tmp_path / "Translation-en.gz"
    path.write_bytes(gzip.compress(content.encode()))
    with pytest.raises(DataError, match=r"Translation-en\.gz: expected stanzas with Description-md5"):
        debian_descriptions.read_descriptions(path, "en")


@pytest.fixture
def users_cache(cache, monkeypatch):
    """The cache of whoever runs the tests: the packages are large."""
    for name, value in USERS.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "counts"),
    [("spam_assassin", (4836, 613, 597)), ("moby_dick", (121, 7, 8)), ("ner_finance", (942, 111, 111))],
)
def test_the_real_packages(users_cache, name, counts):
    source = find_source(f"tfds:{name}")
    assert tuple(len(source.open(split)) for split in source.splits) == counts


@pytest.mark.real
def test_the_real_entities(users_cache):
    rows = [row for part in all_rows(find_source("tfds:ner_finance")).values() for row in part]
    begun = Counter(tag for row in rows for tag in row["tags"] if tag.startswith("B-"))
    assert begun == {"B-PERSON": 753, "B-ORGANIZATION": 242, "B-LOCATION": 169}


@pytest.mark.real
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="Debian's descriptions come through apt")
@pytest.mark.parametrize(("config", "least"), [("en-de", 15_000), ("en-fr", 25_000), ("summaries", 50_000)])
def test_the_real_descriptions(users_cache, config, least):
    source = find_source(f"tfds:debian_descriptions/{config}")
    assert len(source.open("train")) >= least
    assert len(source.open("validation")) == len(source.open("test")) == 500
