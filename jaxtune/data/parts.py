"""Sources → the rows of each split, before they are tokenised: given splits, shares by hash, folds, mixed sources."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxtune.config import DataConfig
from jaxtune.data.records import Concatenated, Records, fingerprint_of
from jaxtune.data.sampling import mixed_sources
from jaxtune.data.scanning import Scan, scan
from jaxtune.data.sources import Source, find_source
from jaxtune.data.splits import SPLITS, fold_of, in_fold, places, places_by_label, rehash, three_way
from jaxtune.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Rows chosen for a split, before they are tokenised."""

    records: Records
    found: Scan
    origin: str
    indices: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    repeats: np.ndarray | None = None
    """How often each of ``records`` is seen per epoch on average; none is once."""
    notes: tuple[str, ...] = ()
    """What a summary says of them beside."""

    def chosen(self, indices: np.ndarray, origin: str | None = None) -> Part:
        """The same with other rows."""
        return replace(self, indices=indices, origin=self.origin if origin is None else origin)

    @property
    def labels(self) -> list[Any]:
        """Label column of the chosen rows."""
        return [self.found.labels[i] for i in self.indices]

    @property
    def hashes(self) -> np.ndarray:
        """Of the texts of the chosen rows."""
        return self.found.hashes[self.indices]

    @property
    def fingerprint(self) -> str:
        """Digest of the texts and labels of the chosen rows, whatever file they are in."""
        return fingerprint_of([np.ascontiguousarray(self.hashes).tobytes(), repr(self.labels)])


def resolve(config: DataConfig, columns: Mapping[str, str]) -> dict[str, Part]:
    """The rows of each split, in the order train, validation, test; of options that ``check_options`` lets pass.

    Raises:
      SourceError: a source is not there or cannot be read.
      DataError: a missing column, a split without rows, or sources whose labels do not agree.
      ConfigError: a fold of a source that has its own test split.
    """
    source = find_source(config.train)
    train = _open_train(config, columns, source)
    parts = _cut(config, columns, source, train)
    if not len(parts["train"].indices):
        raise DataError(f"{config.train}: no row is left to train on; lower data.holdout or add rows")
    held = [part.hashes for name, part in parts.items() if name != "train"]
    parts = {name: part.chosen(part.indices[: config.limit]) for name, part in parts.items()}
    if config.mix:
        hashes = np.concatenate([np.zeros(0, np.uint64), *held])
        parts["train"] = _mixed(config, columns, parts["train"], hashes)
    return {name: parts[name] for name in SPLITS if name in parts}


def check_options(config: DataConfig) -> None:
    """Check what can be checked without opening a source.

    Raises:
      ConfigError: an option that cannot be.
    """
    if not config.train:
        raise ConfigError("data.train: expected a source, as csv:reviews.csv or tfds:glue/sst2")
    shares = config.holdout
    if min(shares) < 0 or sum(shares) >= 1:
        raise ConfigError(f"data.holdout: expected two shares of 0 or more with a sum below 1, got {shares}")
    if config.limit is not None and config.limit < 1:
        raise ConfigError(f"data.limit: expected at least 1, got {config.limit}")
    mixed_sources(config.mix)
    if config.fold is not None:
        fold_of(config.fold)
        if config.test is not None:
            raise ConfigError(
                f"data.fold takes the test split from data.train, but data.test is {config.test!r}; leave one of them out"
            )


def _cut(config: DataConfig, columns: Mapping[str, str], source: Source, train: Part) -> dict[str, Part]:
    """Train, and what is held out of it or given."""
    by_label = ", label by label" if config.stratify else ""
    if config.fold is None:
        held = three_way(train.found.hashes, config.holdout, _places(config, train, train.indices))
        origins = [
            f"{share:.0%} of {config.train} by a hash of the text{by_label}" for share in config.holdout
        ]
    else:
        held = _fold(config, source, train)
        origins = [
            f"{config.holdout[0]:.0%} of the rest of {config.train} by a hash of the text{by_label}",
            f"fold {config.fold} of {config.train} by a hash of the text{by_label}",
        ]
    wanted = (config.holdout[0] > 0, config.fold is not None or config.holdout[1] > 0)
    given = {"validation": config.validation, "test": config.test}
    parts: dict[str, Part] = {}
    keep = [held["train"]]
    for at, (name, spec) in enumerate(given.items()):
        part = _given(config, columns, name, spec) or _own(config, columns, source, name)
        if part is None and wanted[at]:
            part = train.chosen(held[name], origins[at])
            _check_held(part, name, config, len(train.found.hashes))
        else:
            keep.append(held[name])
        if part is not None:
            parts[name] = part
    return {"train": train.chosen(np.sort(np.concatenate(keep))), **parts}


def _places(config: DataConfig, train: Part, rows: np.ndarray, times: int = 1) -> np.ndarray:
    """Where the rows lie in [0, 1), by their hashes hashed so many times more."""
    hashes = train.found.hashes[rows]
    for _ in range(times):
        hashes = rehash(hashes)
    if not config.stratify:
        return places(hashes)
    return places_by_label(hashes, [train.found.labels[i] for i in rows], train.origin)


