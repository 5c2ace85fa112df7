"""What every task offers, and how a bad row is reported.

A task is one frozen dataclass in one file of this folder plus its entry in registry.py. It turns
records into examples, logits into (sum, weight) pairs, and predictions into metrics and readable
answers; it knows neither files nor batches nor meshes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from jaxtyping import Array, Float

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError, DataError
from jaxtune.generation.settings import GenerationSettings
from jaxtune.hub.description import Description
from jaxtune.labels import IGNORED as IGNORED

Record = Mapping[str, Any]
"""One raw row: column name → value."""

Example = dict[str, Any]
"""tokens: np.int32 [n]; perhaps token_types: np.int32 [n], decoder_tokens: np.int32 [m], labels: np.int32 [m]
or [n] (IGNORED where no loss counts), target: int or float; truncated: bool. Beside the tokens, and in no batch,
perhaps words: np.int32 [n] (which word of the text a token belongs to), char_starts and char_ends: np.int32 [n]
(where in the text it stands); -1 where a token belongs to none."""

Made = Example | list[Example] | DataError
"""What a record becomes: an example, several (a long text in pieces), or the reason why there is none."""

Outputs = dict[str, Any]
"""What an evaluation keeps of the logits: name → one array row per example, or a list of arrays, one per example;
and ``text``, what the model wrote for each, where a task asks for it."""

Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""name → (Σ weight·value, Σ weight), float32 scalars; divided once, on the host."""

Where = Callable[[int], str]
"""Index of a record → its place for an error message, as "reviews.csv:17"."""

SHOWN_CHARACTERS = 60


class Data(Protocol):
    """A split, as scores are computed of it."""

    @property
    def examples(self) -> Any:
        """The ``Examples``."""

    @property
    def records(self) -> Any:
        """``records[i]`` is the row that example ``i`` was made of."""

    @property
    def rows(self) -> np.ndarray:
        """Numbers of those rows [n]: equal ones, side by side, are pieces of one row."""


@dataclass(frozen=True)
class Piece:
    """One example and what an evaluation kept of it. A row is one piece, or several where its text is long."""

    example: Example
    outputs: Outputs


def pieces_of(outputs: Outputs, data: Data) -> Iterator[tuple[Record, list[Piece]]]:
    """Each row of a split with its pieces, in order."""
    rows = np.asarray(data.rows)
    first = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]])) if len(rows) else rows
    for start, end in zip(first, [*first[1:], len(rows)]):
        pieces = [
            Piece(data.examples[i], {name: values[i] for name, values in outputs.items()})
            for i in range(int(start), int(end))
        ]
        yield data.records[int(start)], pieces


