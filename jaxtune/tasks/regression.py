"""One number per text, or per pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.base import (
    Example,
    PerExample,
    Record,
    Sums,
    Where,
    plain_value,
    read_column,
    row_error,
    shown,
)
from jaxtune.tasks.reading.encoding import TextColumns, tokenize_records
from jaxtune.tasks.scoring import regression as metrics


@dataclass(frozen=True)
class Regression(PerExample):
    """Mean squared error of one output."""

    columns: TextColumns
    label: str

    name: ClassVar[str] = "regression"
    head: ClassVar[str] = "regression"
    labels: ClassVar[tuple[str, ...]] = ()
    num_labels: ClassVar[int] = 1
    default_metric: ClassVar[str] = "pearson"
    higher_is_better: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = metrics.REGRESSION_METRICS

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> Regression:
        """The task an experiment asks for. Raises ConfigError for options that only classes have."""
        data, train = experiment.data, experiment.train
        for option, value in (
            ("train.label_smoothing", train.label_smoothing),
            ("train.class_weights", train.class_weights),
            ("data.labels", data.labels),
        ):
            if value:
                raise ConfigError(f"{option} is {value!r}, but regression has no classes; leave it out")
        return cls(TextColumns(data.text, data.text_pair, data.max_length), data.label)

    def resolve_labels(
        self, values: Iterable[object], declared: tuple[str, ...] = (), source_names: tuple[str, ...] = ()
    ) -> Regression:
        """The task itself: numbers have no names. Raises DataError if no training label is a number."""
        first: object = None
        for value in values:
            if number(value) is not None:
                return self
            first = value if first is None else first
        seen = "" if first is None else f" (it holds {shown(plain_value(first))}, for instance)"
        raise DataError(
            f"no training row has a number in column {self.label!r}{seen}; expected finite numbers. "
            "Name the column with --data.label, or predict classes with --task classification."
        )

    def with_class_weights(self, targets: Sequence[int] | np.ndarray) -> Regression:
        """The task itself: there are no classes to weigh."""
        return self

    def tokenize(
        self,
        records: Sequence[Record],
        tokenizer: Any,
        where: Where,
        *,
        labelled: bool = True,
        source_names: tuple[str, ...] | None = None,
    ) -> list[Example | DataError]:
        """One Example per record, or the DataError that says why there is none (see ``Task.tokenize``)."""
        target_of = self._target if labelled else None
        return tokenize_records(self.columns, records, tokenizer, where, target_of)

    def _target(self, record: Record, place: str) -> float:
        value = plain_value(read_column(record, self.label, "--data.label", place))
        target = number(value)
        if target is None:
            problem = "is null" if value is None else f"holds {shown(value)}"
            raise row_error(place, self.label, problem, "a finite number")
        return target

    def loss(self, logits: Float[Array, "B N 1"], batch: Mapping[str, Array]) -> Sums:
        """Squared error as sums.

        Args:
            logits: float32 [B, N, 1].
            batch: ``targets`` float32 [B, N] and ``weights`` float32 [B, N] (1 real, 0 absent).

        Returns:
            loss: (Σ w·(prediction - target)², Σ w); mae: (Σ w·|prediction - target|, Σ w).
        """
        weights = batch["weights"].astype(jnp.float32)
        # Masked before squaring: an absent slot may hold anything, and may not reach a gradient.
        errors = logits[..., 0].astype(jnp.float32) - batch["targets"].astype(jnp.float32)
        errors = jnp.where(weights > 0, errors, 0.0)
        total = weights.sum()
        return {
            "loss": ((weights * errors**2).sum(), total),
            "mae": ((weights * jnp.abs(errors)).sum(), total),
        }

    def metrics(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """See ``scoring.regression.regression_metrics``; predictions are [n, 1]."""
        return dict(metrics.regression_metrics(predictions, targets))

    def truth(self, record: Record, target: Any) -> float:
        """The number."""
        return float(target)

    def read(self, prediction: np.ndarray) -> dict[str, Any]:
        """{"value"} of one example's prediction [1]."""
        return {"value": float(np.asarray(prediction).reshape(-1)[0])}


def number(value: object) -> float | None:
    """A raw label as a finite number (texts as CSV has them included); None if it is none."""
    value = plain_value(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    # A target becomes float32, and must stay finite there; NaN fails the comparison.
    return result if abs(result) <= float(np.finfo(np.float32).max) else None
