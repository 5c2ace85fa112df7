"""One right choice among a few, as in SWAG, HellaSwag, COPA and RACE.

Every choice is read together with its context, as a pair of texts, and gets one number; the softmax goes over the
choices of a question. An example holds its choices one after the other; ``parts`` says how many tokens each has, so
that a batch can keep them apart as it keeps examples apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.base import (
    Data,
    Example,
    Made,
    Outputs,
    Piece,
    Plain,
    Record,
    Sums,
    Where,
    no_classes,
    plain_value,
    read_column,
    row_error,
    shown,
)
from jaxtune.tasks.reading.encoding import TextColumns
from jaxtune.tasks.reading.labels import label_name
from jaxtune.tasks.scoring.classification import MULTIPLE_CHOICE_METRICS, multiple_choice_metrics

ENOUGH_ROWS = 20
"""Labels of so many rows without a 0 among them are taken to count from 1."""


@dataclass(frozen=True)
class MultipleChoice(Plain):
    """Cross-entropy over the choices of each question.

    Attributes:
        context: the column of the context, and of the question if there is one; a question stands before each choice.
        choices: the column with the list of choices, or one column per choice.
        label: the number of the right choice counted from 0, its letter from A, its text, or the name of its column.
    """

    context: TextColumns
    choices: tuple[str, ...]
    label: str

    name: ClassVar[str] = "multiple_choice"
    head: ClassVar[str] = "multiple_choice"
    labels: ClassVar[tuple[str, ...]] = ()
    num_labels: ClassVar[int] = 1
    default_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = MULTIPLE_CHOICE_METRICS

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> MultipleChoice:
        """The task an experiment asks for. Raises ConfigError for options it does not have."""
        data, train = experiment.data, experiment.train
        no_classes(experiment, cls.name)
        if train.label_smoothing:
            raise ConfigError(
                f"train.label_smoothing is {train.label_smoothing!r}; {cls.name} does not have it, leave it out"
            )
        if not data.choices:
            raise ConfigError(
                "data.choices is empty, expected the column that holds the choices, or a column of each"
            )
        return cls(TextColumns(data.text, data.text_pair, data.max_length), tuple(data.choices), data.label)

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        first, *others = self.choices
        named = {
            "data.choices": first,
            **{f"data.choices[{i}]": name for i, name in enumerate(others, start=1)},
        }
        return {**self.context.columns_read, **named, "data.label": self.label}

    def resolve_labels(
        self, values: Iterable[object], declared: tuple[str, ...] = (), source_names: tuple[str, ...] = ()
    ) -> Self:
        """The task itself. Raises DataError where the training labels are numbers that seem to count from 1."""
        names = [name for name in map(label_name, values) if name is not None]
        counted = len(names) >= ENOUGH_ROWS and all(name.isascii() and name.isdigit() for name in names)
        if counted and "0" not in names:
            raise DataError(
                f"no label of the {len(names):,} training rows (column {self.label!r}) is 0; expected the number of "
                "the right choice counted from 0. Count from 0, or give letters from A or the choice's text."
            )
        return self

    def with_class_weights(self, targets: Sequence[int] | np.ndarray) -> Self:
        """The task itself: places of choices are not weighed."""
        return self

    def tokenize(
        self,
        records: Sequence[Record],
        tokenizer: Any,
        where: Where,
        *,
        labelled: bool = True,
        source_names: tuple[str, ...] | None = None,
    ) -> list[Made]:
        """See ``Task.tokenize``. A choice is cut with its context to ``max_length`` tokens, the longer text first."""
        rows: list[Any] = []
        pairs: list[tuple[str, str | None]] = []
        for i, record in enumerate(records):
            try:
                context, question = self.context.read(record, where(i))
                choices = self._choices(record, where(i))
                target = self._target(record, choices, where(i)) if labelled else 0
                rows.append((len(choices), target))
                pairs += [
                    (context, choice if question is None else f"{question} {choice}") for choice in choices
                ]
            except DataError as error:
                rows.append(error)
        columns = TextColumns(self.context.text, self.choices[0], self.context.max_length)
        encoded = iter(columns.encode(pairs, tokenizer))
        made: list[Made] = []
        for i, row in enumerate(rows):
            if not isinstance(row, DataError):
                count, target = row
                row = _joined([next(encoded) for _ in range(count)], target, where(i))
            made.append(row)
        return made

    def _choices(self, record: Record, place: str) -> list[str]:
        values: Any = [
            plain_value(read_column(record, name, "--data.choices", place)) for name in self.choices
        ]
        if len(self.choices) == 1:
            values = values[0].tolist() if isinstance(values[0], np.ndarray) else values[0]
        if not isinstance(values, list | tuple):
            raise row_error(place, self.choices[0], f"holds {shown(values)}", "a list of choices")
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        while texts and texts[-1] in (None, ""):  # a question with fewer choices than there are columns
            texts.pop()
        for n, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                column = self.choices[n] if len(self.choices) > 1 else self.choices[0]
                raise row_error(place, column, f"has {shown(text)} as choice {n + 1}", "a text")
        if len(texts) < 2:
            raise row_error(place, self.choices[0], f"has {len(texts)} choices", "at least two")
        return texts

    def _target(self, record: Record, choices: Sequence[str], place: str) -> int:
        value = plain_value(read_column(record, self.label, "--data.label", place))
        name = label_name(value)
        said = set() if name is None else self._places_of(name, choices)
        if isinstance(value, str) and name is not None:
            said |= {i for i, choice in enumerate(choices) if choice.strip() == name}
        if len(said) == 1:
            return said.pop()
        expected = f"the number of a choice from 0 to {len(choices) - 1}, its letter, or its text"
        if said:
            meant = " and ".join(shown(choices[i]) for i in sorted(said))
            raise row_error(place, self.label, f"holds {shown(value)}, which can mean {meant}", expected)
        raise row_error(place, self.label, "is null" if value is None else f"holds {shown(value)}", expected)

    def _places_of(self, name: str, choices: Sequence[str]) -> set[int]:
        """The choice that a number, a letter or the name of a column means."""
        found = set()
        if name.isascii() and name.isdigit():
            found.add(int(name))
        if len(name) == 1 and name.isascii() and name.isalpha():
            found.add(ord(name.upper()) - ord("A"))
        if len(self.choices) > 1 and name in self.choices:
            found.add(self.choices.index(name))
        return {place for place in found if place < len(choices)}

    def loss(self, logits: Float[Array, "B NK 1"], batch: Mapping[str, Array]) -> Sums:
        """Cross-entropy and accuracy as sums.

        Args:
            logits: float32 [B, N·K, 1], one of each choice.
            batch: ``parts`` int32 [B, N, K], ``targets`` int32 [B, N] and ``weights`` float32 [B, N].
        """
        scores = choice_logits(logits, batch)
        weights = batch["weights"].astype(jnp.float32)
        targets = jnp.where(weights > 0, batch["targets"], 0)
        log_probabilities = jax.nn.log_softmax(scores, axis=-1)
        losses = -jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
        losses = jnp.where(weights > 0, losses, 0.0)
        right = weights * (scores.argmax(axis=-1) == targets)
        total = weights.sum()
        return {"loss": ((weights * losses).sum(), total), "accuracy": (right.sum(), total)}

    def outputs(self, logits: Float[Array, "B NK 1"], batch: Mapping[str, Array]) -> dict[str, Array]:
        """The logits of each question's choices [B, N, K], very low where there is none."""
        return {"logits": choice_logits(logits, batch)}

    def score(self, outputs: Outputs, data: Data) -> dict[str, Any]:
        """Accuracy, and the mean cross-entropy."""
        counts = (np.asarray(data.examples.parts) > 0).sum(axis=1)
        targets = np.asarray(data.examples.targets)
        return dict(multiple_choice_metrics(outputs["logits"], targets, counts))

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Whether the choice is right, and its cross-entropy."""
        target = int(pieces[0].example["target"])
        logits = _own_logits(pieces[0])
        return {
            "accuracy": int(logits.argmax() == target),
            "loss": float(-special.log_softmax(logits)[target]),
        }

    def answer(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """{"choice": number from 0, "answer": its text, "probabilities": of all} of one question."""
        probabilities = special.softmax(_own_logits(pieces[0]))
        best = int(probabilities.argmax())
        text = self._choices(record, "this record")[best]
        return {"choice": best, "answer": text, "probabilities": [float(p) for p in probabilities]}

    def truth(self, record: Record, target: Any) -> int:
        """The number of the right choice, counted from 0."""
        return int(target)


def choice_logits(logits: Float[Array, "B NK 1"], batch: Mapping[str, Array]) -> Float[Array, "B N K"]:
    """The logits by question; the lowest number there is where a choice is absent, whatever its logit."""
    there = batch["parts"] > 0
    scores = logits.astype(jnp.float32).reshape(there.shape)
    return jnp.where(there, scores, jnp.finfo(jnp.float32).min)


def _own_logits(piece: Piece) -> np.ndarray:
    count = int((np.asarray(piece.example["parts"]) > 0).sum())
    return np.asarray(piece.outputs["logits"], np.float64)[:count]


def _joined(choices: Sequence[Example | str], target: int, place: str) -> Made:
    """One example of all choices, one after the other."""
    for choice in choices:
        if isinstance(choice, str):
            return row_error(place, choice, "holds only characters that the tokenizer drops", "a text")
    found: list[Any] = list(choices)
    return {
        "tokens": np.concatenate([choice["tokens"] for choice in found]),
        "token_types": np.concatenate([choice["token_types"] for choice in found]),
        "parts": np.array([len(choice["tokens"]) for choice in found], np.int32),
        "target": target,
        "truncated": any(choice["truncated"] for choice in found),
    }
