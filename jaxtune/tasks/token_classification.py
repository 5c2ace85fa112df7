"""One label per word: entities, parts of speech, roles. The first token of a word carries its label."""

from __future__ import annotations

import dataclasses
import logging
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
    Data,
    Made,
    Outputs,
    Piece,
    Plain,
    Record,
    Sums,
    Where,
    plain_value,
    read_column,
    row_error,
    shown,
)
from jaxtune.tasks.losses import example_sums, token_sums
from jaxtune.tasks.reading.labels import label_id, label_name
from jaxtune.tasks.scoring.entities import (
    ENTITY_METRICS,
    SchemeBreak,
    entity_metrics,
    read_entities,
    scheme_breaks,
)

logger = logging.getLogger(__name__)

OUTSIDE = "O"


@dataclass(frozen=True)
class TokenClassification(Plain):
    """Cross-entropy on the first token of each word.

    Where the labels are BIO tags the metrics are those of entities, as conlleval and seqeval count them;
    otherwise every label is one, and ``accuracy`` is what counts. Words beyond ``max_length`` are cut off
    and not scored; the share of such texts is printed.

    Attributes:
        text_pair: column of the predicate whose roles the labels are: its words, or its place in the sentence. It is
            read as a second text, which has no labels (Shi & Lin, Simple BERT Models for Relation Extraction and
            Semantic Role Labeling, 2019).
    """

    text: str
    label: str
    max_length: int
    labels: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    source_names: tuple[str, ...] = ()
    text_pair: str | None = None

    name: ClassVar[str] = "token_classification"
    head: ClassVar[str] = "token_classification"
    higher_is_better: ClassVar[bool] = True
    per_token: ClassVar[frozenset[str]] = frozenset({"labels"})

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> TokenClassification:
        """The task an experiment asks for. Raises ConfigError for options it does not have."""
        data, train = experiment.data, experiment.train
        if train.class_weights:
            raise ConfigError(
                f"train.class_weights is {train.class_weights!r}; {cls.name} does not have it, leave it out"
            )
        return cls(
            data.text,
            data.label,
            data.max_length,
            tuple(data.labels),
            train.label_smoothing,
            text_pair=data.text_pair,
        )

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        pair = {} if self.text_pair is None else {"data.text_pair": self.text_pair}
        return {"data.text": self.text, **pair, "data.label": self.label}

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

        BIO tags of the training rows that break the scheme are said in the log. Raises DataError if there are
        fewer than two labels.
        """
        values, names = list(values), set[str]()
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
        task = dataclasses.replace(self, labels=labels, source_names=source_names)
        if task.is_bio:
            task._say_breaks(values)
        return task

    def _say_breaks(self, values: Sequence[object]) -> None:
        """Log how many tags of the rows are not in IOB2; they are read as conlleval does, and nothing is changed."""
        known: dict[tuple[type, object], str | None] = {}

        def name_of(raw: Any) -> str | None:
            key = type(raw), raw
            if key not in known:
                found = label_id(raw, self.labels, self.source_names)
                known[key] = None if found is None else self.labels[found]
            return known[key]

        breaks: list[tuple[int, SchemeBreak]] = []
        sentences: list[list[str]] = []
        for row, value in enumerate(values, start=1):
            given: list[Any] = list(value) if isinstance(value, list | tuple) else []
            named = [name_of(tag) for tag in given if isinstance(tag, str | int)]
            tags = [tag for tag in named if tag is not None]
            if len(tags) == len(given):  # other rows are refused, or skipped, when they are tokenised
                sentences.append(tags)
                breaks += [(row, found) for found in scheme_breaks(tags)]
        if not breaks:
            return
        iob1 = not any(scheme_breaks(tags, "iob1") for tags in sentences)
        row, first = breaks[0]
        logger.warning(
            "%d tags in %d of %d training rows break the scheme IOB2%s, the first in row %d: word %d, %r %s. "
            "They are read as conlleval does: an I- that continues no entity starts one",
            len(breaks),
            len({row for row, _ in breaks}),
            len(values),
            ", but keep to IOB1" if iob1 else "",
            row,
            first.position + 1,
            first.tag,
            first.problem,
        )

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
                made.append(self._example(words, self._predicate(record, words, where(i)), ids, tokenizer))
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

    def _predicate(self, record: Record, words: Sequence[str], place: str) -> list[str] | None:
        """The words of the second text, if there is one: given as such, or by their places counted from 0."""
        if self.text_pair is None:
            return None
        value: Any = plain_value(read_column(record, self.text_pair, "--data.text-pair", place))
        if isinstance(value, np.ndarray):
            value = value.tolist()
        value = value.split() if isinstance(value, str) else value
        parts: list[Any] = value if isinstance(value, list) else [value]
        found = []
        for part in parts:
            is_place = isinstance(part, int) and not isinstance(part, bool)
            if is_place and 0 <= part < len(words):
                found.append(words[part])
            elif isinstance(part, str) and part.strip():
                found.append(part)
            else:
                problem = f"holds {shown(value)}"
                expected = f"words, or the places of words from 0 to {len(words) - 1}"
                raise row_error(place, self.text_pair, problem, expected)
        if not found:
            raise row_error(place, self.text_pair, "is empty", "the words of the predicate, or their places")
        return found

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

    def _example(self, words: list[str], pair: list[str] | None, ids: list[int], tokenizer: Any) -> Made:
        encoding = tokenizer(
            [words],
            None if pair is None else [pair],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            verbose=False,
        ).encodings[0]
        labels = np.full(len(encoding.ids), IGNORED, np.int32)
        before = None
        for place, (word, side) in enumerate(zip(encoding.word_ids, encoding.sequence_ids)):
            if word is not None and side == 0 and word != before:
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

    def score(self, outputs: Outputs, data: Data) -> dict[str, Any]:
        """Loss and accuracy per word; for BIO tags precision, recall and F1 of entities, also per type."""
        count = max(float(np.sum(outputs["count"], dtype=np.float64)), 1.0)
        result: dict[str, Any] = {"loss": float(np.sum(outputs["loss_sum"], dtype=np.float64)) / count}
        true, said = [], []
        for i, predicted in enumerate(outputs["labels"]):
            true.append(self._names(data.examples.labels_of(i)))
            said.append(self._names(predicted))
        if self.is_bio:
            return {**result, **entity_metrics(true, said)}
        right = sum(a == b for row, other in zip(true, said) for a, b in zip(row, other))
        return {**result, "accuracy": right / count}

    def answer(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """One label per word; of BIO tags also the entities, by type and place: [type, first word, word after]."""
        names = self._names(pieces[0].outputs["labels"])
        found = {"entities": [list(entity) for entity in read_entities(names)]} if self.is_bio else {}
        return {"labels": names, **found}

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Of BIO tags what F1, precision and recall are ratios of; else how many words are right, and how many are."""
        said = self._names(pieces[0].outputs["labels"])
        true = self._names(pieces[0].example["labels"])
        if not self.is_bio:
            return {"accuracy": (sum(a == b for a, b in zip(true, said)), len(true))}
        expected, found = set(read_entities(true)), set(read_entities(said))
        right = len(expected & found)
        return {
            "f1": (2 * right, len(found) + len(expected)),
            "precision": (right, len(found)),
            "recall": (right, len(expected)),
        }

    def _names(self, ids: Any) -> list[str]:
        return [self.labels[n] for n in np.asarray(ids) if n != IGNORED]

    def truth(self, record: Record, target: Any) -> Any:
        """The labels as the data has them."""
        return plain_value(record.get(self.label))
