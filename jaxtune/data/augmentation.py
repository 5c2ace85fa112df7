"""Changed copies of training rows: a few words replaced, inserted, swapped or deleted, or the text translated and back.

The four operations on words are those of EDA (Wei & Zou 2019, https://aclanthology.org/D19-1670): α is the share
of the words that change. A copy is a function of text, copy number and seed alone, whatever else is in the file.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxtune.data.reading import read_batches
from jaxtune.data.records import Record, Records, fingerprint_of
from jaxtune.data.splits import hash_text
from jaxtune.errors import ConfigError, DataError

Rewrite = Callable[[Sequence[str]], Sequence[str]]
"""Texts → the same texts in other words."""

Synonyms = Callable[[str], Sequence[str]]
"""A word in lower case → others that mean the same."""

OPERATIONS = ("synonyms", "insert", "swap", "delete")

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")

_STOP = frozenset(
    re.findall(
        r"\w+",
        """a about above after again all am an and any are as at be because been before being below between both but by
        can could did do does doing down during each few for from further had has have having he her here hers him his
        how i if in into is it its just me more most my no nor not now of off on once only or other our out over own same
        she should so some such than that the their them then there these they this those through to too under until up
        very was we were what when where which while who whom why will with would you your""",
    )
)
"""Words that are never replaced: EDA leaves out stop words too."""


@dataclass(frozen=True)
class Augmentation:
    """What ``data.augment`` asks for."""

    shares: Mapping[str, float] = field(default_factory=dict)
    """Operation → share of the words that it changes."""
    back_translation: tuple[str, str] | None = None
    """Two run directories: there and back."""
    seed: int = 0

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Augmentation:
        """From ``("synonyms=0.1", "swap=0.1", "back_translation=runs/en-de,runs/de-en", "seed=1")``.

        Raises:
          ConfigError: an unknown name, a share out of range, or a name given twice.
        """
        shares: dict[str, float] = {}
        runs, seed = None, 0
        names = [entry.partition("=")[0] for entry in entries]
        for entry in entries:
            name, _, value = entry.partition("=")
            if names.count(name) > 1:
                raise ConfigError(f"data.augment: {name} is given twice")
            if name in OPERATIONS:
                shares[name] = _number(value)
                if not 0 < shares[name] <= 1:
                    raise ConfigError(
                        f"data.augment: {entry!r}; expected {name}=SHARE, above 0 and at most 1"
                    )
            elif name == "back_translation":
                there, _, back = (part.strip() for part in value.partition(","))
                if not there or not back or "," in back:
                    raise ConfigError(
                        f"data.augment: {entry!r}; expected back_translation=RUN_THERE,RUN_BACK, two run directories"
                    )
                runs = (there, back)
            elif name == "seed" and value.isdigit():
                seed = int(value)
            else:
                known = ", ".join(f"{name}=SHARE" for name in OPERATIONS)
                raise ConfigError(
                    f"data.augment: {entry!r} is none of {known}, back_translation=RUN_THERE,RUN_BACK, seed=NUMBER"
                )
        if entries and not shares and runs is None:
            raise ConfigError(f"data.augment: nothing to do; expected one of {', '.join(OPERATIONS)}")
        return cls(shares, runs, seed)


class Augmented:
    """Rows, and after them changed copies of some: ``records[i]`` is a copy of ``records[origins[i]]``.

    Attributes:
        origins: index of the row that each row is or was made of, int64 [n].
    """

    def __init__(self, records: Records, column: str, changed: Sequence[tuple[int, str]]) -> None:
        self._records, self._column = records, column
        self._texts = [text for _, text in changed]
        copied = np.asarray([row for row, _ in changed], np.int64)
        self.origins: np.ndarray = np.concatenate([np.arange(len(records)), copied])
        self.columns: tuple[str, ...] = records.columns
        self.label_names: dict[str, tuple[str, ...]] = dict(records.label_names)

    @property
    def fingerprint(self) -> str:
        """Digest of the rows and of all that was changed."""
        texts = (text.encode("utf-8", "surrogatepass") for text in self._texts)
        return fingerprint_of([self._records.fingerprint, self.origins.astype("<i8").tobytes(), *texts])

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: int) -> Record:
        row = self._records[int(self.origins[index])]
        copy = index - len(self._records)
        return row if copy < 0 else {**row, self._column: self._texts[copy]}

    def where(self, index: int) -> str:
        """Place of the row in its file."""
        place = self._records.where(int(self.origins[index]))
        return place if index < len(self._records) else f"{place} (a changed copy)"


def augment(
    records: Records,
    column: str,
    wish: Augmentation,
    copies: int,
    *,
    synonyms: Synonyms | None = None,
    rewrite: Rewrite | None = None,
) -> Augmented:
    """Rows and changed copies of them: ``copies`` by operations on words, and one translated there and back.

    A copy that would be empty, or the same as its text or another copy, is left out; so are copies of bad rows.

    Args:
      column: of the text.
      synonyms: for the operations ``synonyms`` and ``insert``.
      rewrite: for back-translation.
    """
    texts = _texts(records, column)
    changed: list[tuple[int, str]] = []
    for row, text in texts.items():
        seen = {_normal(text)}
        for copy in range(copies if wish.shares else 0):
            made = change(text, wish, copy, synonyms)
            if made is not None and _normal(made) not in seen:
                seen.add(_normal(made))
                changed.append((row, made))
    if wish.back_translation is not None:
        if rewrite is None:
            raise ConfigError(
                "data.augment: back_translation needs runs that translate, which only training has"
            )
        answers = rewrite(list(texts.values()))
        if len(answers) != len(texts):
            raise DataError(f"back-translation gave {len(answers)} texts for {len(texts)}")
        pairs = zip(texts.items(), answers)
        changed += [(row, new) for (row, old), new in pairs if new.strip() and _normal(new) != _normal(old)]
    return Augmented(records, column, changed)


def change(text: str, wish: Augmentation, copy: int, synonyms: Synonyms | None = None) -> str | None:
    """One changed copy of a text, by the first operation in a random order that finds something to change."""
    # Of the generator only random() is used: Python keeps that one the same between versions.
    rng = random.Random(f"{wish.seed} {copy} {hash_text(text)}")
    operations = sorted(wish.shares)
    while operations:
        operation = operations.pop(_below(rng, len(operations)))
        words = _Words.of(text)
        _DO[operation](words, wish.shares[operation], rng, synonyms or _no_synonyms)
        made = str(words)
        if made.strip() and _normal(made) != _normal(text):
            return made
    return None


@dataclass
class _Words:
    """A text as words and what stands between them: ``gaps[i]`` is before ``words[i]``, the last one after all."""

    words: list[str]
    gaps: list[str]

    @classmethod
    def of(cls, text: str) -> _Words:
        ends = [0, *(match.end() for match in _WORD.finditer(text))]
        starts = [*(match.start() for match in _WORD.finditer(text)), len(text)]
        return cls(_WORD.findall(text), [text[end:start] for end, start in zip(ends, starts)])

    def __str__(self) -> str:
        return "".join(gap + word for gap, word in zip(self.gaps, [*self.words, ""]))

    def begins_sentence(self, at: int) -> bool:
        """Whether a word is the first of the text or follows the end of a sentence."""
        return at == 0 or bool(re.search(r"[.!?…]\W*\s\W*$", self.gaps[at]))

    def put(self, at: int, word: str) -> None:
        """Write a word in the place of another, with a capital where the other had one."""
        self.words[at] = _like(self.words[at], word)

    def settle(self, at: int, capital: bool) -> None:
        """Give the word that has come to a sentence's beginning the capital that the beginning had."""
        if capital and at < len(self.words) and self.words[at][0].islower():
            self.words[at] = self.words[at][0].upper() + self.words[at][1:]

    def small(self, at: int) -> str:
        """A word as it stands within a sentence: without the capital that the beginning gave it."""
        word = self.words[at]
        lowers = self.begins_sentence(at) and word[1:].islower() and len(word) > 1
        return word[0].lower() + word[1:] if lowers and word[:2] not in ("I'", "I’") else word

    def delete(self, at: int) -> None:
        capital = self.begins_sentence(at) and self.words[at][0].isupper()
        before, after = self.gaps[at], self.gaps.pop(at + 1)
        del self.words[at]
        # What belonged to the word goes with it: "a good, film." becomes "a, film." or "a good."
        if at == 0 and not before.strip():
            after = after.lstrip(" ,;:.!?…")
        elif before[-1:].isspace() and (not after.strip() or after[0].isspace() or after[0] in ",.;:!?…)"):
            before = before.rstrip()
            before = before.rstrip(",;:") if after[:1] in tuple(",.;:!?…") else before
        self.gaps[at] = before + after
        self.settle(at, capital)


