"""One label per word: entities, parts of speech, roles. The first token of a word carries its label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.base import (
    IGNORED,
    Made,
    Outputs,
    Record,
    Sums,
    Where,
    plain_value,
    read_column,
    row_error,
    shown,
)
from jaxtune.tasks.labels import label_id, label_name
from jaxtune.tasks.losses import example_sums, token_sums
from jaxtune.tasks.scoring.entities import ENTITY_METRICS, entity_metrics, read_entities

OUTSIDE = "O"


@dataclass(frozen=True)
class TokenClassification:
    """Cross-entropy on the first token of each word.

    Where the labels are BIO tags the metrics are those of entities, as conlleval and seqeval count them;
    otherwise every label is one, and ``accuracy`` is what counts. Words beyond ``max_length`` are cut off
    and not scored; the share of such texts is printed.
    """

    text: str
    label: str
    max_length: int
    labels: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    source_names: tuple[str, ...] = ()

    name: ClassVar[str] = "token_classification"
    head: ClassVar[str] = "token_classification"
    higher_is_better: ClassVar[bool] = True
    per_token: ClassVar[frozenset[str]] = frozenset({"labels"})
    dynamic: ClassVar[None] = None

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> TokenClassification:
        """The task an experiment asks for. Raises ConfigError for options it does not have."""
        data, train = experiment.data, experiment.train
        for option, value in (
            ("train.class_weights", train.class_weights),
            ("data.text_pair", data.text_pair),
        ):
            if value:
                raise ConfigError(f"{option} is {value!r}; {cls.name} does not have it, leave it out")
        return cls(data.text, data.label, data.max_length, tuple(data.labels), train.label_smoothing)

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        return {"data.text": self.text, "data.label": self.label}

    @property
    def num_labels(self) -> int:
        """Number of labels C; 0 as long as they are unknown."""
        return len(self.labels)

    @property
    def is_bio(self) -> bool:
        """Whether the labels are BIO tags."""
        return OUTSIDE in self.labels and all(
            tag == OUTSIDE or tag[:2] in ("B-", "I-") for tag in self.labels
        )

    @property
    def default_metric(self) -> str:
        """F1 of entities, or accuracy."""
        return "f1" if self.is_bio else "accuracy"

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Scalar metrics that may pick the best checkpoint."""
        return ("loss", *(ENTITY_METRICS if self.is_bio else ("accuracy",)))

    def resolve_labels(
        self, values: Iterable[object], declared: tuple[str, ...] = (), source_names: tuple[str, ...] = ()
    ) -> TokenClassification:
        """The task with its labels: declared, else the source's own, else the distinct ones of the training rows.

        Raises DataError if there are fewer than two.
        """
        names: set[str] = set()
        if not (declared or self.labels or source_names):
            for value in values:
                found = map(label_name, value) if isinstance(value, list | tuple) else ()
                names |= {name for name in found if name is not None}
        # "O" first: the id of what is no entity is then 0, as everywhere.
        labels = (
            declared or self.labels or source_names or tuple(sorted(names, key=lambda n: (n != OUTSIDE, n)))
        )
        if len(labels) < 2:
            raise DataError(
                f"the training rows have {len(labels)} different labels in column {self.label!r}; expected lists of "
                "labels, one per word, with at least two that differ. Name the column with --data.label."
            )
        return dataclasses.replace(self, labels=labels, source_names=source_names)

    def with_class_weights(self, targets: Sequence[int] | np.ndarray) -> TokenClassification:
        """The task itself: labels of words are not weighed."""
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
        """See ``Task.tokenize``. A text in place of a list of words is split at white space."""
        names = self.source_names if source_names is None else source_names
        made: list[Made] = []
        for i, record in enumerate(records):
            try:
                words = self._words(record, where(i))
                ids = self._ids(record, len(words), names, where(i)) if labelled else [0] * len(words)
                made.append(self._example(words, ids, tokenizer))
            except DataError as error:
                made.append(error)
        return made

    def _words(self, record: Record, place: str) -> list[str]:
        value = plain_value(read_column(record, self.text, "--data.text", place))
        words = value.split() if isinstance(value, str) else value
        if isinstance(words, np.ndarray | tuple):
            words = list(words)
        if not isinstance(words, list) or not words:
            raise row_error(place, self.text, f"holds {shown(value)}", "a list of words, at least one")
        for n, word in enumerate(words):
            if not isinstance(word, str) or not word.strip():
                raise row_error(
                    place, self.text, f"has {shown(word)} as word {n + 1}", "words that are not empty"
                )
        return words

    def _ids(self, record: Record, count: int, names: tuple[str, ...], place: str) -> list[int]:
        value = plain_value(read_column(record, self.label, "--data.label", place))
        if not isinstance(value, list | tuple | np.ndarray) or len(value) != count:
            has = f"{len(value)} labels" if isinstance(value, list | tuple | np.ndarray) else shown(value)
            raise row_error(place, self.label, f"has {has} for {count} words", "one label per word")
        ids = []
        for n, raw in enumerate(value):
            found = label_id(raw, self.labels, names)
            if found is None:
                problem = f"has {shown(raw)} as label {n + 1}, which was never declared"
                raise row_error(place, self.label, problem, f"one of {', '.join(self.labels[:20])}")
            ids.append(found)
        return ids

    def _example(self, words: list[str], ids: list[int], tokenizer: Any) -> Made:
        encoding = tokenizer(
            [words],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            verbose=False,
        ).encodings[0]
        labels = np.full(len(encoding.ids), IGNORED, np.int32)
        before = None
        for place, word in enumerate(encoding.word_ids):
            if word is not None and word != before:
                labels[place] = ids[word]
            before = word
        return {
            "tokens": np.asarray(encoding.ids, np.int32),
            "token_types": np.asarray(encoding.type_ids, np.int32),
            "labels": labels,
            "truncated": bool(encoding.overflowing),
        }

    def loss(self, logits: Float[Array, "B S C"], batch: Mapping[str, Array]) -> Sums:
        """Cross-entropy and accuracy over the first tokens of words."""
        return token_sums(logits, batch, self.label_smoothing)

    def outputs(self, logits: Float[Array, "B S C"], batch: Mapping[str, Array]) -> dict[str, Array]:
        """The likeliest label of every word at its first token, and the sums of each example's losses."""
        likeliest = jnp.where(batch["labels"] != IGNORED, logits.argmax(axis=-1), IGNORED)
        return {"labels": likeliest.astype(jnp.int32), **example_sums(logits, batch)}

    def score(self, outputs: Outputs, examples: Any) -> dict[str, Any]:
        """Loss and accuracy per word; for BIO tags precision, recall and F1 of entities, also per type."""
        count = max(float(np.sum(outputs["count"], dtype=np.float64)), 1.0)
        result: dict[str, Any] = {"loss": float(np.sum(outputs["loss_sum"], dtype=np.float64)) / count}
        true, said = [], []
        for i, predicted in enumerate(outputs["labels"]):
            true.append(self._names(examples.labels_of(i)))
            said.append(self._names(predicted))
        if self.is_bio:
            return {**result, **entity_metrics(true, said)}
        right = sum(a == b for row, other in zip(true, said) for a, b in zip(row, other))
        return {**result, "accuracy": right / count}

    def answer(self, outputs: Outputs) -> dict[str, Any]:
        """One label per word; of BIO tags also the entities, by type and place: [type, first word, word after]."""
        names = self._names(outputs["labels"])
        found = {"entities": [list(entity) for entity in read_entities(names)]} if self.is_bio else {}
        return {"labels": names, **found}

    def _names(self, ids: Any) -> list[str]:
        return [self.labels[n] for n in np.asarray(ids) if n != IGNORED]

    def truth(self, record: Record, target: Any) -> Any:
        """The labels as the data has them."""
        return plain_value(record.get(self.label))
