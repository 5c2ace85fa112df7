"""Raw rows with random access: what every reader of a source offers."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxtune.errors import DataError

Record = Mapping[str, Any]
"""One raw row: column name → value."""


class Records(Protocol):
    """The rows of one split. Reading is safe from several threads at once."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""

    @property
    def label_names(self) -> Mapping[str, tuple[str, ...]]:
        """For columns of which the source knows it: the class names in the order of their ids."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the content."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Row ``index``. Raises DataError, naming file and line, if it is damaged."""

    def where(self, index: int) -> str:
        """Place of row ``index`` for a message, as ``reviews.csv:17``."""


def bad_row(place: str, problem: str) -> DataError:
    """The error of a row that cannot be read, with what the user can do."""
    return DataError(
        f"{place}: {problem}. Correct the row; in training, --data.on-error skip leaves out bad rows."
    )


def fingerprint_of(parts: Iterable[str | bytes | Path]) -> str:
    """Hexadecimal digest of texts, bytes and the contents of files, in this order."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        else:
            digest = hashlib.sha256(part.encode() if isinstance(part, str) else part).digest()
        hasher.update(digest)
    return hasher.hexdigest()


class Concatenated:
    """Several sources one after the other, as the shards of one split."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(len(part) for part in self._parts))
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(c for part in self._parts for c in part.columns))
        self.label_names: dict[str, tuple[str, ...]] = {}
        for part in self._parts:
            self.label_names.update(part.label_names)
        self.fingerprint: str = fingerprint_of(part.fingerprint for part in self._parts)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        part, inner = self._find(index)
        return part[inner]

    def where(self, index: int) -> str:
        """Place of row ``index`` in its own file."""
        part, inner = self._find(index)
        return part.where(inner)

    def _find(self, index: int) -> tuple[Records, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        at = bisect_right(self._ends, index)
        return self._parts[at], index - (self._ends[at - 1] if at else 0)


class Subset:
    """Chosen rows of a source, in a chosen order."""

    def __init__(self, records: Records, indices: Sequence[int] | np.ndarray) -> None:
        self._records = records
        self._indices = indices
        self.columns: tuple[str, ...] = records.columns
        self.label_names: dict[str, tuple[str, ...]] = dict(records.label_names)

    @property
    def fingerprint(self) -> str:
        """Digest of the source's content and of which rows are chosen."""
        return fingerprint_of([self._records.fingerprint, np.asarray(self._indices, "<i8").tobytes()])

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._records[int(self._indices[index])]

    def where(self, index: int) -> str:
        """Place of the row in the source."""
        return self._records.where(int(self._indices[index]))
