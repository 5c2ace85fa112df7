from __future__ import annotations

import json
import re
import string

import numpy as np
import pytest

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.squad import (
    Score,
    exact_match,
    find_best_threshold,
    normalize_answer,
    score_v1,
    score_v2,
    scores_v1,
    scores_v2,
    squad_v1,
    squad_v2,
    word_f1,
)

WORDS = ["the", "a", "An", "cat", "Cat's", "sat", "U.S.", "…", "—", "é", "9,000", "!", "  ", "mat"]


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat", "cat"),
        ("  an   apple\ta\nday ", "apple day"),
        ("U.S.A.", "usa"),
        ("the-the", "thethe"),
        ("theatre, Ana & an A.", "theatre ana"),
        ("a.b", "ab"),
        ("A", ""),
        ("!?", ""),
        ("", ""),
        ("“quoted”", "“quoted”"),
        ("a—b", "—b"),
        ("ÉCOLE", "école"),
        ("$9,000", "9000"),
        ("the\u00a0end", "end"),
    ],
)
def test_the_normal_form(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("the cat", ["Cat!"], 1, 1),
        ("the black cat", ["a cat"], 0, 2 / 3),  # P 1/2, R 1
        ("cat cat dog", ["cat dog dog"], 0, 2 / 3),  # 2 shared of 3 and 3
        ("in 1990", ["1990", "in the year 1990"], 0, 0.8),  # P 1, R 2/3 against the second
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
        ("x y", ["x z", "q", "x y z"], 0, 0.8),
        ("Denver Broncos", ["Denver Broncos", "Denver"], 1, 1),
    ],
)
def test_scores_by_hand(prediction, answers, exact, f1):
    assert score_v1(prediction, answers) == close((exact, f1))
    assert score_v2(prediction, answers) == close((exact, f1))


def test_where_the_two_versions_differ():
    # Two answers without words: equal in v2, nothing in common in v1.
    assert score_v1("the", ["a"]) == (1, 0)
    assert score_v2("the", []) == score_v2("", []) == score_v2("", ["the", ""]) == (1, 1)
    # Answers without words do not count beside others.
    assert score_v1("", ["cat", "a"]) == (1, 0)
    assert score_v2("", ["cat", "a"]) == (0, 0)
    assert score_v2("cat", []) == (0, 0)
    with pytest.raises(DataError, match="rules of v2"):
        score_v1("cat", [])


def test_v1_by_hand():
    answers = {"q1": ["cat"], "q2": ["black cat", "cat"], "q3": ["dog"], "q4": ["x y"]}
    predictions = {"q1": "The cat.", "q2": "a big cat", "q4": "y z", "other": "?"}
    result = squad_v1(predictions, answers)
    assert result == {
        "exact_match": 25.0,
        "f1": close(100 * (1 + 2 / 3 + 0 + 0.5) / 4),
        "total": 4,
        "missing": 1,
    }
    assert scores_v1(predictions, answers)["q3"] == Score(0, 0)


V2_ANSWERS = {"q1": ["cat"], "q2": ["x y"], "q3": [], "q4": [], "q5": ["dog"]}
V2_PREDICTIONS = {"q1": "cat", "q2": "y z", "q3": "fish", "q4": "", "q5": "bird"}
V2_NO_ANSWER = {"q1": 0.1, "q2": 0.2, "q3": 0.7, "q4": 0.9, "q5": 0.8}


def test_v2_by_hand():
    result = squad_v2(V2_PREDICTIONS, V2_ANSWERS)
    # q1 1/1, q2 0/0.5, q3 0, q4 1, q5 0
    assert result == {
        "exact_match": close(40),
        "f1": close(50),
        "total": 5,
        "has_answer_exact_match": close(100 / 3),
        "has_answer_f1": close(50),
        "has_answer_total": 3,
        "no_answer_exact_match": close(50),
        "no_answer_f1": close(50),
        "no_answer_total": 2,
    }


def test_a_threshold_turns_predictions_into_no_answer():
    result = squad_v2(V2_PREDICTIONS, V2_ANSWERS, V2_NO_ANSWER, threshold=0.5)
    assert (result["exact_match"], result["f1"]) == close((60, 70))
    assert result["no_answer_f1"] == 100
    # From "nothing answered" (2 of 5): q1 adds 1; q2 adds 0 and 0.5; q3 takes 1 away, q5 adds 0, q4 0.
    assert (result["best_exact_match"], result["best_exact_match_threshold"]) == (close(60), 0.1)
    assert (result["best_f1"], result["best_f1_threshold"]) == (close(70), 0.2)
    at_best = squad_v2(V2_PREDICTIONS, V2_ANSWERS, V2_NO_ANSWER, threshold=0.2)
    assert at_best["f1"] == result["best_f1"]
    # The threshold itself still answers.
    assert scores_v2(V2_PREDICTIONS, V2_ANSWERS, V2_NO_ANSWER, 0.1)["q1"] == Score(1, 1)


