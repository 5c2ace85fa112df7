from __future__ import annotations

import numpy as np
import pytest

from jaxtune.errors import DataError
from jaxtune.tasks.reading.labels import class_names, label_id

NAMES = ("negative", "positive")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["pos", "neg", "pos "], ("neg", "pos")),
        ([10, 2, 1, None], ("1", "2", "10")),
        (["10", "2"], ("2", "10")),
        ([True, False], ("false", "true")),
        ([1.0, 0.0, float("nan")], ("0", "1")),
        ([np.int64(3), np.str_("x"), b"y", ""], ("3", "x", "y")),
        (["007", "7"], ("007", "7")),
        ([], ()),
    ],
)
def test_class_names_are_the_sorted_distinct_values(values, names):
    assert class_names(values) == names


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, "pos", 1, "neg"], "holds numbers, as 0, and names, as 'neg'"),
        ([1.0, "pos"], "holds numbers, as 1, and names, as 'pos'"),
        (["404", "other"], None),
        ([0, "1", 2], None),
        ([True, "no"], None),
    ],
)
def test_numbers_among_names_are_said(values, said, caplog):
    class_names(values)
    assert (said in caplog.text) if said else not caplog.records


def test_a_column_of_fractions_is_no_label():
    with pytest.raises(DataError, match=r"fractions, as 0\.25.*--task regression"):
        class_names([1.0, 0.25])


def test_too_many_classes_suggest_another_column():
    with pytest.raises(DataError, match=r"more than 1,000 distinct values.*--data\.label.*--task regression"):
        class_names(f"row {i}" for i in range(5000))


@pytest.mark.parametrize(
    ("value", "labels", "source_names", "expected"),
    [
        ("positive", NAMES, (), 1),
        (" positive\n", NAMES, (), 1),
        (1, NAMES, (), 1),
        ("1", NAMES, (), 1),
        (np.int64(0), NAMES, (), 0),
        (True, NAMES, (), 1),
        (True, ("False", "True"), (), 1),
        (2, NAMES, (), None),
        (-1, NAMES, (), None),
        (-1, NAMES, NAMES, None),
        ("Positive", NAMES, (), None),
        (None, NAMES, (), None),
        (0.5, NAMES, (), None),
        ([1], NAMES, (), None),
        ("9" * 1_000_000, NAMES, (), None),
        # Integers that are names themselves are no ids.
        (2, ("2", "1"), (), 0),
        (0, ("2", "1"), (), None),
        # Ids of the source, labels in another order.
        (0, ("positive", "negative"), NAMES, 1),
        # Labels that rename the source's.
        (0, ("bad", "good"), NAMES, 0),
        (1, ("positive", "neutral"), NAMES, 0),
        (0, ("positive", "neutral"), NAMES, None),
        (1, ("0", "1"), ("0", "1"), 1),
    ],
)
def test_label_id(value, labels, source_names, expected):
    assert label_id(value, labels, source_names) == expected
