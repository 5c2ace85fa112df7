"""Parallel corpora: two files of one text a line, where line N of one belongs to line N of the other."""

from __future__ import annotations

from pathlib import Path

from jaxtune.data.records import Record, bad_row, fingerprint_of
from jaxtune.data.sources.text import Lines
from jaxtune.errors import DataError


class _AllLines(Lines):
    keeps_blank = True


class ParallelLines:
    """Columns ``source`` and ``target``."""

    columns: tuple[str, ...] = ("source", "target")

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = _AllLines(source), _AllLines(target)
        if len(self._source) != len(self._target):
            raise DataError(
                f"{source} has {len(self._source):,} lines and {target} has {len(self._target):,}; expected as many in "
                "both, line N of one being the translation of line N of the other. Align them again, or give the "
                "pairs as one jsonl: file"
            )
        self.label_names: dict[str, tuple[str, ...]] = {}
        self.fingerprint: str = fingerprint_of(["parallel", source, target])

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        row = {"source": self._source.line(index).strip(), "target": self._target.line(index).strip()}
        empty = " and ".join(f"the {name}" for name, text in row.items() if not text)
        if empty:
            raise bad_row(self.where(index), f"{empty} of this pair is empty")
        return row

    def where(self, index: int) -> str:
        """``SOURCE:LINE | TARGET:LINE``."""
        return f"{self._source.where(index)} | {self._target.where(index)}"
