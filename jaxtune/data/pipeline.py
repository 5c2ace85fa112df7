"""The data of a run: sources → splits → labels → tokenised examples, checked on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxtune.config import DataConfig
from jaxtune.data.augmentation import Augmentation, Augmented, Rewrite, augment
from jaxtune.data.checks import counts_of, notes_on
from jaxtune.data.examples import Examples
from jaxtune.data.parts import Part, check_options, resolve
from jaxtune.data.reading import read_batches
from jaxtune.data.records import Records, Subset, fingerprint_of
from jaxtune.data.sampling import few_shot, oversampled
from jaxtune.data.scanning import as_text
from jaxtune.data.tokenizing import Tokenized, tokenize_records
from jaxtune.data.wordnet import open_wordnet
from jaxtune.errors import DataError

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
    rows: np.ndarray
    """Numbers of those rows [n]: equal ones, side by side, are pieces of one row."""
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
    repeats: np.ndarray | None = None
    """How often each example is seen per epoch on average [n]; none is once."""
    notes: tuple[str, ...] = ()
    """Lines of the summary about what else there is to know."""

    def summary(self) -> str:
        """A few lines for a person: rows, labels, lengths, what was cut, doubled or skipped."""
        lines = [
            f"{self.name}: {len(self.examples):,} examples from {self.origin}",
            f"  {_balance(self.examples, self.labels)}",
            f"  tokens: {_spread(self.examples.lengths)}; {self.truncated_share:.1%} cut",
        ]
        if self.examples.decoder_lengths is not None:
            lines.append(f"  target tokens: {_spread(self.examples.decoder_lengths)}")
        if self.duplicates:
            share = self.duplicates / len(self.examples)
            lines.append(f"  {self.duplicates:,} ({share:.1%}) have a text that is in train too")
        lines += [f"  {note}" for note in self.notes]
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


class Rows:
    """The rows of each split, before they are tokenised. Sources are opened and scanned at first use.

    Args:
      config: sources and sizes.
      columns: option → column that must be there, as ``Task.columns_read``; the label only where it is read.
      rewrite: translates texts there and back, for ``data.augment``.

    Raises (a ConfigError at once, the others at first use):
      SourceError: a source is not there or cannot be read.
      DataError: a missing column, or a split without rows.
      ConfigError: no train source, or options that cannot be.
    """

    def __init__(
        self, config: DataConfig, columns: Mapping[str, str], rewrite: Rewrite | None = None
    ) -> None:
        self.config, self.columns, self._rewrite = config, columns, rewrite
        check_options(config)
        self._augmentation = Augmentation.parse(config.augment)

    @cached_property
    def _parts(self) -> dict[str, Part]:
        return resolve(self.config, self.columns)

    def texts(self) -> Iterator[str]:
        """The texts of the training rows (also of pairs, targets and choices), in order; what is no text is left out."""
        train = self._parts["train"]
        read = ("data.text", "data.text_pair", "data.target", "data.choices")
        columns = [name for option, name in self.columns.items() if option.partition("[")[0] in read]
        for rows in read_batches(Subset(train.records, train.indices), "reading texts"):
            for row in rows:
                values = () if isinstance(row, DataError) else (row.get(column) for column in columns)
                for value in values:
                    text = as_text(value)
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

        def made(records: Records, name: str) -> Tokenized:
            own = tuple(records.label_names.get(config.label, ()))
            label = f"tokenising {name}"
            return tokenize_records(
                records, task, tokenizer, label=label, on_error=config.on_error, source_names=own
            )

        splits: dict[str, Split] = {}
        for name, part in self._parts.items():
            if name == "train":
                part = train = self._few(part, made, task.labels)
                splits[name] = self._training(part, made, task.labels)
                continue
            done = made(Subset(part.records, part.indices), name)
            doubled = int(np.isin(part.hashes[done.rows], train.hashes).sum())
            splits[name] = _split(name, part, done, task.labels, duplicates=doubled)
            if doubled:
                logger.warning("%s: %d examples have a text that is in train too", name, doubled)
        return Splits(splits, task.with_class_weights(splits["train"].examples.targets))

    def _few(self, part: Part, made: _Make, labels: tuple[str, ...]) -> Part:
        """The part with ``data.shots`` rows of each label, or all of it."""
        config = self.config
        if config.shots is None:
            return part
        done = made(Subset(part.records, part.indices), "train")
        classes = counts_of(done.examples, labels).any() and done.examples.targets.ndim == 1
        targets = done.examples.targets if classes else None
        chosen = few_shot(part.hashes[done.rows], targets, config.shots, config.shots_seed, labels)
        note = f"{config.shots} rows {'of each label' if classes else 'in all'}, of {len(part.indices):,}"
        few = part.chosen(part.indices[done.rows[chosen]])
        return replace(few, notes=(*part.notes, note))

    def _training(self, part: Part, made: _Make, labels: tuple[str, ...]) -> Split:
        """The training split: rows, changed copies of them, and how often each is seen."""
        config, notes = self.config, part.notes
        rows: Records = Subset(part.records, part.indices)
        repeats = None if part.repeats is None else part.repeats[part.indices]
        if config.augment:
            rows = self._augmented(rows)
            repeats = None if repeats is None else repeats[rows.origins]
            notes += (f"{len(rows) - len(part.indices):,} changed copies beside the rows of the source",)
        done = made(rows, "train")
        repeats = None if repeats is None else repeats[done.rows]
        if config.balance == "oversample":
            targets = done.examples.targets
            repeats = oversampled(targets, np.ones(len(targets)) if repeats is None else repeats)
            shown = sorted(zip(repeats[np.unique(targets, return_index=True)[1]], np.unique(targets)))
            notes += (
                f"all labels seen equally often: {labels[shown[-1][1]]} {shown[-1][0]:.3g} times per epoch",
            )
        notes += notes_on(part, done.examples, labels, labelled="data.label" in self.columns)
        return _split("train", part, done, labels, repeats=repeats, notes=notes)

    def _augmented(self, rows: Records) -> Augmented:
        wish, config = self._augmentation, self.config
        words = {"synonyms", "insert"} & set(wish.shares)
        synonyms = open_wordnet(config.wordnet).synonyms if words else None
        return augment(
            rows, config.text, wish, config.augment_copies, synonyms=synonyms, rewrite=self._rewrite
        )


_Make = Callable[[Records, str], Tokenized]
"""Rows and the name of their split → examples."""


def _split(name: str, part: Part, done: Tokenized, labels: tuple[str, ...], **more: Any) -> Split:
    return Split(
        name=name,
        examples=done.examples,
        records=done.records,
        rows=done.rows,
        labels=labels,
        fingerprint=_fingerprint(done.examples),
        skipped=done.skipped,
        truncated_share=done.truncated / len(done.examples),
        origin=part.origin,
        rows_fingerprint=part.fingerprint,
        **more,
    )


def load_splits(config: DataConfig, task: Any, tokenizer: Any) -> Splits:
    """Everything from ``config.train`` to tokenised splits; see ``Rows`` and ``Rows.tokenize``.

    Validation and test come from their own source if one is given, else from the train source's own split of
    that name if its rows have labels, else from a share of the training rows by a stable hash of their texts.
    Changed copies (``data.augment``) are for training only and not among them.
    """
    return Rows(replace(config, augment=()), task.columns_read).tokenize(task, tokenizer)


def _fingerprint(examples: Examples) -> str:
    # In an order of their own: columns that were added later leave older fingerprints as they are.
    order = (
        "tokens",
        "token_types",
        "offsets",
        "targets",
        "decoder_tokens",
        "decoder_offsets",
        "labels",
        "parts",
    )
    columns = (examples.columns[name] for name in order if name in examples.columns)
    return fingerprint_of(np.ascontiguousarray(column).tobytes() for column in columns)


def _spread(lengths: np.ndarray) -> str:
    low, middle, high, most = np.percentile(lengths, [5, 50, 95, 100]).astype(int)
    return f"5 % {low}, median {middle}, 95 % {high}, longest {most}"


def _balance(examples: Examples, labels: tuple[str, ...]) -> str:
    targets = examples.targets
    if "char_starts" in examples.columns:
        return f"windows that hold their answer: {(targets.max(axis=1) > 0).mean():.1%}"
    if "labels" in examples.columns or not (labels or targets.any()):  # a text is its own label
        return f"tokens: {examples.lengths.sum():,} in all"
    if examples.parts is not None:
        counts, right = (examples.parts > 0).sum(axis=1), np.bincount(targets)
        shares = ", ".join(f"{place} {count / len(targets):.1%}" for place, count in enumerate(right))
        return f"choices: {counts.min()} to {counts.max()}; right is {shares}"
    if not labels:
        return (
            f"targets: mean {targets.mean():.3f}, deviation {targets.std():.3f}, "
            f"from {targets.min():.3f} to {targets.max():.3f}"
        )
    counts = counts_of(examples, labels)
    shown = [f"{label} {count:,} ({count / len(targets):.1%})" for label, count in zip(labels, counts)]
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return f"labels: {', '.join(shown[:_LISTED])}{more}"
