"""The data of a run: sources → splits → labels → tokenised examples, checked on the way."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxtune.config import DataConfig
from jaxtune.data.examples import Examples
from jaxtune.data.reading import read_batches
from jaxtune.data.records import Records, Subset, fingerprint_of
from jaxtune.data.scanning import Scan, scan
from jaxtune.data.sources import Source, find_source
from jaxtune.data.splits import SPLITS, rehash, three_way
from jaxtune.data.tokenizing import tokenize_records
from jaxtune.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_LISTED = 20
"""Skipped rows that a summary names."""


@dataclass(frozen=True)
class Split:
    """One split, ready for planning."""

    name: str
    examples: Examples
    records: Records
    """``records[i]`` is the row of example ``i``."""
    labels: tuple[str, ...]
    fingerprint: str
    """Of tokens and targets: equal fingerprints mean equal examples."""
    skipped: list[str]
    """Why each skipped row was skipped, with file and line."""
    truncated_share: float
    """Share of the examples whose text was cut to ``data.max_length`` tokens."""
    duplicates: int = 0
    """Examples whose text is in the training split too."""
    origin: str = ""
    """Where the rows came from."""
    rows_fingerprint: str = ""
    """Of texts and labels as the source has them, whatever the tokenizer; blind to case and white space."""

    def summary(self) -> str:
        """A few lines for a person: rows, labels, lengths, what was cut, doubled or skipped."""
        lengths = self.examples.lengths
        low, middle, high, most = np.percentile(lengths, [5, 50, 95, 100]).astype(int)
        lines = [
            f"{self.name}: {len(self.examples):,} examples from {self.origin}",
            f"  {_balance(self.examples, self.labels)}",
            f"  tokens: 5 % {low}, median {middle}, 95 % {high}, longest {most}; {self.truncated_share:.1%} cut",
        ]
        if self.duplicates:
            share = self.duplicates / len(self.examples)
            lines.append(f"  {self.duplicates:,} ({share:.1%}) have a text that is in train too")
        if self.skipped:
            more = f"\n    and {len(self.skipped) - _LISTED:,} more" if len(self.skipped) > _LISTED else ""
            listed = "".join(f"\n    {reason}" for reason in self.skipped[:_LISTED])
            lines.append(f"  {len(self.skipped):,} rows skipped:{listed}{more}")
        return "\n".join(lines)


class Splits(dict[str, Split]):
    """``train`` and, where there are any, ``validation`` and ``test``; with the task settled on them."""

    task: Any
    """The task with its labels and class weights."""

    def __init__(self, splits: dict[str, Split], task: Any) -> None:
        super().__init__(splits)
        self.task = task

    @property
    def fingerprint(self) -> str:
        """Digest of all splits."""
        return fingerprint_of(part for name, split in self.items() for part in (name, split.fingerprint))

    def summary(self) -> str:
        """The summaries of all splits."""
        return "\n".join(split.summary() for split in self.values())


@dataclass(frozen=True)
class _Part:
    """Rows chosen for a split, before they are tokenised."""

    records: Records
    found: Scan
    origin: str
    indices: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def chosen(self, indices: np.ndarray, origin: str) -> _Part:
        return replace(self, indices=indices, origin=origin)

    @property
    def labels(self) -> list[Any]:
        return [self.found.labels[i] for i in self.indices]

    @property
    def hashes(self) -> np.ndarray:
        return self.found.hashes[self.indices]

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([np.ascontiguousarray(self.hashes).tobytes(), repr(self.labels)])


class Rows:
    """The rows of each split, before they are tokenised. Sources are opened and scanned at first use.

    Args:
      config: sources and sizes.
      columns: option → column that must be there, as ``Task.columns_read``; the label only where it is read.

    Raises (at first use):
      SourceError: a source is not there or cannot be read.
      DataError: a missing column, or a split without rows.
      ConfigError: no train source, or impossible shares.
    """

    def __init__(self, config: DataConfig, columns: Mapping[str, str]) -> None:
        self.config, self.columns = config, columns

    @cached_property
    def _parts(self) -> dict[str, _Part]:
        return _limited(_resolve(self.config, self.columns), self.config.limit)

    def texts(self) -> Iterator[str]:
        """The texts of the training rows (of pairs both), in order; what is no text is left out."""
        train = self._parts["train"]
        columns = [name for name in (self.config.text, self.config.text_pair) if name is not None]
        for rows in read_batches(Subset(train.records, train.indices), "reading texts"):
            for row in rows:
                values = () if isinstance(row, DataError) else (row.get(column) for column in columns)
                for value in values:
                    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                    if isinstance(text, str):
                        # A lone surrogate is no Unicode text, and the tokenizer's library refuses it.
                        yield text.encode("utf-8", "replace").decode()

    def tokenize(self, task: Any, tokenizer: Any) -> Splits:
        """Tokenised splits.

        Args:
          task: a task without labels yet; ``Splits.task`` is the one to train with.
          tokenizer: a Hugging Face fast tokenizer.

        Raises:
          DataError: a bad row (unless ``on_error="skip"``), an empty split, a single class.
        """
        config, train = self.config, self._parts["train"]
        names = train.records.label_names.get(config.label, ())
        task = task.resolve_labels(train.labels, tuple(config.labels), names)
        splits: dict[str, Split] = {}
        for name, part in self._parts.items():
            done = tokenize_records(
                Subset(part.records, part.indices),
                task,
                tokenizer,
                label=f"tokenising {name}",
                on_error=config.on_error,
                source_names=part.records.label_names.get(config.label, ()),
            )
            doubled = 0 if name == "train" else int(np.isin(part.hashes[done.kept], train.hashes).sum())
            splits[name] = Split(
                name=name,
                examples=done.examples,
                records=done.records,
                labels=task.labels,
                fingerprint=_fingerprint(done.examples),
                skipped=done.skipped,
                truncated_share=done.truncated / len(done.examples),
                duplicates=doubled,
                origin=part.origin,
                rows_fingerprint=part.fingerprint,
            )
            if doubled:
                logger.warning("%s: %d examples have a text that is in train too", name, doubled)
        return Splits(splits, task.with_class_weights(splits["train"].examples.targets))


def load_splits(config: DataConfig, task: Any, tokenizer: Any) -> Splits:
    """Everything from ``config.train`` to tokenised splits; see ``Rows`` and ``Rows.tokenize``.

    Validation and test come from their own source if one is given, else from the train source's own split of
    that name if its rows have labels, else from a share of the training rows by a stable hash of their texts.
    """
    return Rows(config, task.columns_read).tokenize(task, tokenizer)


def _resolve(config: DataConfig, columns: Mapping[str, str]) -> dict[str, _Part]:
    """The rows of each split, in the order train, validation, test."""
    if not config.train:
        raise ConfigError("data.train: expected a source, as csv:reviews.csv or tfds:glue/sst2")
    shares = config.holdout
    if min(shares) < 0 or sum(shares) >= 1:
        raise ConfigError(f"data.holdout: expected two shares of 0 or more with a sum below 1, got {shares}")
    source = find_source(config.train)
    train = _open(
        config, columns, source, "train" if "train" in source.splits and not source.wanted else None
    )
    given = {"validation": config.validation, "test": config.test}
    parts = {"train": train}
    held = three_way(rehash(train.found.hashes), shares)
    keep = [held["train"]]
    for at, (name, spec) in enumerate(given.items()):
        part = _given(config, columns, name, spec) or _own(config, columns, source, name)
        if part is None and shares[at] > 0:
            part = train.chosen(held[name], f"{shares[at]:.0%} of {config.train} by a hash of the text")
            _check_held(part, name, config, len(train.found.hashes))
        else:
            keep.append(held[name])
        if part is not None:
            parts[name] = part
    parts["train"] = train.chosen(np.sort(np.concatenate(keep)), train.origin)
    if not len(parts["train"].indices):
        raise DataError(f"{config.train}: no row is left to train on; lower data.holdout or add rows")
    return {name: parts[name] for name in SPLITS if name in parts}


def _given(config: DataConfig, columns: Mapping[str, str], name: str, spec: str | None) -> _Part | None:
    if spec is None:
        return None
    source = find_source(spec)
    return _open(config, columns, source, name if name in source.splits and not source.wanted else None)


def _own(config: DataConfig, columns: Mapping[str, str], source: Source, name: str) -> _Part | None:
    """The train source's own split of that name, unless its labels are withheld."""
    if source.wanted or name not in source.splits:
        return None
    part = _open(config, columns, source, name)
    if "data.label" in columns and all(label in (None, "", -1) for label in part.found.labels):
        logger.info("%s[%s] has no labels and is not used", source.spec, name)
        return None
    return part


