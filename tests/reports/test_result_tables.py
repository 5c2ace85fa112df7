"""Grids of records as tables: numbers, marks, refusals, and the three formats."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
import statistics
import subprocess

import numpy as np
import pytest

from jaxtune.errors import RunError
from jaxtune.reports.example_scores import ExampleScores
from jaxtune.reports.records import RunRecord
from jaxtune.reports.result_tables import build_table, cells_of
from jaxtune.reports.table_description import SystemRow, TableDescription, TaskColumn
from jaxtune.reports.table_formats import format_of, latex, to_csv, to_latex, to_markdown

TASKS = (TaskColumn("films", ("accuracy", "f1_macro")), TaskColumn("stars_5", ("mse",)))
ROWS = (
    SystemRow("Net & co"),
    SystemRow("Words", program="words.py"),
    SystemRow("Net (2014)", published={"films": {"accuracy": 0.99}}, source="A 100 % paper"),
)
TABLE = TableDescription("t", "t.yaml", TASKS, ROWS, seeds=(0, 1, 2), title="A_table", baseline="Words")
RIGHT = {"Net & co": 0.9, "Words": 0.6}
N = 300


def record(name, row, task, seed, **changes):
    rng = np.random.default_rng([seed, row == "Words", task == "films"])
    if task == "films":
        targets = np.random.default_rng(99).integers(0, 2, N)
        outputs = np.where(rng.random(N) < RIGHT[row], targets, 1 - targets)
        examples = ExampleScores(targets, outputs, ("no", "yes"))
        names = ("accuracy", "f1_macro")
    else:
        targets = np.random.default_rng(98).normal(size=N)
        examples = ExampleScores(targets, targets + rng.normal(size=N) * (1 - RIGHT[row]))
        names = ("mse",)
    metrics = {metric: examples.scores(metric).value() for metric in names}
    config = {} if row == "Words" else {"train": {"seed": seed}, "data": {"train": task}}
    made = RunRecord(
        name, config, "test", {"test": metrics}, {"train": "t"} if config else {}, {"test": task}, examples
    )
    return dataclasses.replace(made, **changes)


def records():
    return {name: record(name, row.name, task.name, seed) for row, task, seed, name in cells_of(TABLE)}


def test_cells():
    found = records()
    assert len(found) == 8
    del found["t-net-co-stars-5-s1"]
    table = build_table(TABLE, found, resamples=500)
    cell = table.cells["Net & co", "films", "accuracy"]
    values = [found[f"t-net-co-films-s{seed}"].metrics["test"]["accuracy"] for seed in range(3)]
    assert cell.mean == pytest.approx(np.mean(values))
    assert cell.deviation == pytest.approx(statistics.stdev(values))
    assert cell.runs == ("t-net-co-films-s0", "t-net-co-films-s1", "t-net-co-films-s2")
    assert cell.best
    assert cell.comparison.better
    assert cell.comparison.significant
    assert (
        cell.comparison.bootstrap.low < cell.comparison.bootstrap.difference < cell.comparison.bootstrap.high
    )
    stars = table.cells["Net & co", "stars_5", "mse"]
    assert stars.best  # the lowest error
    assert stars.comparison.better
    assert stars.comparison.bootstrap.difference < 0
    assert (list(stars.values), stars.missing) == ([0, 2], (1,))
    words = table.cells["Words", "films", "accuracy"]
    assert (words.deviation, words.comparison, words.best) == (None, None, False)
    published = table.cells["Net (2014)", "films", "accuracy"]
    assert (published.mean, published.best, published.comparison) == (0.99, False, None)
    assert table.cells["Net (2014)", "films", "f1_macro"].mean is None
    assert table.missing() == ["t-net-co-stars-5-s1"]


def test_without_runs_there_is_still_a_table():
    table = build_table(TABLE, {})
    assert len(table.missing()) == 8
    for text in (to_markdown(table), to_latex(table), to_csv(table)):
        assert "0.99" in text


def test_a_metric_without_scores_per_example_is_not_tested():
    found = records()
    for name in found:
        if "films" in name:
            metrics = {"test": {"accuracy": 0.5, "f1_macro": 0.5, "bleu": 30.0}}
            found[name] = dataclasses.replace(found[name], metrics=metrics, examples=ExampleScores())
    d = dataclasses.replace(TABLE, tasks=(TaskColumn("films", ("bleu",)),))
    cell = build_table(d, found).cells["Net & co", "films", "bleu"]
    assert (cell.mean, cell.comparison) == (30.0, None)


def test_seeds_of_both_sides_are_paired():
    rows = (SystemRow("Net & co"), SystemRow("Words", seeds=(1, 2, 3)))
    d = dataclasses.replace(TABLE, rows=rows, tasks=TASKS[:1])
    found = {
        name: record(name, row.name, task.name, seed, config={"train": {"seed": seed}})
        for row, task, seed, name in cells_of(d)
    }
    comparison = build_table(d, found, resamples=99).cells["Net & co", "films", "accuracy"].comparison
    means = [
        np.mean([found[f"t-{row}-films-s{seed}"].metric("accuracy") for seed in (1, 2)])
        for row in ("net-co", "words")
    ]
    assert comparison.bootstrap.difference == pytest.approx(means[0] - means[1])
    apart = dataclasses.replace(d, rows=(SystemRow("Net & co"), SystemRow("Words", seeds=(7, 8))))
    found = {
        name: record(name, row.name, task.name, seed, config={"train": {"seed": seed}})
        for row, task, seed, name in cells_of(apart)
    }
    assert build_table(apart, found).cells["Net & co", "films", "accuracy"].comparison is None


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("t-words-films", {"rows": {"test": "other"}}, "differ in the rows of the test split"),
        ("t-words-films", {"split": "validation"}, "differ in the evaluated split"),
        ("t-net-co-films-s1", {"fingerprints": {"train": "u"}}, "differ in the tokens of the train split"),
        ("t-net-co-films-s1", {"config": {"train": {"seed": 7}, "data": {"train": "films"}}}, "the seed 7"),
    ],
)
def test_runs_that_do_not_belong_together(name, changes, said):
    found = records()
    found[name] = dataclasses.replace(found[name], **changes)
    with pytest.raises(RunError, match=said) as error:
        build_table(TABLE, found, resamples=10)
    assert name in str(error.value)


def test_another_tokenizer_may_have_other_tokens_but_not_other_rows():
    found = records()
    for i, name in enumerate(("t-net-co-films-s0", "t-net-co-films-s1")):
        config = {**found[name].config, "model": {"source": f"model {i}"}}
        rows = {**found[name].rows, "train": "r"}
        found[name] = dataclasses.replace(
            found[name], config=config, rows=rows, fingerprints={"train": str(i)}
        )
    build_table(TABLE, found, resamples=10)
    found[name] = dataclasses.replace(found[name], rows={**rows, "train": "s"})
    with pytest.raises(RunError, match="differ in the rows of the train split"):
        build_table(TABLE, found, resamples=10)
    few_shots = {**config, "data": {"train": "films", "limit": 16}}
    found[name] = dataclasses.replace(found[name], config=few_shots)
    build_table(TABLE, found, resamples=10)


def test_markdown():
    found = records()
    del found["t-net-co-stars-5-s1"]
    text = to_markdown(build_table(TABLE, found, resamples=500))
    assert text.startswith("## A\\_table\n\n| system")
    assert "| films f1 macro" in text
    line = next(line for line in text.splitlines() if line.startswith("| Net &amp; co"))
    assert line.count("**") == 6
    assert "**\\*" in line
    assert "(2/3)" in line
    for note in ("over the seeds 0, 1, 2", "\\*: better than Words, with p &lt; 0.05", "(1/3): so many"):
        assert note in text
    assert "### Differences from Words" in text
    assert "`t-net-co-films-s0`, `t-net-co-films-s1`, `t-net-co-films-s2`" in text


def test_latex():
    text = to_latex(build_table(TABLE, records(), resamples=500))
    assert "Net \\& co & \\textbf{" in text
    assert "$\\pm$" in text
    assert "$^{*}$" in text
    assert "\\caption{A\\_table. " in text
    assert "A 100 \\% paper" in text
    assert "\\multicolumn{2}{c}{films} & \\multicolumn{1}{c}{stars\\_5} \\\\" in text
    assert text.count("\\midrule") == 2  # published figures stand apart
    assert "% Net & co, films: t-net-co-films-s0, t-net-co-films-s1" in text
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert {line.replace("\\&", "").count("&") + line.count("multicolumn{2}") for line in rows} == {3}
    assert latex("a_b & 5% #1 $x$ {y} ~ ^ \\ ± \n<") == (
        "a\\_b \\& 5\\% \\#1 \\$x\\$ \\{y\\} \\textasciitilde{} \\textasciicircum{} \\textbackslash{} $\\pm$ $<$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    table = to_latex(build_table(TABLE, records(), resamples=50))
    page = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{table}\\end{{document}}"
    (tmp_path / "a.tex").write_text(page)
    subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_csv_has_every_number():
    found = records()
    table = build_table(TABLE, found, resamples=500)
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(lines) == 9
    first = lines[0]
    cell = table.cells["Net & co", "films", "accuracy"]
    assert float(first["mean"]) == cell.mean
    assert [float(value) for value in first["values"].split()] == list(cell.values.values())
    assert first["runs"].split() == list(cell.runs)
    assert float(first["p_bootstrap"]) == cell.comparison.bootstrap.p_value
    assert first["best"] == "1"
    assert lines[-1]["mean"] == ""


def test_worse_than_the_baseline_is_marked():
    d = dataclasses.replace(TABLE, baseline="Net & co", tasks=TASKS[:1])
    text = to_markdown(build_table(d, records(), resamples=200))
    assert "†: worse than Net &amp; co" in text
    assert "$^{\\dagger}$" in to_latex(build_table(d, records(), resamples=200))


def test_the_format_of_a_file():
    assert [format_of(name) for name in ("a.md", "a.tex", "a.csv", "a")] == [
        "markdown",
        "latex",
        "csv",
        "markdown",
    ]
