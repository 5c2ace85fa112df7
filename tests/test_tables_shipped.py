"""The tables of experiments/tables, and the programs they call."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from jaxtune.errors import DataError
from jaxtune.reports.records import dump_record, load_record, read_run
from jaxtune.reports.result_tables import build_table
from jaxtune.reports.table_description import read_description
from jaxtune.reports.table_formats import render
from jaxtune.training.table_runs import load_records, table_runs
from jaxtune.training.train import train
from tests import tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def vader():
    spec = importlib.util.spec_from_file_location(
        "vader_baseline", ROOT / "experiments" / "vader_baseline.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def polarity_scores(text):
    good = sum(word in tiny.GOOD for word in text.split())
    bad = sum(word in tiny.BAD for word in text.split())
    return {"compound": 0.0 if good + bad < 5 else (good - bad) / 10}


def experiment(folder, **changes):
    """The tiny reviews with the labels of the sentiment data."""
    path = folder / "sentiment.jsonl"
    if not path.exists():
        rows = [
            json.loads(line) for line in tiny.write_reviews(folder / "reviews.jsonl").read_text().splitlines()
        ]
        names = {"good": "positive", "bad": "negative"}
        path.write_text("".join(json.dumps({**row, "label": names[row["label"]]}) + "\n" for row in rows))
    data = {"train": f"jsonl:{path}", **changes.pop("data", {})}
    return tiny.experiment(folder, data=data, train={"steps": 1}, **changes)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments" / "tables").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_table_describes_runs_that_can_be(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = table_runs(read_description(path.relative_to(ROOT).as_posix()), "runs")
    assert all((ROOT / run.program).is_file() for run in runs if run.program)
    assert len({run.path for run in runs}) == len(runs)


def test_the_table_of_four_domains(monkeypatch):
    monkeypatch.chdir(ROOT)
    description = read_description("experiments/tables/sentiment.yaml")
    runs = table_runs(description, "runs")
    sources = {run.experiment.data.train for run in runs}
    domains = ("movie", "amazon", "nyt", "tweets")
    assert sources == {f"tfds:vader_icwsm2014/{d}{kind}" for d in domains for kind in ("", "_ratings")}
    assert len(description.seeds) >= 3


def test_vader_is_judged_on_the_rows_of_a_run(vader, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vader.importlib.metadata, "version", lambda _: "3.3.2")
    for kind in ({}, {"task": "regression", "data": {"label": "stars"}}):
        given = experiment(tmp_path, name=f"run{len(kind)}", **kind)
        run = read_run(train(given, quiet=True).path)
        record = vader.evaluate(given, "vader", polarity_scores)
        assert record.rows["test"] == run.rows["test"]
        assert record.split == run.split
        np.testing.assert_allclose(record.examples.targets, run.examples.targets)
        metric = "pearson" if kind else "accuracy"
        assert record.metric(metric) > 0.7
        (tmp_path / "record.json").write_text(dump_record(record))
        assert load_record(str(tmp_path / "record.json")).metric(metric) == record.metric(metric)


def test_vader_knows_two_labels(vader, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="this task has the labels bad, good"):
        vader.evaluate(tiny.experiment(tmp_path), "vader", polarity_scores)


@pytest.mark.parametrize("folder", sorted((ROOT / "docs" / "results").iterdir()), ids=lambda p: p.name)
def test_results_are_those_of_the_records(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    description = read_description(f"experiments/tables/{folder.name}.yaml")
    table = build_table(description, load_records(str(folder)), resamples=10_000)
    shown, _, _ = render(table, "markdown").partition("### Runs")
    assert shown.strip() in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_minilm_beats_vader_where_it_should():
    records = load_records(str(ROOT / "docs" / "results" / "sentiment"))
    for domain in ("movie", "amazon", "nyt"):
        for task, metric in ((domain, "f1_macro"), (f"{domain}-ratings", "pearson")):
            ours = [records[f"sentiment-minilm-{task}-s{seed}"] for seed in (0, 1, 2)]
            vader = records[f"sentiment-vader-{task}"]
            assert {record.rows["test"] for record in ours} == {vader.rows["test"]}
            assert min(record.metric(metric) for record in ours) > vader.metric(metric)
