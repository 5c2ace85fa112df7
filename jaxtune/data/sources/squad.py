"""Questions on a text in the JSON of SQuAD v1.1 and v2.0."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtune.data.records import Record, bad_row, fingerprint_of
from jaxtune.errors import DataError, SourceError
from jaxtune.labels import misplaced_answer


@dataclass(frozen=True)
class _Question:
    place: str
    title: str
    context: Any
    entry: Any


class SquadQuestions:
    """One question a row: ``id``, ``title``, ``context``, ``question``, ``answers`` and ``impossible``.

    ``answers`` is a list of ``{"text", "start"}``, ``start`` in characters of the context. A question whose answer
    does not stand there is a bad row. A file of plain v1.1 has no impossible questions; one without any answers
    can be predicted on.
    """

    columns: tuple[str, ...] = ("id", "title", "context", "question", "answers", "impossible")
    label_names: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  never written to

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint: str = fingerprint_of(["squad", path])
        self._questions = list(_questions(path))
        if not self._questions:
            raise DataError(f"{path}: the file holds no questions")
        seen: dict[Any, str] = {}
        for question in self._questions:
            key = question.entry.get("id") if isinstance(question.entry, dict) else None
            if isinstance(key, str) and key in seen:
                raise DataError(
                    f"{question.place}: the id {key!r} is also that of {seen[key]}; expected each id once, because "
                    "predictions are matched by it"
                )
            seen[key if isinstance(key, str) else id(question)] = question.place

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> Record:
        found = self._questions[index]
        entry, place = found.entry, self.where(index)
        if not isinstance(entry, dict):
            raise bad_row(place, f"expected a question as an object, got {type(entry).__name__}")
        texts = {"id": entry.get("id"), "context": found.context, "question": entry.get("question")}
        for name, value in texts.items():
            if not isinstance(value, str) or not value.strip():
                raise bad_row(place, f"{name!r} is {value!r:.60}; expected a text")
        impossible = entry.get("is_impossible", False)
        if not isinstance(impossible, bool):
            raise bad_row(place, f"'is_impossible' is {impossible!r:.60}; expected true or false")
        listed = entry.get("answers") or []
        if not isinstance(listed, list):
            raise bad_row(place, f"'answers' is {listed!r:.60}; expected a list")
        answers = [_answer(answer, found.context, place) for answer in listed]
        if impossible and answers:
            raise bad_row(place, "'is_impossible' is true and there are answers; expected one or the other")
        return {**texts, "title": found.title, "answers": answers, "impossible": impossible}

    def where(self, index: int) -> str:
        """``FILE: data[A].paragraphs[P].qas[Q] (id ID)``."""
        question = self._questions[index]
        key = question.entry.get("id") if isinstance(question.entry, dict) else None
        return f"{question.place} (id {key})"


def _answer(answer: Any, context: str, place: str) -> dict[str, Any]:
    text, start = (
        (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
    )
    if not isinstance(text, str) or not text or not isinstance(start, int) or isinstance(start, bool):
        raise bad_row(place, f"the answer {answer!r:.80}: expected a 'text' and an integer 'answer_start'")
    problem = misplaced_answer(text, start, context)
    if problem:
        raise bad_row(place, problem)
    return {"text": text, "start": start}


def _questions(path: Path) -> Iterator[_Question]:
    """All questions with their places. Raises DataError where the file is not built as SQuAD is."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON in UTF-8: {error}") from None
    for a, article in enumerate(_list(content, "data", f"{path}: ")):
        place = f"{path}: data[{a}]"
        title = article.get("title") if isinstance(article, dict) else None
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{place}.")):
            inner = f"{place}.paragraphs[{p}]"
            for q, entry in enumerate(_list(paragraph, "qas", f"{inner}.")):
                yield _Question(f"{inner}.qas[{q}]", str(title or ""), paragraph.get("context"), entry)


def _list(owner: Any, key: str, prefix: str) -> list[Any]:
    found = owner.get(key) if isinstance(owner, Mapping) else None
    if not isinstance(found, list):
        raise DataError(
            f"{prefix}{key} is missing or no list; expected the JSON of SQuAD: "
            '{"data": [{"paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": …}]}]}]}'
        )
    return found
