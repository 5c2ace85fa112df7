"""What every task offers, and how a bad row is reported.

A task is one frozen dataclass in one file of this folder plus its entry in registry.py. It turns
records into examples, logits into (sum, weight) pairs, and predictions into metrics and readable
answers; it knows neither files nor batches nor meshes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Array, Float

from jaxtune.config import Experiment
from jaxtune.errors import DataError

Record = Mapping[str, Any]
"""One raw row: column name → value."""

Example = dict[str, Any]
"""tokens, token_types: np.int32 [n]; target: int or float; truncated: bool."""

Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""name → (Σ weight·value, Σ weight), float32 scalars; divided once, on the host."""

Where = Callable[[int], str]
"""Index of a record → its place for an error message, as "reviews.csv:17"."""

SHOWN_CHARACTERS = 60


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
        """Direction of ``default_metric``; for others see ``metrics.higher_is_better``."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Scalar metrics that may pick the best checkpoint."""

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> Self:
        """The task an experiment asks for. Raises ConfigError for options it does not have."""

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
    ) -> list[Example | DataError]:
        """One Example per record, or the DataError that says why there is none, in order.

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

    def metrics(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Exact metrics of gathered predictions [n, C] and targets [n], ready for JSON.

        Raises DataError without an example, NonFiniteError for NaN or infinite predictions.
        """

    def read(self, prediction: np.ndarray) -> dict[str, Any]:
        """What logits [C] of one example mean, ready for JSON."""


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
