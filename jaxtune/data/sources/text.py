"""Rows from text files: JSON lines, CSV and TSV, one text a line, one text a file."""

from __future__ import annotations

import csv
import io
import json
import mmap
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxtune.data.records import Record, bad_row, fingerprint_of
from jaxtune.errors import DataError, SourceError

_SAMPLE = 100
"""Rows looked at to find the columns of JSON lines."""

_BOM = b"\xef\xbb\xbf"

_field_limit_lock = threading.Lock()


class Lines:
    """The non-blank lines of a UTF-8 file, found once and read where they lie."""

    keeps_blank = False
    """Whether blank lines count too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label_names: dict[str, tuple[str, ...]] = {}
        self.fingerprint: str = fingerprint_of([path])
        self._bytes = _mapped(path)
        ends = np.concatenate([*_newlines(self._bytes), [len(self._bytes)]]).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1] + 1])
        if self._bytes[:3] == _BOM:
            starts[0] = 3
        if starts[-1] == ends[-1]:  # nothing follows the last line end
            starts, ends = starts[:-1], ends[:-1]
        filled = [n for n, (start, end) in enumerate(zip(starts, ends)) if self._bytes[start:end].strip()]
        if not filled:
            raise DataError(f"{path}: the file has blank lines only; expected one row a line")
        if self.keeps_blank:
            filled = list(range(len(starts)))
        self._starts, self._ends, self._numbers = starts[filled], ends[filled], np.asarray(filled) + 1

    def __len__(self) -> int:
        return len(self._numbers)

    def where(self, index: int) -> str:
        """``FILE:LINE``."""
        return f"{self.path}:{self._numbers[index]}"

    def line(self, index: int) -> str:
        """Text of a line without its end. Raises DataError where it is not UTF-8."""
        raw = self._bytes[self._starts[index] : self._ends[index]]
        try:
            return raw.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            byte = raw[error.start]
            raise bad_row(
                self.where(index), f"not valid UTF-8 (byte 0x{byte:02x} at place {error.start} of the line)"
            ) from None


class JsonLines(Lines):
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(self._sample()))

    def __getitem__(self, index: int) -> Record:
        line, place = self.line(index), self.where(index)
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            hint = ""
            if index == 0 and line.lstrip().startswith("["):
                hint = "; the file seems to be one JSON array: write its items one a line (jq -c '.[]' FILE)"
            raise bad_row(place, f"not valid JSON: {error.msg} at column {error.colno}{hint}") from None
        except RecursionError:
            raise bad_row(place, "not usable JSON: nested too deeply") from None
        if not isinstance(row, dict):
            raise bad_row(place, f'expected a JSON object as {{"text": …}}, got {type(row).__name__}')
        return row

    def _sample(self) -> Iterator[str]:
        for index in range(min(_SAMPLE, len(self))):
            try:
                yield from self[index]
            except DataError:
                continue


class TextLines(Lines):
    """One text a line, in the column ``text``."""

    columns: tuple[str, ...] = ("text",)

    def __getitem__(self, index: int) -> Record:
        return {"text": self.line(index).strip()}


class TextFolder:
    """One folder per label, one text a file: columns ``text`` and ``label``."""

    columns: tuple[str, ...] = ("text", "label")

    def __init__(self, folder: Path) -> None:
        labels = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        self._files = [(p, label) for label in labels for p in sorted((folder / label).glob("*.txt"))]
        if not self._files:
            raise DataError(f"{folder}: expected one folder per label with .txt files in it, found none")
        self.label_names: dict[str, tuple[str, ...]] = {"label": tuple(labels)}
        self.fingerprint: str = fingerprint_of(
            part for path, _ in self._files for part in (path.relative_to(folder).as_posix(), path)
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        path, label = self._files[index]
        try:
            return {"text": path.read_text(encoding="utf-8-sig").strip(), "label": label}
        except UnicodeDecodeError as error:
            raise bad_row(str(path), f"not valid UTF-8 (byte {error.start})") from None

    def where(self, index: int) -> str:
        """Path of the file."""
        return str(self._files[index][0])


class DelimitedText:
    """CSV with a header line. Held in memory.

    Commas, or semicolons or tabs where the header has no comma; fields may be quoted. A ``.tsv`` file is
    separated by tabs and, as its standard says, knows no quotes.
    """

    label_names: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  never written to

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint: str = fingerprint_of([path])
        raw = bytes(_mapped(path))
        _refuse_binary(path, raw)
        # Bytes that are not UTF-8 become lone surrogates, so that only their own row is refused.
        text = raw.removeprefix(_BOM).decode("utf-8", errors="surrogateescape")
        header = text.split("\n", 1)[0]
        options: dict[str, Any] = {"delimiter": _delimiter(path, header)}
        if path.suffix.lower() == ".tsv":
            options["quoting"] = csv.QUOTE_NONE
        numbered = self._read(text, options)
        if not numbered or all(not name.strip() for name in numbered[0][1]):
            raise DataError(f"{path}: expected a header line with the names of the columns")
        self._header = [name.strip() for name in numbered[0][1]]
        # Columns without a name, as an index or what trailing separators make, are left out.
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(name for name in self._header if name))
        doubled = sorted({name for name in self.columns if self._header.count(name) > 1})
        if doubled:
            raise DataError(f"{path}:1: the header names the column {doubled[0]!r} more than once")
        self._rows = [(line, fields) for line, fields in numbered[1:] if fields]
        if not self._rows:
            raise DataError(f"{path}: the file has a header and no rows")

    def _read(self, text: str, options: dict[str, Any]) -> list[tuple[int, list[str]]]:
        rows: list[tuple[int, list[str]]] = []
        # A text may be longer than the 128 KiB that the csv module allows by default, for the whole process.
        with _field_limit_lock:
            limit = csv.field_size_limit(sys.maxsize)
            try:
                reader = csv.reader(io.StringIO(text, newline=""), strict=False, **options)
                first_line = 1
                for fields in reader:
                    rows.append((first_line, fields))
                    first_line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(f"{self.path}:{reader.line_num}: not valid CSV: {error}") from None
            finally:
                csv.field_size_limit(limit)
        return rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        fields = self._rows[index][1]
        if len(fields) != len(self._header):
            raise bad_row(
                self.where(index),
                f"{len(fields)} fields, expected {len(self._header)} as in the header "
                f"({', '.join(self._header)}); a separator inside a text must be quoted",
            )
        row = {name: field for name, field in zip(self._header, fields) if name}
        for name, field in row.items():
            # surrogateescape stands for every byte that is not UTF-8.
            if not field.isascii() and any("\udc80" <= c <= "\udcff" for c in field):
                raise bad_row(self.where(index), f"column {name!r} is not valid UTF-8")
        return row

    def where(self, index: int) -> str:
        """``FILE:LINE`` where the row begins."""
        return f"{self.path}:{self._rows[index][0]}"


def _refuse_binary(path: Path, raw: bytes) -> None:
    """Raises DataError for a table that is not text in UTF-8 from its header on."""
    header = raw.split(b"\n", 1)[0]
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{path}: the file is in UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"
        )
    if b"\0" in header or raw.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: this is no text file; expected CSV in UTF-8, unpacked, with a header line")
    try:
        header.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(
            f"{path}:1: the header line is not valid UTF-8. Convert the file: iconv -f LATIN1 -t UTF-8 FILE > NEW"
        ) from None


def _delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _mapped(path: Path) -> mmap.mmap:
    """The file's bytes, paged in as they are read. Raises DataError for an empty file."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise DataError(f"{path}: the file is empty") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _newlines(content: mmap.mmap) -> Iterator[np.ndarray]:
    """Places of all line ends, in pieces so that a large file needs little memory."""
    piece = 2**24
    for start in range(0, len(content), piece):
        found = np.flatnonzero(np.frombuffer(content[start : start + piece], np.uint8) == ord("\n"))
        yield found + start
