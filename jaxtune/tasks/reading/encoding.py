"""Texts of a record → token ids, exact and fast however long a text is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtune.errors import DataError
from jaxtune.tasks.base import Example, Record, Where, plain_value, read_column, row_error, shown

CHARACTERS_PER_TOKEN = 8
"""Texts up to about this many characters per token of ``max_length`` are tokenised whole."""


@dataclass(frozen=True)
class TextColumns:
    """Which columns hold the text, and how many tokens of it are kept."""

    text: str
    text_pair: str | None
    max_length: int

    @property
    def columns_read(self) -> dict[str, str]:
        """Option → column of the texts."""
        pair = {} if self.text_pair is None else {"data.text_pair": self.text_pair}
        return {"data.text": self.text, **pair}

    def read(self, record: Record, place: str) -> tuple[str, str | None]:
        """The text, and the second text of a pair. Raises DataError if either cannot be used."""
        first = read_text(record, self.text, "--data.text", place)
        if self.text_pair is None:
            return first, None
        return first, read_text(record, self.text_pair, "--data.text-pair", place)

    def encode(self, texts: Sequence[tuple[str, str | None]], tokenizer: Any) -> list[Example | str]:
        """Token ids of each text (or pair), with special tokens, at most ``max_length`` of them.

        Returns per text an Example without its target, or the name of a column whose text the
        tokenizer makes no token of (control characters only, for instance).
        """
        if not texts:
            return []
        if self.text_pair is None:
            inputs: Any = [shorten(text, tokenizer, self.max_length) for text, _ in texts]
        else:
            inputs = [shorten_pair(a, b or "", tokenizer, self.max_length) for a, b in texts]
        encoded = tokenizer(
            inputs,
            truncation=True,
            max_length=self.max_length,
            return_token_type_ids=True,
            return_attention_mask=False,
            verbose=False,
        )
        return [
            self._example(tokens, types, encoding)
            for tokens, types, encoding in zip(
                encoded["input_ids"], encoded["token_type_ids"], encoded.encodings
            )
        ]

    def _example(self, tokens: list[int], token_types: list[int], encoding: Any) -> Example | str:
        sequences = set(encoding.sequence_ids)
        if 0 not in sequences:
            return self.text
        if self.text_pair is not None and 1 not in sequences:
            return self.text_pair
        return {
            "tokens": np.asarray(tokens, np.int32),
            "token_types": np.asarray(token_types, np.int32),
            "truncated": bool(encoding.overflowing),
        }


def read_text(record: Record, column: str, option: str, place: str) -> str:
    """A text column's value. Raises DataError for what is not a non-empty Unicode text."""
    value = plain_value(read_column(record, column, option, place))
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"is not valid UTF-8 at byte {error.start}: {shown(value)}"
            raise row_error(place, column, problem, "text in UTF-8") from None
    if value is None:
        raise row_error(place, column, "is null", "a text")
    if not isinstance(value, str):
        raise row_error(place, column, f"holds the {type(value).__name__} {shown(value)}", "a text")
    if not value or value.isspace():
        problem = "is empty" if not value else f"holds white space only ({shown(value)})"
        raise row_error(place, column, problem, "a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        problem = f"holds a lone surrogate at character {error.start}, which is no Unicode text"
        raise row_error(place, column, problem, "text in UTF-8") from None
    return str(value)


def tokenize_records(
    columns: TextColumns,
    records: Sequence[Record],
    tokenizer: Any,
    where: Where,
    target_of: Callable[[Record, str], Any] | None,
) -> list[Example | DataError]:
    """One Example per record, or the DataError that says why there is none, in order.

    ``target_of(record, place)`` reads the label and raises DataError for a bad one; without it
    every target is 0.
    """
    rows: list[Any] = []
    targets: list[Any] = []
    for i, record in enumerate(records):
        place, target = where(i), 0
        try:
            texts = columns.read(record, place)
            target = 0 if target_of is None else target_of(record, place)
            rows.append(texts)
        except DataError as error:
            rows.append(error)
        targets.append(target)
    good = [i for i, row in enumerate(rows) if not isinstance(row, DataError)]
    encoded = columns.encode([rows[i] for i in good], tokenizer)
    for i, example in zip(good, encoded):
        if isinstance(example, str):
            problem = "holds only characters that the tokenizer drops"
            rows[i] = row_error(where(i), example, problem, "a text")
        else:
            rows[i] = example | {"target": targets[i]}
    return rows


def shorten(text: str, tokenizer: Any, max_length: int, *, beyond: int = 0) -> str:
    """A beginning of ``text`` with the same first tokens, cheap to tokenise even if the text is 1 MB.

    The beginning has more than ``max(max_length, beyond)`` tokens, or is the whole text; so
    whatever cuts both to that many tokens cannot tell them apart. Tokens may depend on what
    follows within a word, hence the last two words (pre-tokens) of a beginning do not count.
    """
    size = _short(max_length)
    wanted = max(max_length, beyond)
    while len(text) > size:
        beginning = text[:size]
        words = _encoding(beginning, tokenizer).word_ids
        last = next((word for word in reversed(words) if word is not None), 0)
        if sum(word is not None and word < last - 1 for word in words) > wanted:
            return beginning
        size *= 4
    return text


def shorten_pair(first: str, second: str, tokenizer: Any, max_length: int) -> tuple[str, str]:
    """Both texts of a pair, shortened such that truncating the longest first gives the same tokens.

    That truncation asks which text has more tokens, so the shortened ones keep that order. They
    must be short: the tokenizer combines all that it cuts off the one with all of the other.
    """
    if max(len(first), len(second)) <= _short(max_length):
        return first, second
    if _count(first, tokenizer) > _count(second, tokenizer):
        second = shorten(second, tokenizer, max_length)
        return shorten(first, tokenizer, max_length, beyond=_count(second, tokenizer)), second
    first = shorten(first, tokenizer, max_length)
    return first, shorten(second, tokenizer, max_length, beyond=_count(first, tokenizer))


def _short(max_length: int) -> int:
    return 64 + CHARACTERS_PER_TOKEN * max_length


def _count(text: str, tokenizer: Any) -> int:
    return len(_encoding(text, tokenizer).ids)


def _encoding(text: str, tokenizer: Any) -> Any:
    return tokenizer([text], add_special_tokens=False, truncation=False, verbose=False).encodings[0]
