"""Where rows come from: one line of the configuration → records with random access.

``tfds:NAME[/CONFIG]``, ``hf:ORG/NAME[:CONFIG]``, and ``jsonl:``, ``csv:``, ``parquet:``, ``text:``, ``conll:`` or
``squad:`` followed by a path, a ``pypi:`` or ``npm:`` source or an address that fsspec opens; ``parallel:`` followed
by two of these. Without a kind the file's ending tells it. A folder of files is sorted into splits by the names of the
files. ``[SPLIT]`` at the end names one split of a source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtune.data.records import Concatenated, Records
from jaxtune.data.splits import SPLITS, by_split, split_of_name
from jaxtune.errors import SourceError

KINDS = ("tfds", "hf", "jsonl", "csv", "parquet", "text", "conll", "squad", "parallel")

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".conll": "conll",
}
_FOLDER_SUFFIXES = {
    "conll": (".conll", ".bio", ".iob", ".iob2", ".txt", ".train", ".testa", ".testb"),
    "squad": (".json",),
}
"""Endings that the files in a folder have of kinds that no ending tells."""

_PACKAGES = ("pypi", "npm")
_KIND = re.compile(r"([A-Za-z][A-Za-z0-9_]+):(?!//)(.*)", re.DOTALL)
_SPLIT = re.compile(r"(.+)\[([\w-]+)\]")


@dataclass(frozen=True)
class Source:
    """A source that was found; its rows are opened split by split."""

    spec: str
    splits: tuple[str, ...]
    """Its own splits; empty where it is one file without any."""
    wanted: str | None
    """The split that the specification names."""
    _open: Callable[[str | None], Records]

    def open(self, split: str | None = None) -> Records:
        """The rows of a split, of the split that the specification names, or of a source without splits.

        Raises:
          SourceError: there is no such split, or the files cannot be read.
          DataError: a file is empty or has no header.
        """
        split = split or self.wanted
        if split is None and len(self.splits) == 1:
            split = self.splits[0]
        if split is not None and split not in self.splits:
            has = f"it has {', '.join(self.splits)}" if self.splits else "it is one file without splits"
            raise SourceError(f"{self.spec}: there is no split {split!r}; {has}")
        if split is None and self.splits:
            raise SourceError(f"{self.spec}: name one of its splits, as {self.spec}[{self.splits[0]}]")
        return self._open(split)


def find_source(spec: str) -> Source:
    """Find (download, prepare) what a specification names.

    Raises:
      SourceError: unknown kind, nothing there, or not reachable; the message says what to do.
    """
    named = _SPLIT.fullmatch(spec)
    wanted = named[2] if named else None
    kind, rest = _kind_of(named[1] if named else spec)
    if kind == "tfds":
        splits, opener = _tfds(rest)
    elif kind == "hf":
        splits, opener = _hub(rest)
    elif kind == "parallel":
        splits, opener = _parallel(rest, spec)
    else:
        splits, opener = _files(kind, rest, spec)
    return Source(spec, splits, wanted, opener)


def open_source(spec: str, split: str | None = None) -> Records:
    """The rows of one split of a source. Errors as :func:`find_source` and :meth:`Source.open`."""
    return find_source(spec).open(split)


def _kind_of(spec: str) -> tuple[str, str]:
    match = _KIND.fullmatch(spec)
    if match and match[1] in KINDS:
        return match[1], match[2]
    if match and match[1] not in _PACKAGES:
        listed = ", ".join((*KINDS, *_PACKAGES))
        raise SourceError(f"{spec!r}: there is no kind of source {match[1]!r}; expected one of {listed}")
    inner = spec.rpartition("::")[2] if match else spec
    kind = _SUFFIXES.get(Path(inner).suffix.lower())
    if not spec or kind is None:
        raise SourceError(
            f"{spec!r}: cannot tell what kind of data this is; put {', '.join(f'{k}:' for k in KINDS)} before it"
        )
    return kind, spec


def _tfds(name: str) -> tuple[tuple[str, ...], Callable[[str | None], Records]]:
    from jaxtune.data.sources.tfds import TfdsRecords, open_tfds

    builder = open_tfds(name)
    names = {_canonical(split): split for split in builder.info.splits}

    def opener(split: str | None) -> Records:
        return TfdsRecords(builder, names[split or "train"])

    return _ordered(names), opener


def _hub(name: str) -> tuple[tuple[str, ...], Callable[[str | None], Records]]:
    from jaxtune.data.sources.hugging_face import fetch_dataset

    found = fetch_dataset(name)

    def opener(split: str | None) -> Records:
        records = Concatenated(
            [_open_file(path, _kind_of_file(path)) for path in found.splits[split or "train"]]
        )
        records.label_names = {**found.label_names, **records.label_names}
        return records

    return _ordered(found.splits), opener


def _files(kind: str, rest: str, spec: str) -> tuple[tuple[str, ...], Callable[[str | None], Records]]:
    from jaxtune.hub.fetching.locate import locate

    if not rest:
        raise SourceError(f"{spec!r}: expected a path after {kind}:")
    path = locate(rest)
    if path.is_file():
        return (), lambda split: _open_file(path, kind)
    if kind == "text":
        return _text_folder(path)
    names = [
        p.relative_to(path).as_posix()
        for p in path.rglob("*")
        if p.is_file() and _is_of(p, kind) and not p.name.startswith(".")
    ]
    if not names:
        raise SourceError(f"{spec}: the folder {path} holds no {kind} files")
    found = by_split(names)

    def opener(split: str | None) -> Records:
        parts = [_open_file(path / name, kind) for name in found[split or "train"]]
        return parts[0] if len(parts) == 1 else Concatenated(parts)

    return _ordered(found), opener


def _parallel(rest: str, spec: str) -> tuple[tuple[str, ...], Callable[[str | None], Records]]:
    from jaxtune.data.sources.parallel import ParallelLines
    from jaxtune.hub.fetching.locate import locate

    names = [name.strip() for name in rest.split(",")]
    if len(names) != 2 or not all(names):
        raise SourceError(
            f"{spec!r}: expected two files with a comma between them, as parallel:corpus.en,corpus.de"
        )
    source, target = (locate(name) for name in names)
    for path in (source, target):
        if not path.is_file():
            raise SourceError(f"{spec}: {path} is no file; parallel: takes two files of one text a line")
    return (), lambda split: ParallelLines(source, target)


def _text_folder(path: Path) -> tuple[tuple[str, ...], Callable[[str | None], Records]]:
    from jaxtune.data.sources.text import TextFolder

    inside = [p.name for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    splits = {split_of_name(name): name for name in inside if split_of_name(name)}
    if inside and len(splits) == len(inside):
        names = {str(split): name for split, name in splits.items()}
        return _ordered(names), lambda split: TextFolder(path / names[split or "train"])
    return (), lambda split: TextFolder(path)


def _open_file(path: Path, kind: str) -> Records:
    from jaxtune.data.sources.parquet import Parquet
    from jaxtune.data.sources.text import DelimitedText, JsonLines, TextLines

    if kind == "jsonl":
        return JsonLines(path)
    if kind == "csv":
        return DelimitedText(path)
    if kind == "text":
        return TextLines(path)
    if kind == "conll":
        from jaxtune.data.sources.conll import ConllSentences

        return ConllSentences(path)
    if kind == "squad":
        from jaxtune.data.sources.squad import SquadQuestions

        return SquadQuestions(path)
    return Parquet(path)


def _kind_of_file(path: Path) -> str:
    return _SUFFIXES[path.suffix.lower()]


def _is_of(path: Path, kind: str) -> bool:
    suffix = path.suffix.lower()
    return suffix in _FOLDER_SUFFIXES[kind] if kind in _FOLDER_SUFFIXES else _SUFFIXES.get(suffix) == kind


def _canonical(split: str) -> str:
    # TFDS has names such as "test_matched" and "validation_clean" too; only the plain ones are ours.
    return split if split_of_name(split) is None or "_" in split else split_of_name(split) or split


def _ordered(names: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
    known = [split for split in SPLITS if split in names]
    return (*known, *sorted(name for name in names if name not in SPLITS))
