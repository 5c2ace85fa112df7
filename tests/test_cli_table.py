"""``jaxtune table``: runs are made, gone on with, compared and kept, with tiny models."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jaxtune.cli import main
from jaxtune.config import to_dict
from jaxtune.reports.records import load_record
from jaxtune.reports.table_description import read_description
from jaxtune.training import table_runs
from tests import tiny

PROGRAM = '''
"""A rule: the first telling word decides."""
import argparse, json, pathlib, sys
import numpy as np
from jaxtune.config import load_yaml
from jaxtune.data.pipeline import Rows
from jaxtune.hub.start import describe_start
from jaxtune.reports.example_scores import ExampleScores
from jaxtune.reports.records import RunRecord, dump_record, rows_fingerprint
from jaxtune.tasks.registry import make_task

parser = argparse.ArgumentParser()
parser.add_argument("--config")
parser.add_argument("--output")
given = parser.parse_args()
experiment = load_yaml(open(given.config).read())
task = make_task(experiment)
rows = Rows(experiment.data, task.columns_read)
split = rows.tokenize(task, describe_start(experiment.model, rows.texts).tokenizer)["test"]
targets = np.asarray(split.examples.targets)
examples = ExampleScores(targets, np.zeros_like(targets), tuple(split.labels))
texts = [split.records[i]["text"] for i in range(len(targets))]
shown = [{"text": text, "target": split.labels[t]} for text, t in zip(texts, targets)]
folder = pathlib.Path(given.output)
record = RunRecord(folder.name, {}, "test", {"test": {"accuracy": examples.scores("accuracy").value()}},
                   rows={"test": rows_fingerprint(shown)}, examples=examples)
folder.mkdir(parents=True, exist_ok=True)
(folder / "record.json").write_text(dump_record(record))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("table")


def own_environment(folder):
    # Programs of a table are scripts: they import the jaxtune that is installed, or this one.
    return {"JAXTUNE_CACHE": str(folder / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    for name, value in own_environment(folder).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def say(capfd):
    """Run a command → (exit status, standard output, standard error)."""

    def call(*argv):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        return status, out, err

    return call


def description(folder: Path, name: str = "tiny", **changes) -> Path:
    """A description of two systems and a rule on the tiny reviews."""
    experiment = to_dict(tiny.experiment(folder))
    common = {section: experiment[section] for section in ("model", "data", "optim", "train", "mesh")}
    common["train"] = {"epochs": 1, "batch_size": 32, "log_every": 2}
    (folder / "rule.py").write_text(PROGRAM)
    raw = {
        "title": "Tiny",
        "seeds": [0, 1],
        "baseline": "Rule",
        "set": common,
        "tasks": [{"name": "reviews", "metrics": ["accuracy"]}],
        "rows": [
            {"name": "Tuned"},
            {"name": "Rule", "program": "rule.py"},
            {"name": "Told", "published": {"reviews": {"accuracy": 0.7}}, "source": "A paper"},
        ],
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def made(folder):
    """A table whose runs were made by the command: description, folder of runs, what it said."""
    path, runs = description(folder), folder / "runs"
    environment = {**os.environ, **own_environment(folder)}
    command = [sys.executable, "-m", "jaxtune.cli", "table", str(path), "--run", "--runs-dir", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return path, runs, done


def test_runs_are_made_and_compared(made):
    _, runs, done = made
    assert "[1/3] starting tiny-tuned-reviews-s0" in done.stderr
    assert "| Tuned" in done.stdout
    assert "0.700" in done.stdout
    assert "### Differences from Rule" in done.stdout
    for name in ("tiny-tuned-reviews-s0", "tiny-tuned-reviews-s1", "tiny-rule-reviews"):
        assert f"`{name}`" in done.stdout
        assert (runs / name).is_dir()
    results = [json.loads((runs / f"tiny-tuned-reviews-s{s}" / "results.json").read_text()) for s in (0, 1)]
    mean = sum(one["splits"]["test"]["accuracy"] for one in results) / 2
    assert f"{mean:.3f} ± " in done.stdout


def test_what_is_done_is_skipped(say, made, caplog):
    path, runs, done = made
    before = {file: file.stat().st_mtime_ns for file in runs.rglob("results.json")}
    assert say("table", path, "--run", "--runs-dir", runs)[:2] == (0, done.stdout)
    assert "3 of 3 runs are finished" in caplog.text
    assert "starting" not in caplog.text
    assert {file: file.stat().st_mtime_ns for file in runs.rglob("results.json")} == before


def test_the_table_is_built_again_from_its_records(say, made, folder, tmp_path):
    path, runs, done = made
    saved = tmp_path / "records"
    assert say("table", path, "--runs-dir", runs, "--save", saved)[0] == 0
    assert sorted(file.name for file in saved.iterdir()) == [
        "tiny-rule-reviews.json",
        "tiny-tuned-reviews-s0.json",
        "tiny-tuned-reviews-s1.json",
    ]
    assert say("table", path, "--from", saved)[:2] == (0, done.stdout)
    tuned = load_record(str(saved / "tiny-tuned-reviews-s1.json"))
    assert tuned.seed == 1
    assert set(tuned.fingerprints) == {"train", "validation", "test"}
    (saved / "tiny-tuned-reviews-s1.json").unlink()
    _, out, err = say("table", path, "--from", saved)
    assert "(1/2)" in out
    assert "1 runs are not finished: tiny-tuned-reviews-s1" in err


def test_formats_and_files(say, made, tmp_path):
    path, runs, _ = made
    target = tmp_path / "new" / "table.tex"
    status, out, err = say(
        "table", path, "--runs-dir", runs, "--output", target, "--plots", tmp_path / "plots"
    )
    assert (status, out) == (0, "")
    assert "table written to" in err
    assert "\\toprule" in target.read_text()
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == [
        "tuned-reviews.png",
        "tuned-reviews.svg",
    ]
    status, out, _ = say("table", path, "--runs-dir", runs, "--format", "csv", "--resamples", 50)
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["runs"] for line in lines] == [
        "tiny-tuned-reviews-s0 tiny-tuned-reviews-s1",
        "tiny-rule-reviews",
        "",
    ]
    assert "--overwrite" in say("table", path, "--runs-dir", runs, "--output", target)[2]


def test_what_does_not_go_together(say, made, tmp_path):
    path, _, _ = made
    assert "leave out --run and --plots" in say("table", path, "--from", tmp_path, "--run")[2]
    assert "--resamples is 0" in say("table", path, "--resamples", 0)[2]
    assert "holds no records" in say("table", path, "--from", tmp_path)[2]
    assert "no such folder of records" in say("table", path, "--from", tmp_path / "none")[2]
    assert "there is no table 'nothing'" in say("table", "nothing")[2]


def test_a_run_of_another_configuration_is_refused(say, made, folder):
    _, runs, _ = made
    (folder / "changed").mkdir()
    common = yaml.safe_load((folder / "tiny.yaml").read_text())["set"]
    common["optim"]["learning_rate"] = 1e-4
    path = description(folder, set=common).rename(folder / "changed" / "tiny.yaml")
    description(folder)
    status, _, err = say("table", path, "--runs-dir", runs)
    assert status == 2
    assert "optim.learning_rate: saved 0.003, now 0.0001" in err


def test_runs_on_other_data_are_refused(say, made, folder, tmp_path):
    path, runs, _ = made
    saved = tmp_path / "records"
    assert say("table", path, "--runs-dir", runs, "--save", saved)[0] == 0
    file = saved / "tiny-rule-reviews.json"
    raw = json.loads(file.read_text())
    raw["rows"]["test"] = "0123"
    file.write_text(json.dumps(raw))
    status, _, err = say("table", path, "--from", saved)
    assert status == 2
    assert "differ in the rows of the test split" in err
    assert "0123: tiny-rule-reviews" in err


def test_fields_that_are_wrong_are_named(say, folder):
    for changes, said in (
        ({"set": {"optim": {"learning_rat": 1}}}, "did you mean `optim.learning_rate`?"),
        ({"set": {"opti.learning_rate": 1}}, "there is no section 'opti'"),
        ({"set": {"train.seed": 1}}, "`train.seed` is decided by the table"),
        ({"presets": "none.py", "rows": [{"name": "a"}], "baseline": None}, "there is no such file"),
    ):
        status, _, err = say("table", description(folder, "wrong", **changes))
        assert status == 2
        assert said in err


def test_presets(say, folder):
    (folder / "presets.py").write_text(
        "from jaxtune import Experiment\nPRESETS = {'small': ('A small one.', Experiment(task='regression'))}\n"
    )
    tasks = [{"name": "a", "preset": "small", "metrics": ["pearson"]}]
    path = description(
        folder, "with-presets", presets="presets.py", tasks=tasks, rows=[{"name": "b"}], baseline=None
    )
    runs = table_runs.table_runs(read_description(str(path)), "runs")
    assert [(run.name, run.experiment.task, run.experiment.train.seed) for run in runs] == [
        ("with-presets-b-a-s0", "regression", 0),
        ("with-presets-b-a-s1", "regression", 1),
    ]
    path = description(
        folder,
        "with-presets",
        presets="presets.py",
        tasks=[{**tasks[0], "preset": "big"}],
        rows=[{"name": "b"}],
        baseline=None,
    )
    assert "no preset 'big'; there are: small" in say("table", path)[2]


def test_a_run_that_fails_does_not_stop_the_others(say, folder, tmp_path):
    rows = [
        {"name": "Broken", "set": {"model.source": str(tmp_path / "nothing")}},
        {"name": "Rule", "program": "rule.py"},
    ]
    path = description(folder, "broken", rows=rows, seeds=[0])
    status, _, err = say("table", path, "--run", "--runs-dir", tmp_path / "runs")
    assert status == 2
    assert "these runs failed, see what they said above: broken-broken-reviews-s0 (exit status 2)" in err
    assert (tmp_path / "runs" / "broken-rule-reviews" / "record.json").exists()


def test_a_run_that_was_cut_off_goes_on(folder, tmp_path):
    rows = [{"name": "Long", "set": {"train.epochs": 400, "train.save_every": 5}}]
    path = description(folder, "long", rows=rows, seeds=[0], baseline=None)
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "jaxtune.cli", "table", str(path), "--run", "--runs-dir", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoints = runs / "long-long-reviews-s0" / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(checkpoints.glob("[0-9]*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "the same command goes on with it" in err
    config = runs / "tables" / "long" / "long-long-reviews-s0.yaml"
    assert yaml.safe_load(config.read_text())["train"]["epochs"] == 400
    found = table_runs.table_runs(read_description(str(path)), str(runs))
    assert [run.state for run in found] == ["cut off"]
    seen = []
    with pytest.raises(table_runs.RunError, match="long-long-reviews-s0"):
        table_runs.launch_missing(
            read_description(str(path)), found, str(runs), start=lambda words: seen.append(words) or 1
        )
    assert seen == [[sys.executable, "-m", "jaxtune.cli", "train", "--config", str(config)]]
