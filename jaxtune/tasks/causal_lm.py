"""The next word of a text; of a conversation only the assistant's words count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.base import (
    IGNORED,
    Data,
    Example,
    Made,
    Outputs,
    Piece,
    Record,
    Where,
    no_classes,
    plain_value,
    read_column,
    row_error,
)
from jaxtune.tasks.language import LanguageTask
from jaxtune.tasks.reading.chat import conversation_labels
from jaxtune.tasks.reading.encoding import read_text
from jaxtune.tasks.scoring.language import bits_per_byte

BITS = "bits_per_byte"

Told = tuple[Int[np.ndarray, "n"], Bool[np.ndarray, "n"], Int[np.ndarray, "n"]]
"""Tokens, which of them count, and how many bytes of the text each stands for."""


@dataclass(frozen=True)
class CausalLM(LanguageTask):
    """Cross-entropy of every next token.

    A text longer than ``max_length`` becomes several examples, each of which begins with the last token
    of the one before, so that every token but the first is told once. A column that holds lists of
    {"role", "content"} is a conversation. An example's ``target`` is the number of bytes that its labels stand for.

    Attributes:
        text_pair: column of what is put below the text, where there is a reply.
        reply: column of the reply to the text.
    """

    text: str
    max_length: int
    label_smoothing: float = 0.0
    vocab_size: int | None = None
    text_pair: str | None = None
    reply: str | None = None

    name: ClassVar[str] = "causal_lm"
    head: ClassVar[str] = "causal_lm"
    metric_names: ClassVar[tuple[str, ...]] = (*LanguageTask.metric_names, BITS)

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> CausalLM:
        """The task an experiment asks for."""
        no_classes(experiment, cls.name)
        data = experiment.data
        if data.text_pair is not None and data.reply is None:
            raise ConfigError(
                f"`data.text_pair` is {data.text_pair!r}; expected none for causal_lm without data.reply, the column of "
                "the reply to both"
            )
        smoothing = experiment.train.label_smoothing
        return cls(data.text, data.max_length, smoothing, text_pair=data.text_pair, reply=data.reply)

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        columns = {"data.text": self.text, "data.text_pair": self.text_pair, "data.reply": self.reply}
        return {option: column for option, column in columns.items() if column is not None}

    def tokenize(
        self,
        records: Sequence[Record],
        tokenizer: Any,
        where: Where,
        *,
        labelled: bool = True,
        source_names: tuple[str, ...] | None = None,
    ) -> list[Made]:
        """See ``Task.tokenize``."""
        return [self._made(record, tokenizer, where(i)) for i, record in enumerate(records)]

    def _made(self, record: Record, tokenizer: Any, place: str) -> Made:
        try:
            turns = self._turns(record, place)
            if turns is None:
                tokens, counted, sizes = _read(read_text(record, self.text, "--data.text", place), tokenizer)
            else:
                written, ids, said, offsets = conversation_labels(turns, tokenizer, place, self.text)
                tokens, counted = np.asarray(ids, np.int32), np.asarray(said, bool)
                sizes = bytes_of_tokens(written, offsets)
        except DataError as error:
            return error
        if len(tokens) < 2:
            return row_error(place, self.text, "has fewer than two tokens", "a text to tell the next word of")
        pieces = self._pieces(tokens, counted, sizes)
        return pieces or row_error(
            place, self.text, "has no assistant's turn", "a conversation that answers at least once"
        )

    def _turns(self, record: Record, place: str) -> list[Any] | None:
        """The conversation of a record, none where it holds a text."""
        if self.reply is None:
            value = plain_value(read_column(record, self.text, "--data.text", place))
            return list(value) if isinstance(value, list | tuple | np.ndarray) else None
        asked = read_text(record, self.text, "--data.text", place)
        if self.text_pair is not None and read_column(record, self.text_pair, "--data.text-pair", place):
            asked += "\n\n" + read_text(record, self.text_pair, "--data.text-pair", place)
        reply = read_text(record, self.reply, "--data.reply", place)
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]

    def _pieces(self, tokens: np.ndarray, counted: np.ndarray, sizes: np.ndarray) -> list[Example]:
        """The text in pieces of at most ``max_length`` tokens; those in which nothing counts are left out."""
        following = np.where(counted[1:], tokens[1:], IGNORED)
        told = np.where(counted[1:], sizes[1:], 0)
        step = max(self.max_length - 1, 1)
        pieces = []
        for start in range(0, len(following), step):
            labels = following[start : start + step]
            if (labels != IGNORED).any():
                # The last token of a piece is told by it and read by the next.
                read = tokens[start : start + len(labels)]
                target = int(told[start : start + step].sum())
                pieces.append({"tokens": read, "labels": labels, "target": target, "truncated": False})
        return pieces

    def score(self, outputs: Outputs, data: Data) -> dict[str, Any]:
        """Loss per token, perplexity, accuracy, and what the text costs in bits per byte of its UTF-8.

        The first token of a text is told by nothing, and its bytes are not counted.
        """
        result = super().score(outputs, data)
        told = int(np.asarray(data.examples.targets).sum(dtype=np.int64))
        # A text of nothing but special tokens has no bytes.
        pair = (result["loss"] * result["tokens"], result["tokens"])
        return {**result, BITS: bits_per_byte(pair, told) if told else None, "bytes": told}

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Sums of losses and of words told right, each with the number of words; and of bits with that of bytes."""
        found = super().scores(record, pieces)
        told = float(sum(piece.example["target"] for piece in pieces))
        return {**found, BITS: (found["loss"][0] / float(np.log(2)), told)}


def _read(text: str, tokenizer: Any) -> Told:
    """A text's tokens, the end of texts last; all count."""
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    tokens, offsets = encoded["input_ids"], list(encoded["offset_mapping"])
    end = tokenizer.eos_token_id
    if end is not None and (not tokens or tokens[-1] != end):
        tokens, offsets = [*tokens, end], [*offsets, (0, 0)]
    return np.asarray(tokens, np.int32), np.ones(len(tokens), bool), bytes_of_tokens(text, offsets)


def bytes_of_tokens(text: str, offsets: Sequence[tuple[int, int]]) -> Int[np.ndarray, "n"]:
    """Bytes of UTF-8 that each token stands for: of its characters, and of those before it that no token has.

    A character of several tokens counts with the first of them, what follows the last token with that one: over all
    tokens of a text the numbers add up to its bytes.
    """
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (characters > 0x7F).astype(np.int64) + (characters > 0x7FF) + (characters > 0xFFFF)
    until = np.concatenate([[0], np.cumsum(sizes)])
    # Special tokens stand at (0, 0).
    ends = np.maximum.accumulate(np.array([end for _, end in offsets], np.int64))
    last = np.array([i for i, (start, end) in enumerate(offsets) if end > start][-1:], np.int64)
    ends[int(last[0]) if len(last) else 0 :] = len(text)
    return np.diff(until[ends], prepend=0)
