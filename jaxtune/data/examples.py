"""Tokenised examples of one split, as flat columns that may lie on disk.

An example has a text, perhaps a second text that a decoder writes, and perhaps a label per token:
of the second text where there is one, else of the first. Layout: a ragged column holds all examples
one after the other, ``offsets[i]`` is where example ``i`` begins. On disk that is a folder of
``.npy`` files and ``meta.json``, opened by memory map.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Num, UInt8

_TEXT = {"tokens": np.int32, "token_types": np.uint8}
_DECODER = {"decoder_tokens": np.int32}
_LABELS = {"labels": np.int32}
_NOTES = {"words": np.int32, "char_starts": np.int32, "char_ends": np.int32, "sentences": np.int32}
"""What is known of each token beside its id, where a task asks for it; not for batches."""


class Examples:
    """A ragged, columnar store of examples; ``examples[i]`` is a dict of their arrays and the ``target``.

    Attributes:
        columns: ``tokens`` int32 and ``token_types`` uint8 [total], ``offsets`` int64 [n + 1], ``targets``
            int32 or float32 [n] or [n, k]; for a second text ``decoder_tokens`` int32 [total'] and
            ``decoder_offsets``; for labels per token ``labels`` int32, as long as the text they belong to; for
            texts that are several one after the other ``parts`` int32 [n, K], the tokens of each, 0 where absent.
        lengths: tokens of each text, int32 [n].
        decoder_lengths: tokens of each second text, or none.
    """

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self.columns = dict(columns)
        self.lengths: Int[np.ndarray, " n"] = np.diff(columns["offsets"]).astype(np.int32)
        decoder = columns.get("decoder_offsets")
        self.decoder_lengths: Int[np.ndarray, " n"] | None = (
            None if decoder is None else np.diff(decoder).astype(np.int32)
        )

    @classmethod
    def from_list(cls, examples: Iterable[Mapping[str, Any]]) -> Examples:
        """From examples with ``tokens`` int [n], perhaps ``token_types``, ``decoder_tokens``, ``labels``, ``target``.

        Targets become int32 when all of them are integers, else float32.
        """
        rows = list(examples)
        present = rows[0].keys() if rows else ()
        notes = {name: dtype for name, dtype in _NOTES.items() if name in present}
        columns = _ragged(rows, _TEXT | notes, "offsets", "tokens")
        two_texts = "decoder_tokens" in present
        if two_texts:
            columns |= _ragged(rows, _DECODER, "decoder_offsets", "decoder_tokens")
        if "labels" in present:
            side = "decoder_tokens" if two_texts else "tokens"
            labels = _ragged(rows, _LABELS, "label_offsets", "labels")
            if not np.array_equal(
                labels.pop("label_offsets"), columns["decoder_offsets" if two_texts else "offsets"]
            ):
                raise ValueError(f"an example has another number of labels than of {side}")
            columns |= labels
        targets = np.asarray([row.get("target", 0) for row in rows])
        whole = targets.dtype.kind in "iub"
        if "parts" in present:
            columns["parts"] = _padded([row["parts"] for row in rows])
        return cls({**columns, "targets": targets.astype(np.int32 if whole else np.float32)})

    @property
    def tokens(self) -> Int[np.ndarray, " total"]:
        """All texts, one after the other."""
        return self.columns["tokens"]

    @property
    def offsets(self) -> Int[np.ndarray, " n_plus_1"]:
        """Where each text begins."""
        return self.columns["offsets"]

    @property
    def targets(self) -> Num[np.ndarray, " n *k"]:
        """One number, or a few, per example."""
        return self.columns["targets"]

    @property
    def parts(self) -> Int[np.ndarray, "n K"] | None:
        """Tokens of each part of a text that is several (the choices of a question), if it is."""
        return self.columns.get("parts")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        target = self.targets[index]
        return {**self.arrays_of(index), "target": target.item() if target.ndim == 0 else np.array(target)}

    def arrays_of(self, index: int) -> dict[str, np.ndarray]:
        """The ragged columns of one example, int32."""
        found = {
            "tokens": np.array(self.tokens_of(index), np.int32),
            "token_types": np.array(self.token_types_of(index), np.int32),
        }
        for name in ("decoder_tokens", "labels", *_NOTES):
            if name in self.columns:
                found[name] = np.array(self._slice(name, index), np.int32)
        if self.parts is not None:
            found["parts"] = np.array(self.parts[index], np.int32)
        return found

    def tokens_of(self, index: int) -> Int[np.ndarray, " n"]:
        """Token ids of one text, int32, without a copy."""
        return self._slice("tokens", index)

    def token_types_of(self, index: int) -> UInt8[np.ndarray, " n"]:
        """Token types of one text, without a copy."""
        return self._slice("token_types", index)

    def labels_of(self, index: int) -> Int[np.ndarray, " n"]:
        """Labels of one text's tokens, without a copy."""
        return self._slice("labels", index)

    def _slice(self, name: str, index: int) -> np.ndarray:
        of_decoder = name == "decoder_tokens" or (name == "labels" and self.decoder_lengths is not None)
        offsets = self.columns["decoder_offsets" if of_decoder else "offsets"]
        return self.columns[name][offsets[index] : offsets[index + 1]]

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
                for name, column in self.columns.items():
                    np.save(part / f"{name}.npy", column)
                sizes = {name: (part / f"{name}.npy").stat().st_size for name in self.columns}
                (part / "meta.json").write_text(json.dumps({**meta, "sizes": sizes}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[Examples, dict[str, Any]] | None:
        """The examples and ``meta`` saved in ``folder``; none when there are none or they are not whole."""
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            saved = meta.pop("sizes")
            if saved != {name: (folder / f"{name}.npy").stat().st_size for name in saved}:
                return None
            columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in saved}
            return cls(columns), meta
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None


def _padded(rows: Sequence[Any]) -> Int[np.ndarray, "n K"]:
    """Rows of different lengths as one array, zeros behind the shorter ones."""
    padded = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def _ragged(
    rows: Sequence[Mapping[str, Any]], names: Mapping[str, Any], offsets: str, measured: str
) -> dict[str, np.ndarray]:
    """Ragged columns of the same lengths, zeros where the examples lack one, and where each example begins."""
    lengths = [len(row[measured]) for row in rows]
    ends = np.cumsum(lengths, dtype=np.int64)
    columns: dict[str, np.ndarray] = {offsets: np.concatenate([[0], ends]).astype(np.int64)}
    for name, dtype in names.items():
        parts = [np.asarray(row.get(name, np.zeros(n)), dtype) for row, n in zip(rows, lengths)]
        columns[name] = np.concatenate([np.zeros(0, dtype), *parts])
    return columns
