"""A text of any length as examples of at most ``max_length`` tokens, none lost, each token with its word."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxtune.errors import DataError
from jaxtune.tasks.base import Example, Made, Record, Where, row_error
from jaxtune.tasks.reading.encoding import read_text

_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)\]]*(?=\s)")


def read_pieces(
    column: str,
    records: Sequence[Record],
    tokenizer: Any,
    where: Where,
    max_length: int,
    *,
    fewest: int = 1,
    sentences: bool = False,
) -> list[Made]:
    """Per record the pieces of its text, or the DataError that says why there is none, in order.

    See ``text_pieces``.
    """
    made: list[Any] = []
    for i, record in enumerate(records):
        try:
            made.append(read_text(record, column, "--data.text", where(i)))
        except DataError as error:
            made.append(error)
    good = [i for i, text in enumerate(made) if isinstance(text, str)]
    texts = [made[i] for i in good]
    encodings = tokenizer(texts, truncation=False, verbose=False).encodings if texts else []
    for i, encoding in zip(good, encodings):
        pieces = text_pieces(made[i], encoding, max_length, fewest=fewest, sentences=sentences)
        wanted = "one token" if fewest == 1 else f"{fewest} tokens"
        made[i] = pieces or row_error(where(i), column, f"has fewer than {wanted}", "a text to learn from")
    return made


def text_pieces(
    text: str, encoding: Any, max_length: int, *, fewest: int = 1, sentences: bool = False
) -> list[Example]:
    """The text in as few pieces as there must be, of nearly equal lengths, each with the special tokens around it.

    ``words`` [n] numbers the words: what the tokenizer splits the text into before it makes tokens of it, and what stands
    between white space; -1 at special tokens.

    Args:
        encoding: of ``tokenizers``, whole.
        fewest: a text of fewer tokens gives no piece.
        sentences: also ``sentences`` [n], the number of each token's sentence.
    """
    own = np.array([sequence == 0 for sequence in encoding.sequence_ids], bool)
    if own.sum() < fewest:
        return []
    first, last = int(own.argmax()), len(own) - int(own[::-1].argmax())
    columns = {
        "tokens": np.asarray(encoding.ids, np.int32),
        "token_types": np.asarray(encoding.type_ids, np.int32),
        "words": np.where(own, _word_of(text, encoding), -1).astype(np.int32),
    }
    if sentences:
        columns["sentences"] = np.where(own, _sentence_of(text, encoding), -1).astype(np.int32)
    room = max(max_length - first - (len(own) - last), 1)
    count = math.ceil((last - first) / room)
    edges = [first + i * (last - first) // count for i in range(count + 1)]
    around = np.r_[0:first], np.r_[last : len(own)]
    places = [np.concatenate([around[0], np.r_[a:b], around[1]]) for a, b in pairwise(edges)]
    return [{**{name: values[at] for name, values in columns.items()}, "truncated": False} for at in places]


def specials_around(tokenizer: Any) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before a text, and behind it."""
    own = [sequence == 0 for sequence in tokenizer(["a"], verbose=False).encodings[0].sequence_ids]
    return (own.index(True), own[::-1].index(True)) if any(own) else (0, len(own))


def word_starts(words: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Where a word begins: at each token whose number differs from that of the token before."""
    return np.concatenate([[True], words[1:] != words[:-1]])[: len(words)]


def _word_of(text: str, encoding: Any) -> Int[np.ndarray, "n"]:
    """The word of each token. Some tokenizers of SentencePiece split nothing, and then white space does."""
    found, number, before, blank = [], -1, object(), False
    for word, (start, end) in zip(encoding.word_ids, encoding.offsets):
        # A token may begin with the space before its word, or be that space alone, or leave it out.
        spaced = start < end and (
            text[start].isspace() or (start > 0 and text[start - 1].isspace() and not blank)
        )
        number += word != before or spaced
        before, blank = word, start < end and text[start:end].isspace()
        found.append(number)
    return np.array(found, np.int64)


def _sentence_of(text: str, encoding: Any) -> Int[np.ndarray, "n"]:
    """The sentence of each token. A sentence ends at ., ! or ? before white space, or with its line."""
    ends = sorted(
        {match.end() for match in _SENTENCE_END.finditer(text)} | {m.start() for m in re.finditer("\n", text)}
    )
    # By its last character: a token may begin with the space before it.
    last = np.array([end - 1 for _, end in encoding.offsets], np.int64)
    return np.searchsorted(np.asarray(ends, np.int64), last, side="right")
