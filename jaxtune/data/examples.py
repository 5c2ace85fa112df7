"""Tokenised examples of one split, as flat columns that may lie on disk.

Layout: ``tokens`` and ``token_types`` hold all examples one after the other, ``offsets[i]`` is where
example ``i`` begins. On disk that is a folder of ``.npy`` files and ``meta.json``, opened by memory map.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Num, UInt8

_COLUMNS = ("tokens", "token_types", "offsets", "targets")


class Examples:
    """A ragged, columnar store of examples; ``examples[i]`` is ``{"tokens", "token_types", "target"}``."""

    def __init__(
        self,
        tokens: Int[np.ndarray, " total"],
        token_types: UInt8[np.ndarray, " total"],
        offsets: Int[np.ndarray, " n_plus_1"],
        targets: Num[np.ndarray, " n"],
    ) -> None:
        self.tokens = tokens
        self.token_types = token_types
        self.offsets = offsets
        self.targets = targets
        self.lengths: Int[np.ndarray, " n"] = np.diff(offsets).astype(np.int32)

    @classmethod
    def from_list(cls, examples: Iterable[Mapping[str, Any]]) -> Examples:
        """From examples with ``tokens`` int [n], ``token_types`` int [n] and ``target`` int or float.

        Targets become int32 when all of them are integers, else float32.
        """
        rows = list(examples)
        lengths = [len(row["tokens"]) for row in rows]
        tokens = [np.zeros(0, np.int32), *(np.asarray(row["tokens"], np.int32) for row in rows)]
        types = [np.zeros(0, np.uint8), *(np.asarray(row["token_types"], np.uint8) for row in rows)]
        whole = all(isinstance(row["target"], int | np.integer) for row in rows)
        return cls(
            np.concatenate(tokens),
            np.concatenate(types),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            np.asarray([row["target"] for row in rows], np.int32 if whole else np.float32),
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return {
            "tokens": np.array(self.tokens_of(index), np.int32),
            "token_types": np.array(self.token_types_of(index), np.int32),
            "target": self.targets[index].item(),
        }

    def tokens_of(self, index: int) -> Int[np.ndarray, " n"]:
        """Token ids of one example, int32, without a copy."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def token_types_of(self, index: int) -> UInt8[np.ndarray, " n"]:
        """Token types of one example, without a copy."""
        return self.token_types[self.offsets[index] : self.offsets[index + 1]]

    def save(self, folder: Path, meta: Mapping[str, Any]) -> None:
        """Write to ``folder`` with the JSON-able ``meta`` beside it: all of it or, if killed, nothing.

        A sound folder that is already there is kept: another process wrote the same examples.
        """
        from jaxtune.hub.fetching.cache import discard, locked, publish

        with locked(folder):
            if self.load(folder):
                return
            discard(folder)
            with publish(folder) as part:
                part.mkdir()
                for name in _COLUMNS:
                    np.save(part / f"{name}.npy", getattr(self, name))
                sizes = {name: (part / f"{name}.npy").stat().st_size for name in _COLUMNS}
                (part / "meta.json").write_text(json.dumps({**meta, "sizes": sizes}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[Examples, dict[str, Any]] | None:
        """The examples and ``meta`` saved in ``folder``; none when there are none or they are not whole."""
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            sizes = {name: (folder / f"{name}.npy").stat().st_size for name in _COLUMNS}
            if sizes != meta.pop("sizes"):
                return None
            columns = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS]
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        return cls(*columns), meta