def test_nothing_beats_answering_nothing():
    found = squad_v2({"a": "x", "b": "y"}, {"a": [], "b": []}, {"a": 0.5, "b": 0.5})
    assert (found["exact_match"], found["best_exact_match"], found["best_exact_match_threshold"]) == (
        0,
        100,
        0,
    )
    assert "has_answer_f1" not in found


def test_ties_are_answered_one_by_one_as_in_the_script():
    scores, answerable = {"a": 1.0, "b": 0.0}, {"a": True, "b": False}
    found = find_best_threshold({"a": "x", "b": "y"}, scores, {"a": 0.5, "b": 0.5}, answerable)
    assert found == (100, 0.5)


def literal_words(text):
    kept = "".join(ch for ch in text.lower() if ch not in string.punctuation)
    return [word for word in re.split(r"\s+", re.sub(r"\b(?:an?|the)\b", " ", kept)) if word]


def literal_f1(prediction, answer):
    said, true = literal_words(prediction), literal_words(answer)
    if not said or not true:
        return float(said == true)
    shared = sum(min(said.count(word), true.count(word)) for word in set(said))
    return 2 * shared / (len(said) + len(true))


def random_text(rng, most=5):
    return " ".join(str(word) for word in rng.choice(WORDS, int(rng.integers(0, most + 1))))


def test_random_texts_against_the_formula():
    rng = np.random.default_rng(0)
    for _ in range(400):
        prediction, answer = random_text(rng), random_text(rng)
        assert normalize_answer(prediction).split() == literal_words(prediction)
        assert exact_match(prediction, answer) == (literal_words(prediction) == literal_words(answer))
        assert word_f1(prediction, answer) == close(literal_f1(prediction, answer))
        if literal_words(prediction) or literal_words(answer):
            assert word_f1(prediction, answer, empty_matches_empty=False) == close(
                literal_f1(prediction, answer)
            )


def test_random_sets_against_the_definition_of_the_best_threshold():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        names = [f"q{i}" for i in range(int(rng.integers(1, 12)))]
        answers = {q: [] if rng.random() < 0.4 else [f"w {random_text(rng)}", "mat"] for q in names}
        predictions = {q: random_text(rng) if rng.random() < 0.8 else "" for q in names}
        # Distinct probabilities: only then is the script's search that of the definition.
        odds = dict(zip(names, (rng.permutation(len(names)) + 1) / (len(names) + 1)))
        result = squad_v2(predictions, answers, odds, 0.5)
        json.dumps(result, allow_nan=False)
        raw = {q: max(literal_f1(predictions[q], a) for a in answers[q] or [""]) for q in names}

        def mean(threshold, raw=raw, odds=odds, answers=answers):
            return 100 * np.mean([float(not answers[q]) if odds[q] > threshold else raw[q] for q in raw])

        assert result["f1"] == close(mean(0.5))
        reached = {threshold: mean(threshold) for threshold in [0.0, *odds.values()]}
        # A prediction of nothing but articles scores 1 on an unanswerable question, but the search
        # takes it for an answer; it is then below the definition.
        if all(predictions[q] == "" or literal_words(predictions[q]) or answers[q] for q in names):
            assert result["best_f1"] == close(max(reached.values()))
            assert reached[result["best_f1_threshold"]] == close(result["best_f1"])
        v1 = {q: gold for q, gold in answers.items() if gold}
        if v1:
            exact = [any(literal_words(predictions[q]) == literal_words(a) for a in v1[q]) for q in v1]
            assert squad_v1(predictions, v1)["exact_match"] == close(100 * np.mean(exact))


def test_what_cannot_be_scored():
    for function in (squad_v1, squad_v2):
        with pytest.raises(DataError, match="no question"):
            function({}, {})
    with pytest.raises(DataError, match="1 questions have no prediction, the first is 'b'"):
        squad_v2({"a": "x"}, {"a": [], "b": []})
    with pytest.raises(DataError, match="no no-answer probability, the first is 'a'"):
        squad_v2({"a": "x"}, {"a": []}, {})
    with pytest.raises(DataError, match=r"of 'a' is -3\.0, expected 0 to 1"):
        squad_v2({"a": "x"}, {"a": []}, {"a": -3.0})