def _replace(words: _Words, share: float, rng: random.Random, synonyms: Synonyms) -> None:
    """Replace so many words by a synonym, the same word everywhere in the text."""
    left = _count(share, words)
    for word in _shuffled(sorted({word.lower() for word in words.words} - _STOP), rng):
        others = synonyms(word)
        if not others or not left:
            continue
        other, left = others[_below(rng, len(others))], left - 1
        for at, there in enumerate(words.words):
            if there.lower() == word:
                words.put(at, other)


def _insert(words: _Words, share: float, rng: random.Random, synonyms: Synonyms) -> None:
    """Insert a synonym of a random word at a random place, so many times."""
    content = sorted({word.lower() for word in words.words} - _STOP)
    for _ in range(_count(share, words)):
        found = next((others for word in _shuffled(content, rng) if (others := synonyms(word))), None)
        if not found:
            return
        at = _below(rng, len(words.words) + 1)
        if at == len(words.words):  # after the last word, before what ends the text
            words.gaps.insert(at, " ")
        elif words.begins_sentence(at):
            capital = words.words[at][0].isupper()
            words.words[at] = words.small(at)
            words.gaps.insert(at + 1, " ")
            words.words.insert(at, found[_below(rng, len(found))])
            words.settle(at, capital)
            continue
        else:
            words.gaps.insert(at + 1, " ")
        words.words.insert(at, found[_below(rng, len(found))])