def _fold(config: DataConfig, source: Source, train: Part) -> dict[str, np.ndarray]:
    """Test is one fold; validation a share of the others, by another hash."""
    assert config.fold is not None
    if not source.wanted and "test" in source.splits:
        raise ConfigError(
            f"data.fold takes the test split from data.train, but {source.spec} has its own; name the split whose "
            f"rows are to be folded, as {source.spec}[train]"
        )
    test = in_fold(_places(config, train, train.indices), fold_of(config.fold))
    rest = np.flatnonzero(~test)
    held = _places(config, train, rest, times=2) < config.holdout[0]
    return {"train": rest[~held], "validation": rest[held], "test": np.flatnonzero(test)}


def _mixed(config: DataConfig, columns: Mapping[str, str], train: Part, held: np.ndarray) -> Part:
    """Train with the rows of the other sources, except those with a text that is held out."""
    parts, weights, notes = [train], [1.0], []
    for spec, weight in mixed_sources(config.mix):
        part = _open_train(config, columns, find_source(spec))
        leaks = np.isin(part.hashes, held)
        part = part.chosen(np.flatnonzero(~leaks)[: config.limit])
        note = (
            f"of these {len(part.indices):,} from {part.origin}, seen {weight:g} times per epoch on average"
        )
        if leaks.any():
            note += f"; {leaks.sum():,} others left out, whose text is in validation or test"
        if not len(part.indices):
            raise DataError(f"data.mix: every row of {part.origin} has a text of validation or test")
        notes.append(note)
        parts.append(part)
        weights.append(weight)
    records = Concatenated([part.records for part in parts])
    records.label_names = dict(train.records.label_names)
    if "data.label" in columns:
        records.label_names[config.label] = _common_names(config, parts)
    starts = np.cumsum([0, *(len(part.records) for part in parts)])
    return Part(
        records,
        Scan(
            np.concatenate([part.found.hashes for part in parts]),
            [label for part in parts for label in part.found.labels],
        ),
        " and ".join(part.origin for part in parts),
        np.concatenate([start + part.indices for start, part in zip(starts, parts)]),
        np.repeat(weights, [len(part.records) for part in parts]),
        tuple(notes),
    )


def _common_names(config: DataConfig, parts: list[Part]) -> tuple[str, ...]:
    """The class names that integer labels index into, the same in all sources.

    Raises:
      DataError: integer labels mean other classes in one source than in another, or cannot be compared.
    """
    names = [tuple(part.records.label_names.get(config.label, ())) for part in parts]
    whole = [_is_numbered(part.labels) for part in parts]
    numbered = [at for at in range(len(parts)) if whole[at] and names[at]]
    for at in numbered[1:]:
        if names[at] != names[numbered[0]]:
            first, second = parts[numbered[0]], parts[at]
            raise DataError(
                f"data.mix: labels of {first.origin} are numbers of {', '.join(names[numbered[0]])}, those of "
                f"{second.origin} of {', '.join(names[at])}; write the labels as names, or mix sources that agree"
            )
    if numbered:
        return names[numbered[0]]
    if not config.labels and len(set(whole)) > 1:
        number, text = parts[whole.index(True)], parts[whole.index(False)]
        raise DataError(
            f"data.mix: labels of {number.origin} are numbers, those of {text.origin} are names; say with "
            "--data.labels which names the numbers 0, 1, … stand for"
        )
    return names[0]


def _is_numbered(labels: Iterable[Any]) -> bool:
    """Whether labels are numbers (also written as text), as far as there are any; of lists the first tells."""
    for label in labels:
        value = label[0] if isinstance(label, list) and label else label
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if value is None or (isinstance(value, list | str) and not value):
            continue
        try:
            float(value)
        except (TypeError, ValueError):
            return False
    return True


def _open_train(config: DataConfig, columns: Mapping[str, str], source: Source) -> Part:
    own = "train" in source.splits and not source.wanted
    return _open(config, columns, source, "train" if own else None)


def _given(config: DataConfig, columns: Mapping[str, str], name: str, spec: str | None) -> Part | None:
    if spec is None:
        return None
    source = find_source(spec)
    return _open(config, columns, source, name if name in source.splits and not source.wanted else None)


def _own(config: DataConfig, columns: Mapping[str, str], source: Source, name: str) -> Part | None:
    """The train source's own split of that name, unless its labels are withheld."""
    if source.wanted or name not in source.splits:
        return None
    part = _open(config, columns, source, name)
    if "data.label" in columns and all(label in (None, "", -1) for label in part.found.labels):
        logger.info("%s[%s] has no labels and is not used", source.spec, name)
        return None
    return part


def _open(config: DataConfig, columns: Mapping[str, str], source: Source, split: str | None) -> Part:
    records = source.open(split)
    if not records.columns:
        records[0]  # no row could be read: the error of the first says why
    origin = f"{source.spec}[{split}]" if split else source.spec
    for option, column in columns.items():
        if column not in records.columns:
            there = ", ".join(map(repr, records.columns))
            raise DataError(
                f"{origin}: there is no column {column!r} ({option}); the columns are {there}. "
                f"Name the right one with --{option.replace('_', '-')}"
            )
    label = columns.get("data.label", columns.get("data.target", config.label))
    found = scan(records, config.text, config.text_pair, label)
    return Part(records, found, origin, np.arange(len(records)))


def _check_held(part: Part, name: str, config: DataConfig, rows: int) -> None:
    if not len(part.indices):
        raise DataError(
            f"{config.train}: no row of its {rows} falls into {name}, which takes a share of them by a hash of the "
            f"text; give data.{name}, a larger share in data.holdout, or more rows"
        )