def _open(config: DataConfig, columns: Mapping[str, str], source: Source, split: str | None) -> _Part:
    records = source.open(split)
    if not records.columns:
        records[0]  # no row could be read: the error of the first says why
    origin = f"{source.spec}[{split}]" if split else source.spec
    for option, column in columns.items():
        if column not in records.columns:
            raise DataError(
                f"{origin}: there is no column {column!r} ({option}); the columns are {_listed(map(repr, records.columns))}. "
                f"Name the right one with --{option.replace('_', '-')}"
            )
    found = scan(records, config.text, config.text_pair, config.label)
    return _Part(records, found, origin, np.arange(len(records)))


def _check_held(part: _Part, name: str, config: DataConfig, rows: int) -> None:
    if not len(part.indices):
        raise DataError(
            f"{config.train}: no row of its {rows} falls into {name}, which takes a share of them by a hash of the "
            f"text; give data.{name}, a larger share in data.holdout, or more rows"
        )


def _limited(parts: dict[str, _Part], limit: int | None) -> dict[str, _Part]:
    if limit is None:
        return parts
    if limit < 1:
        raise ConfigError(f"data.limit: expected at least 1, got {limit}")
    return {name: part.chosen(part.indices[:limit], part.origin) for name, part in parts.items()}


def _fingerprint(examples: Examples) -> str:
    # In an order of their own: columns that were added later leave older fingerprints as they are.
    order = ("tokens", "token_types", "offsets", "targets", "decoder_tokens", "decoder_offsets", "labels")
    columns = (examples.columns[name] for name in order if name in examples.columns)
    return fingerprint_of(np.ascontiguousarray(column).tobytes() for column in columns)


def _balance(examples: Examples, labels: tuple[str, ...]) -> str:
    targets = examples.targets
    if "labels" in examples.columns:
        return f"tokens: {examples.lengths.sum():,} in all"
    if not labels:
        return (
            f"targets: mean {targets.mean():.3f}, deviation {targets.std():.3f}, "
            f"from {targets.min():.3f} to {targets.max():.3f}"
        )
    counts = np.bincount(targets.astype(np.int64), minlength=len(labels))
    shown = [f"{label} {count:,} ({count / len(targets):.1%})" for label, count in zip(labels, counts)]
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return f"labels: {_listed(shown[:_LISTED])}{more}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
