from __future__ import annotations

import pytest

from jaxtune.reports.tables import code, escape, format_value, markdown_table


def test_columns_are_aligned_and_numbers_set_to_the_right():
    assert markdown_table(["metric", "test"], [["accuracy", 0.85], ["loss", None], ["坏", 12.5]]) == (
        "| metric   |    test |\n"
        "| -------- | ------: |\n"
        "| accuracy |  0.8500 |\n"
        "| loss     |       – |\n"
        "| 坏       | 12.5000 |\n"
    )


def test_a_table_without_rows():
    assert markdown_table(["a"], []) == "| a   |\n| --- |\n"


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="2 cells, the header 1"):
        markdown_table(["a"], [["b", "c"]])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234, "1,234"),
        (0.86124, "0.8612"),
        (5e-5, "5e-05"),
        (0.0, "0.0000"),
        (12345.67, "12,345.7"),
        (float("nan"), "nan"),
        (True, "yes"),
        ((0.9, 0.999), "0.9000, 0.9990"),
        ({"pos": 3, "neg": 4}, "pos: 3, neg: 4"),
        ([], "–"),
        ("a|b", "a\\|b"),
    ],
)
def test_format_value(value, text):
    assert format_value(value) == text


def test_free_text_stays_one_literal_line():
    assert escape("*bold*\n<b> | `x` [l](u)\x1b\u202e") == "\\*bold\\* &lt;b> \\| \\`x\\` \\[l\\](u)"
    assert escape("word " * 100_000, 20) == "word word word word…"


def test_code():
    assert code("a|b") == "`a\\|b`"
    assert code("a`b") == "`` a`b ``"