def _swap(words: _Words, share: float, rng: random.Random, synonyms: Synonyms) -> None:
    """Let two random words change places, so many times."""
    if len(words.words) < 2:
        return
    for _ in range(_count(share, words)):
        one = _below(rng, len(words.words))
        other = (one + 1 + _below(rng, len(words.words) - 1)) % len(words.words)
        begin = [at for at in (one, other) if words.begins_sentence(at) and words.words[at][0].isupper()]
        words.words[one], words.words[other] = words.small(other), words.small(one)
        for at in begin:
            words.settle(at, True)


def _delete(words: _Words, share: float, rng: random.Random, synonyms: Synonyms) -> None:
    """Delete each word with this probability; one stays."""
    for at in reversed([at for at in range(len(words.words)) if rng.random() < share]):
        if len(words.words) > 1:
            words.delete(at)


_DO: dict[str, Callable[[_Words, float, random.Random, Synonyms], None]] = {
    "synonyms": _replace,
    "insert": _insert,
    "swap": _swap,
    "delete": _delete,
}


def _texts(records: Records, column: str) -> dict[int, str]:
    """Row → text, of those rows that have one."""
    found: dict[int, str] = {}
    index = 0
    for rows in read_batches(records, "augmenting"):
        for row in rows:
            value: Any = None if isinstance(row, DataError) else row.get(column)
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            if isinstance(text, str) and text.strip():
                found[index] = text
            index += 1
    return found


def _count(share: float, words: _Words) -> int:
    return max(1, int(share * len(words.words)))


def _like(old: str, new: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _no_synonyms(word: str) -> Sequence[str]:
    return ()


def _below(rng: random.Random, count: int) -> int:
    return int(rng.random() * count)


def _shuffled(words: Sequence[str], rng: random.Random) -> list[str]:
    return [word for _, word in sorted((rng.random(), word) for word in words)]


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")
