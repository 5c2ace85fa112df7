"""One label per text, or per pair of texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

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
from jaxtune.tasks.reading.labels import checked_names, class_names, label_id, label_name
from jaxtune.tasks.scoring import classification as metrics

SHOWN_LABELS = 20


@dataclass(frozen=True)
class Classification(PerExample):
    """Softmax cross-entropy over the labels, with class weights and label smoothing as torch has them."""

    columns: TextColumns
    label: str
    labels: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    source_names: tuple[str, ...] = ()

    name: ClassVar[str] = "classification"
    head: ClassVar[str] = "classification"
    problem_type: ClassVar[str | None] = "single_label_classification"
    default_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    @property
    def num_labels(self) -> int:
        """Number of classes C; 0 as long as the labels are unknown."""
        return len(self.labels)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Scalar metrics that may pick the best checkpoint."""
        return metrics.classification_metric_names(self.num_labels)

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> Classification:
        """The task an experiment asks for. Raises ConfigError for labels or weights that cannot be."""
        data, train = experiment.data, experiment.train
        if not 0 <= train.label_smoothing < 1:
            raise ConfigError(f"train.label_smoothing is {train.label_smoothing}, expected 0 up to below 1")
        task = cls(
            TextColumns(data.text, data.text_pair, data.max_length),
            data.label,
            label_smoothing=train.label_smoothing,
            class_weights=train.class_weights,
        )
        return task._with_labels(tuple(data.labels)) if data.labels else task

    def resolve_labels(
        self, values: Iterable[object], declared: tuple[str, ...] = (), source_names: tuple[str, ...] = ()
    ) -> Classification:
        """The task with its labels: declared, else the source's own, else the distinct training values.

        Raises DataError if fewer than two of the classes occur in the training data, or there are
        too many distinct values for a label.
        """
        values = list(values)
        labels = declared or self.labels or source_names or class_names(values)
        ids = [label_id(value, labels, source_names) for value in values]
        found = set(ids) - {None}
        if not found:
            raise DataError(
                f"no training row has a usable label in column {self.label!r}{_example_of(values)}; expected "
                f"{_listed(labels) if labels else 'texts or integers'}. Name the column with --data.label, "
                "or the labels with --data.labels."
            )
        if len(found) == 1:
            only = labels[next(index for index in found if index is not None)]
            unknown = next((v for v, i in zip(values, ids) if i is None and label_name(v) is not None), None)
            if unknown is not None:
                raise DataError(
                    f"of the labels {_listed(labels)} only {only!r} occurs in column {self.label!r}, beside labels "
                    f"that were never declared, as {shown(unknown)}. Name all labels with --data.labels."
                )
            raise DataError(
                f"every training row has the label {only!r} (column {self.label!r}); expected at least two "
                "classes. Check --data.label, --data.limit and how the data was split."
            )
        return dataclasses.replace(self._with_labels(labels), source_names=source_names)

    def _with_labels(self, labels: tuple[str, ...]) -> Classification:
        names = checked_names(labels)
        weights = self.class_weights
        if isinstance(weights, tuple) and (
            len(weights) != len(names) or min(weights) < 0 or sum(weights) <= 0
        ):
            raise ConfigError(
                f"train.class_weights are {list(weights)}, expected {len(names)} numbers of 0 or more, "
                f"one for each of {_quoted(names)}"
            )
        return dataclasses.replace(self, labels=names)

    def with_class_weights(self, targets: Sequence[int] | np.ndarray) -> Classification:
        """The task with "balanced" as numbers, n / (classes · count), from the training targets [n].

        A class that does not occur in them weighs 1. Without "balanced" the task is returned as it is.
        """
        if self.class_weights != "balanced":
            return self
        counts = np.bincount(np.asarray(targets, np.int64), minlength=self.num_labels)
        occurring = np.count_nonzero(counts)
        weights = np.where(counts > 0, counts.sum() / (occurring * np.maximum(counts, 1)), 1.0)
        return dataclasses.replace(self, class_weights=tuple(float(weight) for weight in weights))

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
        names = self.source_names if source_names is None else source_names

        def target_of(record: Record, place: str) -> int:
            return self._target(record, names, place)

        return tokenize_records(self.columns, records, tokenizer, where, target_of if labelled else None)

    def _target(self, record: Record, source_names: tuple[str, ...], place: str) -> int:
        value = plain_value(read_column(record, self.label, "--data.label", place))
        target = label_id(value, self.labels, source_names)
        if target is not None:
            return target
        if value is None or (isinstance(value, str) and not value.strip()):
            problem = "has no label (it is null)" if value is None else "has no label (it is empty)"
        elif isinstance(value, int) and value == -1:
            problem = "has the label -1, which marks rows without a label"
        else:
            problem = f"has the label {shown(value)}, which was never declared"
        # A class that training rows lack (it may occur in validation only) has to be declared by name.
        expected = f"{_listed(self.labels)} (--data.labels declares others)"
        raise row_error(place, self.label, problem, expected)

    def loss(self, logits: Float[Array, "B N C"], batch: Mapping[str, Array]) -> Sums:
        """Cross-entropy and accuracy as sums; Σ loss / Σ weight is torch's CrossEntropyLoss.

        Args:
            logits: float32 [B, N, C].
            batch: ``targets`` int32 [B, N] and ``weights`` float32 [B, N] (1 real, 0 absent).

        Returns:
            loss: (Σ w·l, Σ w·class weight of the target); accuracy: (Σ w·correct, Σ w).
        """
        weights = batch["weights"].astype(jnp.float32)
        present = weights > 0
        # An absent slot may hold any target and any logits; neither may reach a sum or a gradient.
        targets = jnp.where(present, batch["targets"], 0)
        logits = jnp.where(present[..., None], logits.astype(jnp.float32), 0.0)
        log_probabilities = jax.nn.log_softmax(logits, axis=-1)
        class_weights = self._class_weights()
        picked = jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
        weight = weights * class_weights[targets]
        # torch weighs the smoothed part by the weight of each class, and divides both by the target's.
        uniform = (log_probabilities * class_weights).mean(axis=-1)
        smoothing = self.label_smoothing
        losses = -(1.0 - smoothing) * weight * picked - smoothing * weights * uniform
        correct = weights * (logits.argmax(axis=-1) == targets)
        return {"loss": (losses.sum(), weight.sum()), "accuracy": (correct.sum(), weights.sum())}

    def _class_weights(self) -> Float[Array, C]:
        if self.class_weights == "balanced":
            raise ValueError("balanced class weights need with_class_weights(targets) before the loss")
        weights = self.class_weights or (1.0,) * self.num_labels
        return jnp.asarray(weights, jnp.float32)

    def metrics(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """See ``scoring.classification.classification_metrics``; predictions are logits [n, C]."""
        return dict(metrics.classification_metrics(predictions, targets))

    def truth(self, record: Record, target: Any) -> str:
        """The label's name."""
        return self.labels[int(target)]

    def read(self, prediction: np.ndarray) -> dict[str, Any]:
        """{"label", "score", "probabilities": {label: probability}} of one example's logits [C]."""
        probabilities = special.softmax(np.asarray(prediction, np.float64))
        best = int(probabilities.argmax())
        return {
            "label": self.labels[best],
            "score": float(probabilities[best]),
            "probabilities": {name: float(p) for name, p in zip(self.labels, probabilities)},
        }


def _listed(labels: tuple[str, ...]) -> str:
    return f"one of {_quoted(labels)}"


def _quoted(labels: tuple[str, ...]) -> str:
    named = ", ".join(shown(label) for label in labels[:SHOWN_LABELS])
    more = len(labels) - SHOWN_LABELS
    return named + (f" and {more} more" if more > 0 else "")


def _example_of(values: Sequence[object]) -> str:
    odd = next((value for value in values if value is not None and label_name(value) != "-1"), None)
    return "" if odd is None else f" (it holds {shown(plain_value(odd))}, for instance)"
