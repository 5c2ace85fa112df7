"""Any number of labels per text, or per pair of texts."""

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
    Piece,
    Record,
    Sums,
    Where,
    plain_value,
    read_column,
    row_error,
    shown,
)
from jaxtune.tasks.reading.encoding import TextColumns, tokenize_records
from jaxtune.tasks.reading.labels import checked_names, class_names, label_id
from jaxtune.tasks.scoring import multi_label as metrics

THRESHOLD = 0.5
"""A label is said where its probability is above."""
SHOWN_LABELS = 20


@dataclass(frozen=True)
class MultiLabel(PerExample):
    """Binary cross-entropy of every label, as torch's BCEWithLogitsLoss has it; a label is said above THRESHOLD.

    Attributes:
        separator: what stands between labels where the column holds a text.
        class_weights: weight of each label's positive examples, torch's ``pos_weight``; "balanced" is the number
            of training texts without the label over the number with it.
    """

    columns: TextColumns
    label: str
    separator: str = ","
    labels: tuple[str, ...] = ()
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    source_names: tuple[str, ...] = ()

    name: ClassVar[str] = "multi_label"
    head: ClassVar[str] = "classification"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    default_metric: ClassVar[str] = "f1_micro"
    higher_is_better: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = metrics.MULTI_LABEL_METRICS

    @property
    def num_labels(self) -> int:
        """Number of labels C; 0 as long as they are unknown."""
        return len(self.labels)

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> MultiLabel:
        """The task an experiment asks for. Raises ConfigError for labels or options that cannot be."""
        data, train = experiment.data, experiment.train
        if train.label_smoothing:
            raise ConfigError(
                f"train.label_smoothing is {train.label_smoothing!r}; {cls.name} does not have it, leave it out"
            )
        if not data.label_separator.strip():
            raise ConfigError(
                f"data.label_separator is {data.label_separator!r}, expected a character, as , or |"
            )
        task = cls(
            TextColumns(data.text, data.text_pair, data.max_length),
            data.label,
            data.label_separator.strip(),
            class_weights=train.class_weights,
        )
        return task._with_labels(tuple(data.labels)) if data.labels else task

    def resolve_labels(
        self, values: Iterable[object], declared: tuple[str, ...] = (), source_names: tuple[str, ...] = ()
    ) -> MultiLabel:
        """The task with its labels: declared, else the source's own, else the distinct training values.

        Raises DataError where fewer than two labels are known, or no training row has any of them.
        """
        rows = [read_labels(value, self.separator) for value in values]
        flat = [value for row in rows if row is not None for value in row]
        labels = declared or self.labels or source_names or class_names(flat)
        if len(labels) < 2:
            raise DataError(
                f"the training rows have {len(labels)} different labels in column {self.label!r}; expected lists of "
                "labels with at least two that differ. Name the column with --data.label, or the labels with "
                "--data.labels."
            )
        if all(label_id(value, labels, source_names) is None for value in flat):
            seen = f" (it holds {shown(plain_value(flat[0]))}, for instance)" if flat else ""
            raise DataError(
                f"no training row has one of the labels {', '.join(labels[:SHOWN_LABELS])} in column "
                f"{self.label!r}{seen}. Name the column with --data.label, or the labels with --data.labels."
            )
        return dataclasses.replace(self._with_labels(labels), source_names=source_names)

    def _with_labels(self, labels: tuple[str, ...]) -> MultiLabel:
        names = checked_names(labels)
        weights = self.class_weights
        if isinstance(weights, tuple) and (len(weights) != len(names) or min(weights) <= 0):
            raise ConfigError(
                f"train.class_weights are {list(weights)}, expected {len(names)} numbers above 0, one for each label"
            )
        return dataclasses.replace(self, labels=names)

    def with_class_weights(self, targets: Sequence[int] | np.ndarray) -> MultiLabel:
        """The task with "balanced" as numbers, (texts without the label) / (texts with it), from targets [n, C].

        A label that all training texts have, or none, weighs 1.
        """
        if self.class_weights != "balanced":
            return self
        targets = np.asarray(targets)
        having = targets.sum(axis=0)
        lacking = len(targets) - having
        weights = np.where((having > 0) & (lacking > 0), lacking / np.maximum(having, 1), 1.0)
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
        """One Example per record, its target 0 or 1 for each label [C] (see ``Task.tokenize``)."""
        names = self.source_names if source_names is None else source_names

        def target_of(record: Record, place: str) -> Any:
            return self._target(record, names, place) if labelled else np.zeros(self.num_labels, np.int32)

        return tokenize_records(self.columns, records, tokenizer, where, target_of)

    def _target(self, record: Record, source_names: tuple[str, ...], place: str) -> np.ndarray:
        raw = read_column(record, self.label, "--data.label", place)
        values = read_labels(raw, self.separator)
        if values is None:
            problem = "has no labels (it is null)" if raw is None else f"holds {shown(plain_value(raw))}"
            raise row_error(place, self.label, problem, "a list of labels; an empty list for none")
        target = np.zeros(self.num_labels, np.int32)
        for value in values:
            found = label_id(value, self.labels, source_names)
            if found is None:
                listed = ", ".join(shown(label) for label in self.labels[:SHOWN_LABELS])
                problem = f"has the label {shown(plain_value(value))}, which was never declared"
                raise row_error(
                    place, self.label, problem, f"some of {listed} (--data.labels declares others)"
                )
            target[found] = 1
        return target

    def loss(self, logits: Float[Array, "B N C"], batch: Mapping[str, Array]) -> Sums:
        """Binary cross-entropy as sums; Σ loss / Σ weight is torch's BCEWithLogitsLoss(pos_weight).

        Args:
            logits: float32 [B, N, C].
            batch: ``targets`` int32 [B, N, C], 0 or 1, and ``weights`` float32 [B, N] (1 real, 0 absent).

        Returns:
            loss: (Σ w · mean over the labels, Σ w); label_accuracy: the share of right decisions, likewise.
        """
        if self.class_weights == "balanced":
            raise ValueError("balanced class weights need with_class_weights(targets) before the loss")
        weights = batch["weights"].astype(jnp.float32)
        present = (weights > 0)[..., None]
        # An absent slot may hold any target and any logits; neither may reach a sum or a gradient.
        positive = jnp.where(present, batch["targets"], 0).astype(jnp.float32)
        logits = jnp.where(present, logits.astype(jnp.float32), 0.0)
        factor = jnp.asarray(self.class_weights or (1.0,) * self.num_labels, jnp.float32)
        losses = -factor * positive * jax.nn.log_sigmoid(logits)
        losses -= (1.0 - positive) * jax.nn.log_sigmoid(-logits)
        right = ((logits > special.logit(THRESHOLD)) == (positive > 0)).astype(jnp.float32)
        total = weights.sum()
        return {
            "loss": ((weights * losses.mean(axis=-1)).sum(), total),
            "label_accuracy": ((weights * right.mean(axis=-1)).sum(), total),
        }

    def metrics(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """See ``scoring.multi_label.multi_label_metrics``; predictions are logits [n, C], targets 0 or 1 [n, C]."""
        return dict(metrics.multi_label_metrics(predictions, targets, THRESHOLD))

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """What the averages over texts are means of, and micro averages ratios of."""
        logits = np.asarray(pieces[0].outputs["logits"], np.float64)
        true = np.asarray(pieces[0].example["target"]) > 0
        said = logits > special.logit(THRESHOLD)
        right, both = int((said & true).sum()), int(said.sum() + true.sum())
        return {
            "f1_micro": (2 * right, both),
            "precision_micro": (right, int(said.sum())),
            "recall_micro": (right, int(true.sum())),
            "f1_samples": 2 * right / both if both else 0.0,
            "subset_accuracy": int((said == true).all()),
            "label_accuracy": float((said == true).mean()),
            "loss": float((np.logaddexp(0, logits) - logits * true).mean()),
        }

    def truth(self, record: Record, target: Any) -> list[str]:
        """The names of the labels, in the order of their ids."""
        return [name for name, has in zip(self.labels, np.asarray(target)) if has]

    def read(self, prediction: np.ndarray) -> dict[str, Any]:
        """{"labels": those above THRESHOLD, "probabilities": {label: probability}} of one example's logits [C]."""
        probabilities = special.expit(np.asarray(prediction, np.float64))
        return {
            "labels": [name for name, p in zip(self.labels, probabilities) if p > THRESHOLD],
            "probabilities": {name: float(p) for name, p in zip(self.labels, probabilities)},
        }


def read_labels(value: object, separator: str) -> list[Any] | None:
    """The labels of a row: of a list as they are, of a text the parts between separators, of an integer itself.

    An empty text has none. None for what is no labels at all.
    """
    value = plain_value(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    if isinstance(value, list | tuple):
        return list(value)
    return [value] if isinstance(value, int) else None
