"""Exact match and F1 of extracted answers, by the rules of the official SQuAD scripts (0 to 100).

evaluate-v1.1.py (Rajpurkar et al. 2016) and evaluate-v2.0.py (Rajpurkar, Jia & Liang 2018):

- Texts are compared in normal form: lower case, without ASCII punctuation, without the words a, an,
  the, with single spaces.
- EM is 1 where the normal forms are equal. F1 is that of the two bags of words. The best gold answer
  counts, for EM and F1 on their own.
- v1.1: a question without a prediction scores 0; F1 is 0 where no word is shared.
- v2.0: gold answers with an empty normal form are left out, and a question left without any has ""
  as its one answer. Where one side has no words, F1 is 1 if the other has none either, else 0. A
  no-answer probability above the threshold turns the prediction into "no answer", which scores 1
  for a question without answers and 0 for others.

Predictions of questions that are not asked are ignored, as there.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.values import Metrics, harmonic_mean

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Score(NamedTuple):
    """Scores of one question, 0 to 1."""

    exact: float
    f1: float


def normalize_answer(text: str) -> str:
    """The normal form of an answer: lower case, no punctuation, no articles, single spaces; in that order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 where both have the same normal form, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def word_f1(prediction: str, answer: str, *, empty_matches_empty: bool = True) -> float:
    """F1 of the words of the normal forms, counted with their multiplicity.

    Args:
        empty_matches_empty: v2.0's rule that two answers without words score 1; in v1.1 they score 0.
    """
    said, true = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not said and not true:
        return float(empty_matches_empty)
    shared = (Counter(said) & Counter(true)).total()
    return harmonic_mean(shared / len(said), shared / len(true)) if shared else 0.0


def score_v1(prediction: str, answers: Sequence[str]) -> Score:
    """Scores of one question by the rules of v1.1. Raises DataError without an answer."""
    if not answers:
        raise DataError(
            "a question has no answer, which SQuAD v1.1 does not know; score it by the rules of v2"
        )
    return Score(
        max(exact_match(prediction, answer) for answer in answers),
        max(word_f1(prediction, answer, empty_matches_empty=False) for answer in answers),
    )


def score_v2(prediction: str, answers: Sequence[str]) -> Score:
    """Scores of one question by the rules of v2.0; no answers, or only empty ones, means unanswerable."""
    real = [answer for answer in answers if normalize_answer(answer)] or [""]
    return Score(
        max(exact_match(prediction, answer) for answer in real),
        max(word_f1(prediction, answer) for answer in real),
    )


