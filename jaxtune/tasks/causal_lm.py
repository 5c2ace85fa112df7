"""The next word of a text; of a conversation only the assistant's words count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxtune.config import Experiment
from jaxtune.errors import DataError
from jaxtune.tasks.base import (
    IGNORED,
    Example,
    Made,
    Record,
    Where,
    no_classes,
    plain_value,
    read_column,
    row_error,
)
from jaxtune.tasks.chat import conversation_labels
from jaxtune.tasks.encoding import read_text
from jaxtune.tasks.language import LanguageTask


@dataclass(frozen=True)
class CausalLM(LanguageTask):
    """Cross-entropy of every next token.

    A text longer than ``max_length`` becomes several examples, each of which begins with the last token
    of the one before, so that every token but the first is told once. A column that holds lists of
    {"role", "content"} is a conversation.
    """

    text: str
    max_length: int
    label_smoothing: float = 0.0

    name: ClassVar[str] = "causal_lm"
    head: ClassVar[str] = "causal_lm"

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> CausalLM:
        """The task an experiment asks for."""
        no_classes(experiment, cls.name)
        return cls(experiment.data.text, experiment.data.max_length, experiment.train.label_smoothing)

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        return {"data.text": self.text}

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
            value = plain_value(read_column(record, self.text, "--data.text", place))
            if isinstance(value, list | tuple | np.ndarray):
                tokens, counted = conversation_labels(list(value), tokenizer, place, self.text)
            else:
                tokens = tokenizer(read_text(record, self.text, "--data.text", place), verbose=False)[
                    "input_ids"
                ]
                end = tokenizer.eos_token_id
                if end is not None and (not tokens or tokens[-1] != end):
                    tokens = [*tokens, end]
                counted = [True] * len(tokens)
        except DataError as error:
            return error
        if len(tokens) < 2:
            return row_error(place, self.text, "has fewer than two tokens", "a text to tell the next word of")
        pieces = self._pieces(np.asarray(tokens, np.int32), np.asarray(counted))
        return pieces or row_error(
            place, self.text, "has no assistant's turn", "a conversation that answers at least once"
        )

    def _pieces(self, tokens: np.ndarray, counted: np.ndarray) -> list[Example]:
        """The text in pieces of at most ``max_length`` tokens; those in which nothing counts are left out."""
        following = np.where(counted[1:], tokens[1:], IGNORED)
        step = max(self.max_length - 1, 1)
        pieces = []
        for start in range(0, len(following), step):
            labels = following[start : start + step]
            if (labels != IGNORED).any():
                # The last token of a piece is told by it and read by the next.
                read = tokens[start : start + len(labels)]
                pieces.append({"tokens": read, "labels": labels, "truncated": False})
        return pieces
