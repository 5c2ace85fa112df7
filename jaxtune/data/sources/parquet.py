"""Rows of a Parquet file."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtune.data.records import Record, bad_row, fingerprint_of
from jaxtune.errors import DataError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

_KEPT_GROUPS = 3


class Parquet:
    """Row groups are read when a row of theirs is asked for; the last few are kept."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, pa.ArrowIOError, pa.ArrowNotImplementedError) as error:
            raise SourceError(f"{path}: not a readable Parquet file: {error}") from None
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._ends = np.cumsum(groups, dtype=np.int64)
        if not len(self):
            raise DataError(f"{path}: the file has no rows")
        schema = self._file.schema_arrow
        self.columns: tuple[str, ...] = tuple(schema.names)
        self.label_names: dict[str, tuple[str, ...]] = _label_names(schema.metadata or {})
        self.fingerprint: str = fingerprint_of([path])
        self._lock = threading.Lock()
        self._kept: dict[int, pa.Table] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        table = self._group(group)
        row: dict[str, Any] = {}
        for name in self.columns:
            try:
                row[name] = table.column(name)[index - start].as_py()
            except UnicodeDecodeError:
                raise bad_row(self.where(index), f"column {name!r} is not valid UTF-8") from None
        return row

    def where(self, index: int) -> str:
        """``FILE: row N``, counted from 1."""
        return f"{self.path}: row {index + 1}"

    def _group(self, group: int) -> pa.Table:
        import pyarrow as pa

        with self._lock:
            if group not in self._kept:
                # Threads that read ahead may stand in neighbouring groups; one kept group would be read
                # again for every row.
                while len(self._kept) >= _KEPT_GROUPS:
                    self._kept.pop(next(iter(self._kept)))
                try:
                    self._kept[group] = self._file.read_row_group(group)
                except (pa.ArrowInvalid, OSError) as error:
                    raise SourceError(f"{self.path}: row group {group} is damaged: {error}") from None
            return self._kept[group]


def _label_names(metadata: dict[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Class names that the `datasets` library writes into a file's metadata."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        # A tag for every word is a list of labels.
        inner = {name: f.get("feature") or f for name, f in features.items() if isinstance(f, dict)}
        return {
            name: tuple(feature["names"])
            for name, feature in inner.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
