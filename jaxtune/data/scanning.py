"""A first look at all rows of a source: a hash of each text, and the label column."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt64

from jaxtune.data.reading import read_batches
from jaxtune.data.records import Record, Records, fingerprint_of
from jaxtune.data.splits import hash_text
from jaxtune.errors import DataError

_VERSION = "scan-2"


@dataclass(frozen=True)
class Scan:
    """What splitting and labels are settled from."""

    hashes: UInt64[np.ndarray, " n"]
    """Of every row's text (and text pair); rows without a text get one of their own."""
    labels: list[Any]
    """Value of the label column, none where there is none."""


def scan(records: Records, text: str, text_pair: str | None, label: str) -> Scan:
    """Scan all rows, or take the result from the cache. Bad rows raise nothing here.

    Args:
      records: the source.
      text: column of the text.
      text_pair: column of the second text, if any.
      label: column of the label.
    """
    from jaxtune.hub.fetching.cache import cache_dir, locked, publish

    key = fingerprint_of([_VERSION, records.fingerprint, repr((text, text_pair, label))])
    target = cache_dir() / "scans" / f"{key}.npz"
    cached = _load(target, len(records))
    if cached:
        return cached
    hashes = np.zeros(len(records), np.uint64)
    labels: list[Any] = []
    for rows in read_batches(records, "reading"):
        for row in rows:
            index = len(labels)
            words = None if isinstance(row, DataError) else _words(row, text, text_pair)
            hashes[index] = hash_text(f"\0row {index}" if words is None else words)
            labels.append(None if isinstance(row, DataError) else row.get(label))
    try:
        as_json = json.dumps(labels).encode()
    except (TypeError, ValueError):  # a label that is a list of arrays, say; the task will refuse it
        return Scan(hashes, labels)
    with locked(target), publish(target) as part, part.open("wb") as file:
        np.savez(file, hashes=hashes, labels=np.frombuffer(as_json, np.uint8))
    return Scan(hashes, labels)


def _words(row: Record, text: str, text_pair: str | None) -> str | None:
    values: Iterable[Any] = (row.get(column) for column in (text, text_pair) if column is not None)
    texts = [as_text(value) for value in values]
    # The separator keeps ("a b", "c") and ("a", "b c") apart.
    return "\x1f".join(texts) if all(isinstance(t, str) for t in texts) else None


def as_text(value: Any) -> Any:
    """Bytes as text, and a list of texts (the words of a sentence, say) as one text; anything else as it is."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _load(path: Path, count: int) -> Scan | None:
    try:
        with np.load(path) as columns:
            found = Scan(columns["hashes"], json.loads(columns["labels"].tobytes()))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if len(found.hashes) == len(found.labels) == count else None
