"""Rows → tokenised examples, once: the result is kept in the cache folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from jaxtune.data.examples import Examples
from jaxtune.data.reading import BATCH, read_batches
from jaxtune.data.records import Record, Records, Subset, fingerprint_of
from jaxtune.errors import DataError

logger = logging.getLogger(__name__)

_VERSION = "examples-2"


class Tokenizes(Protocol):
    """The part of a task that this room calls."""

    def tokenize(
        self,
        records: Sequence[Record],
        tokenizer: Any,
        where: Callable[[int], str],
        *,
        labelled: bool = True,
        source_names: tuple[str, ...] | None = None,
    ) -> Sequence[Any]:
        """Per record an example, several, or the DataError that says why there is none."""


@dataclass(frozen=True)
class Tokenized:
    """Examples and the rows they were made of, row by row the same."""

    examples: Examples
    records: Records
    """Without the skipped rows."""
    rows: np.ndarray
    """Index of each example's row in the records that were given, int64 [n]; pieces of one row have the same."""
    skipped: list[str]
    """Why each skipped row was skipped, with its place."""
    truncated: int
    """Examples whose text was cut."""


def tokenize_records(
    records: Records,
    task: Tokenizes,
    tokenizer: Any,
    *,
    label: str = "tokenising",
    on_error: Literal["stop", "skip"] = "stop",
    labelled: bool = True,
    source_names: tuple[str, ...] | None = None,
) -> Tokenized:
    """Tokenise all rows of ``records``.

    Args:
      records: the rows.
      task: a task with its labels settled; its ``repr`` must name everything that its examples depend on.
      tokenizer: a Hugging Face fast tokenizer.
      label: what to call this while it goes on.
      on_error: raise at the first bad row, or leave bad rows out.
      labelled: False where the label column is not to be read.
      source_names: class names of this source, for integer labels.

    Raises:
      DataError: a bad row with ``on_error="stop"``, or no good row at all.
    """
    from jaxtune.hub.fetching.cache import cache_dir

    wanted = repr((task, labelled, source_names))
    key = fingerprint_of([_VERSION, records.fingerprint, wanted, _fingerprint(tokenizer)])
    folder = cache_dir() / "examples" / key
    cached = Examples.load(folder)
    if cached:
        examples, meta = cached
    else:
        examples, meta = _tokenize(records, task, tokenizer, label, on_error, labelled, source_names)
        examples.save(folder, meta)
    reasons = [str(reason) for _, reason in meta["skipped"]]
    if reasons and on_error == "stop":
        raise DataError(reasons[0])
    if not len(examples):
        raise DataError(f"{label}: all {len(records)} rows are bad, nothing is left; the first: {reasons[0]}")
    whole = not reasons and len(examples) == len(records)
    kept = np.arange(len(records)) if whole else np.asarray(meta["rows"], np.int64)
    return Tokenized(examples, records if whole else Subset(records, kept), kept, reasons, meta["truncated"])


def _tokenize(
    records: Records,
    task: Tokenizes,
    tokenizer: Any,
    label: str,
    on_error: str,
    labelled: bool,
    source_names: tuple[str, ...] | None,
) -> tuple[Examples, dict[str, Any]]:
    examples: list[dict[str, Any]] = []
    skipped: list[tuple[int, str]] = []
    row_of: list[int] = []
    for number, rows in enumerate(read_batches(records, label)):
        start = number * BATCH
        good = [start + i for i, row in enumerate(rows) if not isinstance(row, DataError)]
        made = task.tokenize(
            [row for row in rows if not isinstance(row, DataError)],
            tokenizer,
            lambda i, good=good: records.where(good[i]),  # type: ignore[misc]
            labelled=labelled,
            source_names=source_names,
        )
        results: list[Any] = list(rows)
        for index, result in zip(good, made, strict=True):
            results[index - start] = result
        for index, result in enumerate(results, start):
            if not isinstance(result, DataError):
                pieces = result if isinstance(result, list) else [result]
                examples += pieces
                row_of += [index] * len(pieces)
            elif on_error == "stop":
                raise result
            else:
                skipped.append((index, str(result)))
    truncated = sum(bool(example.get("truncated")) for example in examples)
    meta = {"skipped": skipped, "truncated": truncated, "rows": row_of}
    return Examples.from_list(examples), meta


def _fingerprint(tokenizer: Any) -> str:
    """Names the tokenizer by what it does, not by where it was loaded from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return fingerprint_of([type(tokenizer).__name__, backend.to_str() if backend else repr(tokenizer)])
