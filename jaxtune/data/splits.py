"""Which split a text belongs to, by a stable hash: the same text is never in two splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt64

from jaxtune.errors import ConfigError, DataError

SPLITS = ("train", "validation", "test")

_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    # CoNLL-2003 calls its two "testa" and "testb".
    ("validation", "valid", "val", "dev", "eval", "testa"),
    "validation",
)
_NAMES["testb"] = "test"


def hash_text(text: str) -> int:
    """64-bit hash of a text, blind to upper case and to how much white space is where."""
    normal = " ".join(text.casefold().split())
    return int.from_bytes(
        hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def places(hashes: UInt64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Hashes as numbers in [0, 1): where one lies decides its split, today and in every later version."""
    return (hashes >> np.uint64(11)).astype(np.float64) / 2**53


def places_by_label(
    hashes: UInt64[np.ndarray, " n"], labels: Sequence[Any], where: str = ""
) -> Float[np.ndarray, " n"]:
    """Places in [0, 1) that are spread evenly within each label: equal for equal texts, in the order of their hashes.

    A share of the places is then the same share of each label's rows, up to one text. Rows added to a file may
    move others, unlike with :func:`places`. A text with several labels counts to the first of them in order.

    Args:
      labels: raw values of the label column; numbers are the same as their digits.
      where: what to call the rows in a message.

    Raises:
      DataError: a label is a list or the like.
    """
    named = ["" if label is None else str(label).strip() for label in _plain(labels, where)]
    unique, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    names, of_row = np.unique(np.asarray(named, dtype=str), return_inverse=True)
    label_of = np.full(len(unique), len(names), np.int64)
    np.minimum.at(label_of, group, of_row)
    found = np.zeros(len(unique))
    for label in range(len(names)):
        own = np.flatnonzero(label_of == label)  # np.unique sorts, so this is the order of the hashes
        ends = np.cumsum(sizes[own])
        if len(own):
            found[own] = (ends - sizes[own] / 2) / ends[-1]
    return found[group]


def _plain(labels: Sequence[Any], where: str) -> list[Any]:
    plain = [label.item() if isinstance(label, np.generic) else label for label in labels]
    odd = next((label for label in plain if not isinstance(label, str | bytes | int | float | None)), None)
    if odd is not None:
        raise DataError(
            f"{where}: data.stratify needs one label per row; the column holds {type(odd).__name__}s"
        )
    return plain


def three_way(
    hashes: UInt64[np.ndarray, " n"],
    holdout: tuple[float, float],
    at: Float[np.ndarray, " n"] | None = None,
) -> dict[str, Float[np.ndarray, " k"]]:
    """Indices (rising, int64) of ``train``, ``validation`` and ``test`` rows, from :func:`hash_text`.

    Args:
      hashes: one per row.
      holdout: shares of validation and test; a share of 0 gives an empty split.
      at: places of the rows, from :func:`places_by_label`; none takes those of the hashes.
    """
    validation, test = holdout
    held = np.searchsorted(
        [validation, validation + test], places(hashes) if at is None else at, side="right"
    )
    return {
        "train": np.flatnonzero(held == 2),
        "validation": np.flatnonzero(held == 0),
        "test": np.flatnonzero(held == 1),
    }


def fold_of(text: str) -> tuple[int, int]:
    """``2/5`` as (2, 5): the second of five folds.

    Raises:
      ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count or count < 2:
        raise ConfigError(
            f"data.fold is {text!r}; expected as 2/5: the second of five folds, from 1/5 to 5/5"
        )
    return number, count


def in_fold(at: Float[np.ndarray, " n"], fold: tuple[int, int]) -> Bool[np.ndarray, " n"]:
    """Which rows belong to a fold (from 1 on, of how many), by their places; each row is in exactly one."""
    number, count = fold
    return np.minimum((at * count).astype(np.int64), count - 1) == number - 1


def rehash(hashes: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Other hashes, equal where the given ones are equal (Fibonacci hashing, Knuth 6.4).

    A split that was itself cut by ``three_way`` holds one range of hashes only: to cut it again
    by the same ones would put all of it on one side.
    """
    return hashes * np.uint64(0x9E3779B97F4A7C15)


def split_of_name(name: str) -> str | None:
    """The split a file or folder name speaks of, as ``train`` for ``data/train-00000-of-00002.parquet``."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in _NAMES:
            return _NAMES[word]
    return None


def by_split(names: Iterable[str]) -> dict[str, list[str]]:
    """File names sorted into splits; where no name speaks of one, all of them are ``train``.

    A name that speaks of none is left out where others do.
    """
    found: dict[str, list[str]] = {}
    names = sorted(names)
    for name in names:
        # The last part decides: "train" may also be a folder above ("train-data/test.csv").
        split = split_of_name(name.rpartition("/")[2]) or split_of_name(name.rpartition("/")[0])
        if split:
            found.setdefault(split, []).append(name)
    if not found and names:
        return {"train": names}
    return {split: found[split] for split in SPLITS if split in found}
