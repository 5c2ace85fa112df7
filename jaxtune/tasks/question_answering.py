"""Extractive question answering: which span of a context answers a question, or that none does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Array, Float

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError, DataError
from jaxtune.hub.description import Description
from jaxtune.labels import misplaced_answer
from jaxtune.tasks.base import (
    Data,
    Example,
    Made,
    Outputs,
    Piece,
    Plain,
    Record,
    Sums,
    Unlabelled,
    Where,
    no_classes,
    pieces_of,
    plain_value,
    read_column,
    row_error,
    shown,
)
from jaxtune.tasks.reading.encoding import TextColumns
from jaxtune.tasks.scoring.squad import best_thresholds, score_v1, score_v2, squad_v1, squad_v2
from jaxtune.tasks.scoring.values import checked
from jaxtune.tasks.spans import Span, best_spans, cut_windows, point_at, span_losses

SHOWN_SPANS = 5
"""Spans that an answer lists."""

IMPOSSIBLE = ("impossible", "is_impossible")
"""Columns that say whether a question has no answer, where a source has one."""

EXPECTED = 'a list of {"text", "start"}, or {"text": […], "answer_start": […]}'


@dataclass(frozen=True)
class QuestionAnswering(Unlabelled, Plain):
    """Cross-entropy of the first and the last token of the answer, over the tokens of a question and its context.

    A context longer than ``max_length`` is cut into windows that overlap by ``doc_stride`` tokens; where the answer is
    not whole in a window, or there is none, both point at the window's first token ([CLS]). Of several answers the
    first is learnt, and the best counts.

    Attributes:
        columns: question, context, and tokens of a window.
        label: column of the answers.
        null_threshold: a question has no answer where that scores higher than the best span by more than this; none
            always answers. "auto" becomes 0 if the training rows have questions without an answer, else none.
    """

    columns: TextColumns
    label: str
    doc_stride: int = 128
    max_question_length: int = 64
    # How spans are read changes no example, so it is no part of what a tokenised copy is known by.
    max_answer_length: int = field(default=30, repr=False)
    null_threshold: float | Literal["auto"] | None = field(default="auto", repr=False)

    name: ClassVar[str] = "question_answering"
    head: ClassVar[str] = "span"
    default_metric: ClassVar[str] = "f1"
    higher_is_better: ClassVar[bool] = True
    per_token: ClassVar[frozenset[str]] = frozenset({"logits"})

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> QuestionAnswering:
        """The task an experiment asks for. Raises ConfigError for options it does not have."""
        no_classes(experiment, cls.name)
        data, train = experiment.data, experiment.train
        if data.text_pair is None:
            raise ConfigError(
                "data.text_pair is none; question_answering reads a question (data.text) and a context "
                "(data.text_pair): --data.text question --data.text-pair context --data.label answers"
            )
        if train.label_smoothing:
            raise ConfigError(
                f"train.label_smoothing is {train.label_smoothing}; question_answering does not have it, leave it out"
            )
        return cls(
            TextColumns(data.text, data.text_pair, data.max_length),
            data.label,
            data.doc_stride,
            data.max_question_length,
            data.max_answer_length,
            data.null_threshold,
        )

    def for_model(self, model: Description) -> QuestionAnswering:
        """See ``Task.for_model``. Raises ConfigError where the overlap leaves a window nothing of its own."""
        special = model.tokenizer.num_special_tokens_to_add(pair=True)
        room = self.columns.max_length - special - self.max_question_length
        if self.doc_stride >= room:
            raise ConfigError(
                f"`data.max_length` is {self.columns.max_length}: beside a question of up to {self.max_question_length} "
                f"tokens (`data.max_question_length`) and {special} special tokens it leaves {max(room, 0)} for the "
                f"context, and windows overlap by {self.doc_stride} (`data.doc_stride`); expected more room than "
                "overlap, as with `data.max_length` 384"
            )
        return self

    @property
    def columns_read(self) -> Mapping[str, str]:
        """See ``Task.columns_read``."""
        return {**self.columns.columns_read, "data.label": self.label}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Scalar metrics that may pick the best checkpoint."""
        of_v2 = () if self._threshold is None else ("best_exact_match", "best_f1")
        return ("loss", "exact_match", "f1", *of_v2)

    @property
    def _threshold(self) -> float | None:
        return None if self.null_threshold == "auto" else self.null_threshold

    def resolve_labels(
        self, values: Iterable[object], declared: tuple[str, ...] = (), source_names: tuple[str, ...] = ()
    ) -> QuestionAnswering:
        """The task with its threshold settled: on whether some training row has no answer."""
        if self.null_threshold != "auto":
            return self
        return dataclasses.replace(self, null_threshold=0.0 if any(map(_is_empty, values)) else None)

    def settle(self, experiment: Experiment) -> Experiment:
        """See ``Task.settle``: whether questions may be left without an answer."""
        data = dataclasses.replace(experiment.data, null_threshold=self.null_threshold)
        return dataclasses.replace(experiment, data=data)

    def tokenize(
        self,
        records: Sequence[Record],
        tokenizer: Any,
        where: Where,
        *,
        labelled: bool = True,
        source_names: tuple[str, ...] | None = None,
    ) -> list[Made]:
        """See ``Task.tokenize``: the windows of each row, in order."""
        made: list[Any] = []
        for i, record in enumerate(records):
            try:
                question, context = self.columns.read(record, where(i))
                answers = self._answers(record, str(context), where(i)) if labelled else []
                made.append((question, str(context), answers[:1]))
            except DataError as error:
                made.append(error)
        good = [i for i, row in enumerate(made) if not isinstance(row, DataError)]
        cut = cut_windows(
            [made[i][:2] for i in good],
            tokenizer,
            max_length=self.columns.max_length,
            stride=self.doc_stride,
            max_question=self.max_question_length,
        )
        for i, windows in zip(good, cut):
            made[i] = self._with_targets(windows, made[i][2], where(i))
        return made

    def _with_targets(self, windows: list[Example] | int, answers: list[tuple[str, int]], place: str) -> Made:
        """The windows, each with the first and the last token of the answer."""
        if isinstance(windows, int):
            column = (self.columns.text, str(self.columns.text_pair))[windows]
            return row_error(place, column, "holds only characters that the tokenizer drops", "a text")
        spans: list[tuple[int, int] | None] = [None] * len(windows)
        for text, start in answers:
            begin, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
            try:
                spans = point_at(windows, begin, end)
            except ValueError:
                problem = f"has the answer {shown(text)}, of which the tokenizer drops every character"
                return row_error(place, self.label, problem, "an answer with words")
        return [{**window, "target": list(span or (0, 0))} for window, span in zip(windows, spans)]

    def _answers(self, record: Record, context: str, place: str) -> list[tuple[str, int]]:
        """(text, first character) of each answer; none where the question has no answer.

        Raises DataError for answers of another shape, that do not stand in the context, or that contradict a column
        which says whether there are any.
        """
        value = read_column(record, self.label, "--data.label", place)
        try:
            pairs = _read_answers(value)
        except ValueError:
            raise row_error(place, self.label, f"holds {shown(value)}", EXPECTED) from None
        for text, start in pairs:
            if not text.strip():
                raise row_error(place, self.label, f"has the empty answer {text!r}", "a text")
            problem = misplaced_answer(text, start, context)
            if problem:
                raise row_error(place, self.label, f"is wrong: {problem}", "the place of the answer")
        impossible = next((plain_value(record[name]) for name in IMPOSSIBLE if name in record), not pairs)
        if bool(impossible) == bool(pairs):
            has, says = ("answers", "impossible") if pairs else ("no answer", "not impossible")
            raise row_error(place, self.label, f"has {has}, and the question is {says}", "one or the other")
        return pairs

    def loss(self, logits: Float[Array, "B S 2"], batch: Mapping[str, Array]) -> Sums:
        """Mean cross-entropy of start and end per window, and the share of windows of which both are right."""
        losses, right = span_losses(logits, batch)
        weights = batch["weights"]
        total = weights.sum()
        return {"loss": ((weights * losses).sum(), total), "accuracy": ((weights * right).sum(), total)}

    def outputs(self, logits: Float[Array, "B S 2"], batch: Mapping[str, Array]) -> dict[str, Array]:
        """Start and end logits of every token, and the loss of each window."""
        return {"logits": logits, "loss": span_losses(logits, batch)[0]}

    def score(self, outputs: Outputs, data: Data) -> dict[str, Any]:
        """Loss per window; exact match and F1 as the official scripts have them, 0 to 100.

        By the rules of v2.0 where a question may have no answer, then also for questions with and without one, and the
        best that any ``null_threshold`` reaches.
        """
        losses, _ = checked(outputs["loss"], np.asarray(data.examples.targets))
        gold: dict[str, list[str]] = {}
        said: dict[str, str] = {}
        spans: dict[str, str] = {}
        differences: dict[str, float] = {}
        for record, pieces in pieces_of(outputs, data):
            question = str(len(gold))
            answer = self.answer(record, pieces)
            gold[question], said[question] = self.truth(record, None), answer["answer"]
            spans[question] = next((span["answer"] for span in answer["n_best"] if span["answer"]), "")
            differences[question] = answer["null_score_difference"]
        result: dict[str, Any] = {"loss": float(losses.mean())}
        if self._threshold is None and all(gold.values()):
            return {**result, **squad_v1(said, gold)}
        return {**result, **squad_v2(said, gold), **best_thresholds(spans, gold, differences)}

    def answer(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The best span as a text with its place in the context, "" for no answer; and what else came into question.

        ``score`` is the sum of both logits, ``null_score_difference`` how much higher that of no answer is than the
        best span's; probabilities are those among the best 20.
        """
        context = str(self.columns.read(record, "a row that was read before")[1])
        spans = best_spans(pieces, context, most_tokens=self.max_answer_length)
        # In which window "no answer" is least likely: an answer may well stand in one of them alone.
        null = min(float(np.asarray(piece.outputs["logits"][0], np.float64).sum()) for piece in pieces)
        difference = null - spans[0].score if spans else 0.0
        nothing = Span(0, 0, null)
        listed = [*spans, nothing] if self._threshold is not None or not spans else spans
        powers = np.exp(np.array([span.score for span in listed]) - max(span.score for span in listed))
        n_best = [
            {**_as_json(span, context), "probability": float(share)}
            for span, share in zip(listed, powers / powers.sum())
        ]
        n_best.sort(key=lambda span: -span["score"])
        empty = not spans or (self._threshold is not None and difference > self._threshold)
        return {
            **_as_json(nothing if empty else spans[0], context),
            "null_score_difference": difference,
            "n_best": n_best[:SHOWN_SPANS],
        }

    def scores(self, record: Record, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Exact match and F1 of a question, 0 to 100."""
        gold, said = self.truth(record, None), self.answer(record, pieces)["answer"]
        by_rules = score_v1 if gold and self._threshold is None else score_v2
        exact, f1 = by_rules(said, gold)
        return {"exact_match": 100.0 * exact, "f1": 100.0 * f1}

    def truth(self, record: Record, target: Any) -> list[str]:
        """The answers as the data has them."""
        return [text for text, _ in _read_answers(record[self.label])]


def _as_json(span: Span, context: str) -> dict[str, Any]:
    """A span, or no answer: a span of nothing."""
    there = span.start < span.end
    return {
        "answer": context[span.start : span.end],
        "score": span.score,
        "start": span.start if there else None,
        "end": span.end if there else None,
    }


def _read_answers(value: Any) -> list[tuple[str, int]]:
    """(text, start) of each answer, from either shape. Raises ValueError for any other."""
    if isinstance(value, Mapping):  # a column per field, as in TFDS and on the Hub
        texts, starts = (list(value[name]) for name in _names(value))
        if len(texts) != len(starts):
            raise ValueError("another number of texts than of starts")
        pairs = list(zip(texts, starts))
    elif isinstance(value, list | tuple | np.ndarray):
        if not all(isinstance(answer, Mapping) for answer in value):
            raise ValueError("an answer that is no mapping")
        pairs = [tuple(answer[name] for name in _names(answer)) for answer in value]
    else:
        raise ValueError("neither of the two shapes")
    return [(_text(text), _start(start)) for text, start in pairs]


def _names(answers: Mapping[str, Any]) -> tuple[str, str]:
    """What text and start are called. Raises ValueError where one is missing."""
    start = "answer_start" if "answer_start" in answers else "start"
    if not {"text", start} <= answers.keys():
        raise ValueError("no text, or no start")
    return "text", start


def _text(value: Any) -> str:
    value = plain_value(value)
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _start(value: Any) -> int:
    value = plain_value(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("no whole number")
    return value


def _is_empty(value: Any) -> bool:
    """Whether these are answers, of which there is none."""
    try:
        return not _read_answers(value)
    except (ValueError, TypeError):
        return False
