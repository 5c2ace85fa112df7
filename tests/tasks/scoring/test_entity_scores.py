from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from seqeval import metrics as seqeval
from seqeval.scheme import IOB1, IOB2, Entities

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.entities import (
    ENTITY_METRICS,
    Entity,
    SchemeBreak,
    check_scheme,
    entity_counts,
    entity_metrics,
    read_entities,
    scheme_breaks,
    to_iob2,
)

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-GPE-x", "I-GPE-x"]


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def random_case(seed):
    """Tags of 1 to 6 sentences, most of them breaking every scheme, and predictions that share some of them."""
    rng = np.random.default_rng(seed)
    kinds = TAGS[: int(rng.choice([3, 5, 7]))]
    lengths = rng.integers(0 if seed % 5 == 0 else 1, 12, int(rng.integers(1, 7)))
    targets = [[str(tag) for tag in rng.choice(kinds, n)] for n in lengths]
    keep = rng.choice([0.0, 0.5, 0.8, 1.0])
    predictions = [
        [tag if rng.random() < keep else str(rng.choice(kinds)) for tag in tags] for tags in targets
    ]
    return targets, predictions


def seqeval_scores(targets, predictions, **options):
    """(P, R, F1, support) by average, None for per type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = seqeval.sequence_labeling.precision_recall_fscore_support
        if options:
            score = seqeval.v1.precision_recall_fscore_support
        return {
            average: score(targets, predictions, average=average, zero_division=0, **options)
            for average in ("micro", "macro", "weighted", None)
        }


def assert_equal(result, expected):
    json.dumps(result, allow_nan=False)
    for column, kind in enumerate(("precision", "recall", "f1")):
        assert result[kind] == close(expected["micro"][column])
        assert result[f"{kind}_macro"] == close(expected["macro"][column])
        assert result[f"{kind}_weighted"] == close(expected["weighted"][column])
        assert result[f"{kind}_per_type"] == close(expected[None][column])
    assert result["support_per_type"] == list(expected[None][3])
    assert result["support"] == expected["micro"][3]


def test_the_lenient_reading_is_seqeval():
    compared = 0
    for seed in range(220):
        targets, predictions = random_case(seed)
        result = entity_metrics(targets, predictions)
        for tags in targets:
            found = [(kind, start, end - 1) for kind, start, end in read_entities(tags)]
            assert found == seqeval.sequence_labeling.get_entities(tags)
        if result["types"]:  # seqeval warns of the mean of nothing and returns NaN
            assert_equal(result, seqeval_scores(targets, predictions))
            compared += 1
        if sum(map(len, targets)):
            assert result["accuracy"] == close(seqeval.accuracy_score(targets, predictions))
    assert compared >= 200


def test_the_strict_reading_is_that_of_seqeval():
    compared = 0
    for seed in range(240):
        targets, predictions = random_case(seed)
        result = entity_metrics(targets, predictions, "strict")
        if result["types"]:
            assert_equal(result, seqeval_scores(targets, predictions, scheme=IOB2))
            compared += 1
    assert compared >= 200


def conlleval(targets, predictions):
    """The rules of conlleval.pl (2004), one token after the other; sentences end with a line of O and O.

    Returns type → [correct, guessed, true].
    """

    def ends(before, tag, before_type, kind):
        return before in "BI" and (tag in "BO" or before_type != kind)

    def starts(before, tag, before_type, kind):
        return tag == "B" or (tag == "I" and (before == "O" or before_type != kind))

    counts: dict[str, list[int]] = {}
    running, last = False, (("O", ""), ("O", ""))
    for true_tags, said_tags in zip(targets, predictions):
        for pair in [*zip(true_tags, said_tags), ("O", "O")]:
            now = tuple((tag[0], tag[2:]) for tag in pair)
            end, start = (
                [rule(b[0], n[0], b[1], n[1]) for b, n in zip(last, now)] for rule in (ends, starts)
            )
            if running and all(end) and last[0][1] == last[1][1]:
                counts[last[0][1]][0] += 1
                running = False
            elif running and (end[0] != end[1] or now[0][1] != now[1][1]):
                running = False
            for side, column in ((0, 2), (1, 1)):
                if start[side]:
                    counts.setdefault(now[side][1], [0, 0, 0])[column] += 1
            running = running or (all(start) and now[0][1] == now[1][1])
            last = now
    return counts


def test_the_counts_are_those_of_conlleval():
    for seed in range(200):
        targets, predictions = random_case(seed)
        sums: dict[str, list[int]] = {}
        for sentence in entity_counts(targets, predictions):
            for kind, values in sentence.items():
                sums[kind] = [a + b for a, b in zip(sums.get(kind, [0, 0, 0]), values)]
        assert sums == conlleval(targets, predictions)


def test_by_hand():
    targets = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG", "O"]]
    predictions = [["B-PER", "I-PER", "O", "B-ORG"], ["O", "B-ORG", "I-ORG"]]
    result = entity_metrics(targets, predictions)
    assert (result["precision"], result["recall"], result["f1"]) == close((1 / 3, 1 / 3, 1 / 3))
    assert result["types"] == ["LOC", "ORG", "PER"]
    assert result["f1_per_type"] == [0, 0, 1]
    assert (result["support_per_type"], result["predicted_per_type"]) == ([1, 1, 1], [0, 2, 1])
    assert (result["found"], result["predicted"], result["support"]) == (1, 3, 3)
    assert result["accuracy"] == close(5 / 7)
    assert set(ENTITY_METRICS) <= set(result)
    assert entity_counts(targets, predictions)[0] == {"LOC": (0, 0, 1), "ORG": (0, 1, 0), "PER": (1, 1, 1)}


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        (["I-A", "I-A"], [("A", 0, 2)], []),
        (["B-A", "I-B", "I-B"], [("A", 0, 1), ("B", 1, 3)], [("A", 0, 1)]),
        (["B-A", "B-A", "I-A"], [("A", 0, 1), ("A", 1, 3)], [("A", 0, 1), ("A", 1, 3)]),
        (["B-A", "O", "I-A"], [("A", 0, 1), ("A", 2, 3)], [("A", 0, 1)]),
        (["B-A-x", "I-A-x"], [("A-x", 0, 2)], [("A-x", 0, 2)]),
        (["B", "I"], [("_", 0, 2)], [("_", 0, 2)]),
        ([], [], []),
    ],
)
def test_the_two_readings(tags, lenient, strict):
    assert read_entities(tags) == [Entity(*entity) for entity in lenient]
    assert read_entities(tags, "strict") == [Entity(*entity) for entity in strict]


@pytest.mark.parametrize("reading", ["conlleval", "strict"])
def test_no_entity_is_zero(reading):
    nothing, something = [["O", "O"]], [["B-A", "O"]]
    for targets, predictions in ((nothing, nothing), (nothing, something), (something, nothing)):
        result = entity_metrics(targets, predictions, reading)
        assert {result[name] for name in ENTITY_METRICS} - {result["accuracy"]} <= {0.0}
    assert entity_metrics(nothing, nothing)["types"] == []
    assert entity_metrics(nothing, nothing)["accuracy"] == 1
    assert entity_metrics([[]], [[]])["accuracy"] == 0
    assert entity_metrics(something, something)["f1"] == 1


def test_the_breaks_of_a_scheme():
    tags = ["I-A", "B-A", "I-B", "X-A", "I-A", "B-B"]
    assert [(found.position, found.tag) for found in scheme_breaks(tags)] == [
        (0, "I-A"),
        (2, "I-B"),
        (3, "X-A"),
        (4, "I-A"),
    ]
    assert scheme_breaks(tags, "iob1") == [
        SchemeBreak(3, "X-A", "is none of O, B-TYPE, I-TYPE"),
        SchemeBreak(5, "B-B", "follows no entity of type B"),
    ]
    assert scheme_breaks(["B-A", "I-A", "O", "B-A", "B-A"]) == []


def test_an_unbroken_sequence_reads_the_same_both_ways():
    for seed in range(200):
        for tags in random_case(seed)[0]:
            fixed = to_iob2(tags)
            assert scheme_breaks(fixed) == []
            assert read_entities(fixed, "strict") == read_entities(fixed) == read_entities(tags)
            if not scheme_breaks(tags):
                assert fixed == tags
            if tags and not scheme_breaks(tags, "iob1"):
                found = Entities([tags], IOB1).entities[0]
                assert [(entity.tag, entity.start, entity.end) for entity in found] == read_entities(tags)


def test_check_scheme_names_the_places():
    check_scheme([["B-A", "I-A"], []])
    with pytest.raises(DataError) as caught:
        check_scheme([["O"], ["O", "I-PER"], ["I-A", "O"] * 5], where=["a:1", "a:3", "a:6"].__getitem__)
    message = str(caught.value)
    assert message.startswith(
        "6 tags break the scheme iob2:\na:3, token 1: 'I-PER' continues no entity of type PER"
    )
    assert message.endswith("… and 1 more")


def test_what_cannot_be_scored():
    with pytest.raises(DataError, match="no example"):
        entity_metrics([], [])
    with pytest.raises(DataError, match="2 predictions for 1 targets"):
        entity_metrics([["O"]], [["O"], ["O"]])
    with pytest.raises(DataError, match="sentence 1: 1 predicted tags for 2 tokens"):
        entity_metrics([["O"], ["O", "O"]], [["O"], ["O"]])
    for tag in ("E-PER", "b-PER", "PER", "", "O-PER"):
        with pytest.raises(DataError, match="expected O, B-TYPE or I-TYPE"):
            entity_metrics([["O"]], [[tag]])
