"""Tagged sentences in columns, as CoNLL-2003 has them: one token a line, a blank line after each sentence."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxtune.data.records import Record, bad_row, fingerprint_of
from jaxtune.errors import DataError, SourceError

logger = logging.getLogger(__name__)

_INSIDE = re.compile(r"O|[BI]-.+")
_NAMES = {2: ("tokens", "tags"), 4: ("tokens", "pos", "chunk", "tags")}
"""Columns of a record by the number of columns in the file. Of other files the first and the last are taken."""


class ConllSentences:
    """Sentences as lists: ``tokens`` (first column) and ``tags`` (last column).

    Files of four columns, as CoNLL-2003's, give ``pos`` and ``chunk`` too. Lines of ``-DOCSTART-`` are left out.
    Columns in the older scheme IOB1, where B- only parts neighbours of one type, come as BIO (IOB2).
    """

    label_names: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  never written to

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint: str = fingerprint_of(["conll", path])
        self._sentences: list[list[tuple[int, list[str]]]] = list(_sentences(path))
        if not self._sentences:
            raise DataError(f"{path}: expected a token and its tag on each line, found no such line")
        self._first, fields = self._sentences[0][0]
        self._width = len(fields)
        if self._width < 2:
            raise DataError(
                f"{path}:{self._first}: expected at least two columns, a token and its tag, between blanks or "
                f"tabs; got {' '.join(fields)[:60]!r}"
            )
        names = _NAMES.get(self._width, ("tokens", "tags"))
        self._column = dict(zip(names, range(self._width)) if self._width == 4 else zip(names, (0, -1)))
        self.columns: tuple[str, ...] = tuple(self._column)
        self._iob1 = {name for name in names if name in ("tags", "chunk") and self._is_iob1(name)}
        if "tags" in self._iob1:
            logger.info("%s: the tags are in the scheme IOB1; they are read as BIO", path)

    def __len__(self) -> int:
        return len(self._sentences)

    def __getitem__(self, index: int) -> Record:
        rows = self._sentences[index]
        for number, fields in rows:
            if len(fields) != self._width or not all(fields):
                raise bad_row(
                    f"{self.path}:{number}",
                    f"{len(list(filter(None, fields)))} columns, expected {self._width} as in line {self._first}; "
                    f"got {' '.join(fields)[:60]!r}",
                )
            if any("\udc80" <= c <= "\udcff" for field in fields for c in field):
                raise bad_row(f"{self.path}:{number}", "not valid UTF-8")
        record = {name: [fields[at] for _, fields in rows] for name, at in self._column.items()}
        return {name: bio_of(v) if name in self._iob1 else v for name, v in record.items()}

    def where(self, index: int) -> str:
        """``FILE:LINE`` of the sentence's first token."""
        return f"{self.path}:{self._sentences[index][0][0]}"

    def _is_iob1(self, name: str) -> bool:
        at = self._column[name]
        whole = [s for s in self._sentences if all(len(fields) == self._width for _, fields in s)]
        return is_iob1([fields[at] for _, fields in sentence] for sentence in whole)


def is_iob1(sentences: Iterable[list[str]]) -> bool:
    """Whether tags are in IOB1: some entity begins with I-, and B- stands only right after its own type."""
    begins_inside = False
    for tags in sentences:
        before = "O"
        for tag in tags:
            if not _INSIDE.fullmatch(tag):
                return False
            same = before[2:] == tag[2:] and before != "O"
            if tag.startswith("B-") and not same:
                return False
            begins_inside |= tag.startswith("I-") and not same
            before = tag
    return begins_inside


def bio_of(tags: list[str]) -> list[str]:
    """IOB1 tags as BIO: every entity begins with B-."""
    before = ["O", *tags]
    return [
        "B" + tag[1:] if tag.startswith("I-") and last[2:] != tag[2:] else tag
        for last, tag in zip(before, tags)
    ]


def _sentences(path: Path) -> Iterator[list[tuple[int, list[str]]]]:
    """Numbered lines of each sentence, cut into fields."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not content:
        raise DataError(f"{path}: the file is empty")
    # Bytes that are not UTF-8 become lone surrogates, so that only their own sentence is refused.
    lines = content.decode("utf-8", errors="surrogateescape").split("\n")
    tabs = any("\t" in line for line in lines)
    sentence: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            if sentence:
                yield sentence
            sentence = []
        elif not (tabs and line.startswith("#") and "\t" not in line):  # a comment
            fields = line.split("\t") if tabs else line.split()
            sentence.append((number, [field.strip() for field in fields]))
    if sentence:
        yield sentence