def scores_v1(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> dict[str, Score]:
    """question id → scores by the rules of v1.1, for all questions of ``answers``; 0 without a prediction."""
    return {
        question: score_v1(predictions[question], gold) if question in predictions else Score(0.0, 0.0)
        for question, gold in answers.items()
    }


def scores_v2(
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    no_answer: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, Score]:
    """question id → scores by the rules of v2.0, after the threshold. Raises DataError as ``squad_v2`` does."""
    _check_v2(predictions, answers, no_answer)
    result = {}
    for question, gold in answers.items():
        if no_answer is not None and no_answer[question] > threshold:
            result[question] = Score(float(not gold), float(not gold))
        else:
            result[question] = score_v2(predictions[question], gold)
    return result


def squad_v1(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> Metrics:
    """exact_match and f1 as evaluate-v1.1.py has them, 0 to 100; ``total`` questions, ``missing`` predictions.

    Args:
        predictions: question id → text.
        answers: question id → gold answers.

    Raises DataError without a question, or for a question without an answer.
    """
    _check_questions(answers)
    return {
        **_means(scores_v1(predictions, answers).values()),
        "total": len(answers),
        "missing": len(answers.keys() - predictions.keys()),
    }


def squad_v2(
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    no_answer: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> Metrics:
    """The figures of evaluate-v2.0.py, 0 to 100.

    Args:
        predictions: question id → text, "" for no answer.
        answers: question id → gold answers; none for an unanswerable question.
        no_answer: question id → probability that there is no answer.
        threshold: above it, a prediction counts as "no answer".

    Returns:
        exact_match, f1 and total; the same as ``has_answer_…`` and ``no_answer_…`` where such
        questions occur (HasAns, NoAns there); with ``no_answer`` also ``best_exact_match``,
        ``best_exact_match_threshold``, ``best_f1`` and ``best_f1_threshold``.

    Raises DataError without a question, for a question without a prediction (the script leaves it out
    of one mean and fails in the others) or probability, or for a probability outside 0 … 1.
    """
    final = scores_v2(predictions, answers, no_answer, threshold)
    result: Metrics = {**_means(final.values()), "total": len(final)}
    for name, wanted in (("has_answer", True), ("no_answer", False)):
        chosen = [score for question, score in final.items() if bool(answers[question]) == wanted]
        if chosen:
            result |= {f"{name}_{key}": value for key, value in _means(chosen).items()}
            result[f"{name}_total"] = len(chosen)
    if no_answer is not None:
        result |= best_thresholds(predictions, answers, no_answer, nothing_answered=0.0)
    return result


def find_best_threshold(
    predictions: Mapping[str, str],
    scores: Mapping[str, float],
    no_answer: Mapping[str, float],
    answerable: Mapping[str, bool],
) -> tuple[float, float]:
    """The best mean score over all thresholds, 0 to 100, and the threshold: find_best_thresh of v2.0.

    It starts with no question answered, threshold 0, and answers one after the other, the least likely
    to be unanswerable first: an answerable question adds its score, an unanswerable one takes 1 away
    unless its prediction is "". As in the script, questions of equal probability are answered one by
    one too, so that among ties the score may be one that no threshold reaches.

    Args:
        predictions: question id → text.
        scores: question id → score before any threshold, 0 to 1.
        no_answer: question id → probability that there is no answer.
        answerable: question id → whether it has an answer.
    """
    current: float = sum(not value for value in answerable.values())
    best, threshold = current, 0.0
    for question in sorted(no_answer, key=lambda question: no_answer[question]):
        if question not in scores:
            continue
        if answerable[question]:
            current += scores[question]
        elif predictions[question]:
            current -= 1
        if current > best:
            best, threshold = current, no_answer[question]
    return 100.0 * best / len(scores), threshold


def best_thresholds(
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    no_answer: Mapping[str, float],
    *,
    nothing_answered: float | None = None,
) -> Metrics:
    """The best exact_match and f1 over all thresholds, and these: above one, "no answer" is said instead.

    Args:
        predictions: question id → the best answer, before any threshold.
        answers: question id → gold answers; none for an unanswerable question.
        no_answer: question id → how likely it is that there is no answer, in any unit.
        nothing_answered: the threshold to name where no answer at all is best; none is one below all of ``no_answer``.
    """
    raw = scores_v2(predictions, answers)
    answerable = {question: bool(gold) for question, gold in answers.items()}
    nothing = 100.0 * sum(not value for value in answerable.values()) / len(answerable)
    below = min(no_answer.values()) - 1.0 if nothing_answered is None else nothing_answered
    result: Metrics = {}
    for name, field in (("exact_match", 0), ("f1", 1)):
        scores = {question: score[field] for question, score in raw.items()}
        best, at = find_best_threshold(predictions, scores, no_answer, answerable)
        result[f"best_{name}"] = best
        result[f"best_{name}_threshold"] = at if best > nothing else below
    return result


def _means(scores: Iterable[Score]) -> dict[str, float]:
    exact, f1 = zip(*scores)
    return {"exact_match": 100.0 * sum(exact) / len(exact), "f1": 100.0 * sum(f1) / len(f1)}


def _check_questions(answers: Mapping[str, Sequence[str]]) -> None:
    if not answers:
        raise DataError("there is no question to compute metrics of; the split is empty")


def _check_v2(
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    no_answer: Mapping[str, float] | None,
) -> None:
    _check_questions(answers)
    for name, given in (("prediction", predictions), ("no-answer probability", no_answer)):
        missing = [] if given is None else [question for question in answers if question not in given]
        if missing:
            raise DataError(f"{len(missing)} questions have no {name}, the first is {missing[0]!r}")
    odd = [key for key, value in (no_answer or {}).items() if not 0 <= value <= 1]
    if odd:
        raise DataError(
            f"the no-answer probability of {odd[0]!r} is {(no_answer or {})[odd[0]]}, expected 0 to 1"
        )
