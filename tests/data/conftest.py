"""What the tests of the data room share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from jaxtune.errors import DataError

# HISTOGRAM[n]: how many of the 10,555 sentences have n tokens (MiniLM's tokenizer, special tokens included).
HISTOGRAM = """
0 0 0 0 7 21 57 82 113 140 167 198 217 235 247 240 279 270 346 339 336 308 347 376 369 335 378
366 381 353 302 311 307 271 264 252 287 229 187 187 170 180 136 129 118 108 93 74 61 57 49 37 56
45 30 28 13 18 9 9 6 2 8 5 4 1 1 1 1 0 0 0 1 0 0 0 0 0 0 1
"""


@pytest.fixture(scope="session")
def movie_lengths():
    """``movie_lengths(count)``: so many token counts drawn from the sentences' own, int32."""
    counts = [int(count) for count in HISTOGRAM.split()]
    lengths = np.repeat(np.arange(len(counts)), counts).astype(np.int32)

    def draw(count: int = 8444) -> np.ndarray:
        return np.random.default_rng(0).choice(lengths, count)

    return draw


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own; nothing of the user's is read or written."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("JAXTUNE_CACHE", str(folder))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    return folder


@dataclass(frozen=True)
class WordTask:
    """A task as this room sees one: a token per word, as long as the word; the label is looked up."""

    labels: tuple[str, ...] = ()
    source_names: tuple[str, ...] = ()
    weighed: bool = False
    text: str = "text"
    text_pair: str | None = None

    @property
    def columns_read(self):
        pair = {} if self.text_pair is None else {"data.text_pair": self.text_pair}
        return {"data.text": self.text, **pair, "data.label": "label"}

    def resolve_labels(self, values, declared=(), source_names=()):
        found = declared or source_names or sorted({v for v in values if isinstance(v, str)})
        return replace(self, labels=tuple(found), source_names=source_names)

    def with_class_weights(self, targets):
        return replace(self, weighed=True)

    def tokenize(self, records, tokenizer, where, *, labelled=True, source_names=None):
        return [self._example(row, where(i), labelled, source_names) for i, row in enumerate(records)]

    def _example(self, row, place, labelled, source_names):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            return DataError(f"{place}: column 'text' is {text!r}")
        label = row.get("label") if labelled else 0
        names = source_names or self.labels
        if labelled and label not in names and label not in range(len(names)):
            return DataError(f"{place}: column 'label' is {label!r}")
        words = text.split()
        return {
            "tokens": np.array([len(word) for word in words[:8]], np.int32),
            "token_types": np.zeros(len(words[:8]), np.int32),
            "target": names.index(label) if label in names else int(label),
            "truncated": len(words) > 8,
        }


@pytest.fixture
def word_task():
    """A task without labels yet."""
    return WordTask()