class Task(Protocol):
    """The contract between a task and the rest of jaxtune. All tasks are immutable and hashable."""

    @property
    def name(self) -> str:
        """Name in the configuration, as "classification"."""

    @property
    def head(self) -> str:
        """Head of the model this task trains."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of their ids; empty where the task has none."""

    @property
    def num_labels(self) -> int:
        """Width C of the logits; 0 as long as the labels are unknown."""

    @property
    def default_metric(self) -> str:
        """Validation metric that picks the best checkpoint unless the user names another."""

    @property
    def higher_is_better(self) -> bool:
        """Direction of ``default_metric``; for others see ``jaxtune.directions``."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Scalar metrics that may pick the best checkpoint."""

    @property
    def columns_read(self) -> Mapping[str, str]:
        """Option → column of the data that must be there, as {"data.text": "text"}; the text's columns first."""

    @property
    def per_token(self) -> frozenset[str]:
        """Names of ``outputs`` that have a value per token; the others have one per example."""

    @property
    def dynamic(self) -> Any:
        """What changes examples anew in every epoch (see ``data.loader.Dynamic``), or none."""

    @property
    def generation(self) -> GenerationSettings | None:
        """How texts are written for ``written_metrics``; none where none are."""

    @property
    def written_metrics(self) -> tuple[str, ...]:
        """Metrics of ``metric_names`` that need texts to be written, which takes its time."""

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> Self:
        """The task an experiment asks for. Raises ConfigError for options it does not have."""

    @property
    def problem_type(self) -> str | None:
        """What config.json of a model of this task says under ``problem_type``; none goes by the head."""

    def for_model(self, model: Description) -> Self:
        """The same task, knowing config.json and tokenizer of the model it is for.

        Raises ConfigError for a model that lacks what the task needs (a mask token, say).
        """

    def resolve_labels(
        self, values: Iterable[object], declared: tuple[str, ...] = (), source_names: tuple[str, ...] = ()
    ) -> Self:
        """The same task with its labels settled from the training data.

        Args:
            values: the label column of the training rows, bad rows included.
            declared: names the user gave, in the order of their ids; they win.
            source_names: names the source knows; its integer labels index into them.

        Raises DataError where the training data cannot be learnt from (as a single class).
        """

    def settle(self, experiment: Experiment) -> Experiment:
        """The experiment with what the task took for "auto" from the training data, for config.yaml."""

    def with_class_weights(self, targets: Sequence[int] | np.ndarray) -> Self:
        """The same task with "balanced" replaced by numbers from the training targets [n]."""

    def tokenize(
        self,
        records: Sequence[Record],
        tokenizer: Any,
        where: Where,
        *,
        labelled: bool = True,
        source_names: tuple[str, ...] | None = None,
    ) -> list[Any]:
        """One ``Made`` per record, in order.

        Args:
            tokenizer: a Hugging Face fast tokenizer.
            where: place of ``records[i]`` for messages.
            labelled: False for prediction: the label column is not read and ``target`` is 0.
            source_names: label names of this very source, where they differ from those of the
                training source given to ``resolve_labels``.
        """

    def loss(self, logits: Float[Array, "B N C"], batch: Mapping[str, Array]) -> Sums:
        """Pure, jit-able: "loss" and running metrics as sums, from batch["targets"] and ["weights"] [B, N].

        Slots of weight 0 add nothing, whatever their logits and targets are.
        """

    def outputs(self, logits: Array, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Pure, jit-able: what metrics and answers need of the logits, [B, N, …] or per token [B, S, …]."""

    def score(self, outputs: Outputs, data: Data) -> dict[str, Any]:
        """Exact metrics of the gathered outputs of a split, ready for JSON.

        Raises DataError without an example, NonFiniteError for NaN or infinite outputs.
        """

    def answer(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """What the outputs of one record mean, ready for JSON."""

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Metric → the numbers of one labelled record that a test of significance draws again.

        See ``reports.corpus_scores``; empty where answer and truth say it all.
        """

    def truth(self, record: Record, target: Any) -> Any:
        """What the data says, ready for JSON: of a record and its example's ``target``."""


class Plain:
    """What most tasks have alike: examples that stay as they are, no texts to write, no need to know the model."""

    per_token: ClassVar[frozenset[str]] = frozenset()
    dynamic: Any = None
    generation: Any = None
    written_metrics: ClassVar[tuple[str, ...]] = ()
    problem_type: ClassVar[str | None] = None

    def for_model(self, model: Description) -> Self:
        """See ``Task.for_model``."""
        return self

    def settle(self, experiment: Experiment) -> Experiment:
        """See ``Task.settle``."""
        return experiment

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """See ``Task.scores``."""
        return {}


class PerExample(Plain):
    """The parts of a task whose logits, one vector per example, are all that an evaluation needs."""

    columns: Any
    label: str

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        return {**self.columns.columns_read, "data.label": self.label}

    def outputs(self, logits: Array, batch: Mapping[str, Array]) -> dict[str, Array]:
        """See ``Task.outputs``."""
        return {"logits": logits}

    def score(self, outputs: Outputs, data: Data) -> dict[str, Any]:
        """See ``Task.score``."""
        return self.metrics(outputs["logits"], np.asarray(data.examples.targets))

    def answer(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """See ``Task.answer``."""
        return self.read(np.asarray(pieces[0].outputs["logits"]))

    def metrics(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Exact metrics of predictions [n, C] and targets [n]."""
        raise NotImplementedError

    def read(self, prediction: np.ndarray) -> dict[str, Any]:
        """What logits [C] of one example mean, ready for JSON."""
        raise NotImplementedError


class Unlabelled:
    """The parts of a task that learns from texts alone: nothing to settle from the training rows."""

    labels: ClassVar[tuple[str, ...]] = ()
    num_labels: ClassVar[int] = 0

    def resolve_labels(
        self, values: Iterable[object], declared: tuple[str, ...] = (), source_names: tuple[str, ...] = ()
    ) -> Self:
        """See ``Task.resolve_labels``."""
        return self

    def with_class_weights(self, targets: Sequence[int] | np.ndarray) -> Self:
        """See ``Task.with_class_weights``."""
        return self


def no_classes(experiment: Experiment, task: str) -> None:
    """Raises ConfigError for options that only classes have."""
    data, train = experiment.data, experiment.train
    for option, value in (("train.class_weights", train.class_weights), ("data.labels", data.labels)):
        if value:
            raise ConfigError(f"{option} is {value!r}, but {task} has no classes; leave it out")


def one_text(experiment: Experiment, task: str) -> None:
    """Raises ConfigError for a second text."""
    if experiment.data.text_pair is not None:
        raise ConfigError(
            f"data.text_pair is {experiment.data.text_pair!r}; {task} reads one text, leave it out"
        )


def shown(value: object) -> str:
    """A value as it may stand in a message: at most SHOWN_CHARACTERS of it, however long it is."""
    if isinstance(value, str | bytes):
        text = repr(value[:SHOWN_CHARACTERS])
        return text if len(value) <= SHOWN_CHARACTERS else f"{text}… ({len(value):,} long)"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def row_error(place: str, column: str, problem: str, expected: str) -> DataError:
    """A DataError about one field of one row, with what the user can do about it."""
    return DataError(
        f"{place}: column {column!r} {problem}; expected {expected}. "
        "Correct the row; in training, --data.on-error skip leaves out bad rows."
    )


def read_column(record: Record, column: str, option: str, place: str) -> Any:
    """The value of a column. Raises DataError that lists the columns there are."""
    try:
        return record[column]
    except KeyError:
        columns = ", ".join(repr(name) for name in record) or "none"
        raise DataError(
            f"{place}: there is no column {column!r}; the columns are: {columns}. Name the right one with {option}."
        ) from None


def plain_value(value: object) -> object:
    """NumPy scalars and 0-d arrays as plain Python values; everything else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value
