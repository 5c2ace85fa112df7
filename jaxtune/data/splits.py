"""Which split a text belongs to, by a stable hash: the same text is never in two splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt64

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


def three_way(
    hashes: UInt64[np.ndarray, " n"], holdout: tuple[float, float]
) -> dict[str, Float[np.ndarray, " k"]]:
    """Indices (rising, int64) of ``train``, ``validation`` and ``test`` rows, from :func:`hash_text`.

    Args:
      hashes: one per row.
      holdout: shares of validation and test; a share of 0 gives an empty split.
    """
    validation, test = holdout
    held = np.searchsorted([validation, validation + test], places(hashes), side="right")
    return {
        "train": np.flatnonzero(held == 2),
        "validation": np.flatnonzero(held == 0),
        "test": np.flatnonzero(held == 1),
    }


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
