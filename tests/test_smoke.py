"""Every preset of every experiment script runs from its first line to its last, offline, on a few rows of ours."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from jaxtune.cli import presets_main
from jaxtune.config import Experiment, validate
from jaxtune.tasks.registry import TASKS, make_task
from jaxtune.training.smoke import read_fixture, smoke_experiment

ROOT = Path(__file__).parents[1]
SECONDS = 60
"""Of two cores; counted in processor time, so that a busy machine is no failure."""
LINE = re.compile(r"^(\S+)-smoke: test (\w+) (-?[\d.]+|none)(, loss [\d.]+)? \(\d+ s\)$", re.MULTILINE)


def presets_of(script: Path) -> dict[str, tuple[str, Experiment]]:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PRESETS


ALL = {
    (script.name, name): experiment
    for script in sorted((ROOT / "experiments").glob("*.py"))
    if "PRESETS" in script.read_text(encoding="utf-8")
    for name, (_, experiment) in presets_of(script).items()
}
FIRST = {experiment.task: key for key, experiment in reversed(ALL.items())}
"""One preset per task: what CI runs; ``make test-all`` runs the others too."""
OTHERS = [key for key in ALL if key not in FIRST.values()]


def rows_of(source: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(source.removeprefix("jsonl:")).read_text().splitlines()]


def test_there_are_rows_for_every_task():
    for task in TASKS:
        assert 24 <= len(read_fixture(task)) <= 48, task


@pytest.mark.parametrize("key", ALL, ids="-".join)
def test_a_preset_keeps_its_columns_and_loses_its_sources(key, tmp_path):
    preset = ALL[key]
    small = smoke_experiment(preset, tmp_path)
    validate(small)
    assert small.task == preset.task
    assert make_task(small).columns_read == make_task(preset).columns_read
    found = [rows_of(source) for source in (small.data.train, small.data.validation, small.data.test)]
    assert [len(rows) > 3 for rows in found] == [True] * 3
    for rows in found:
        for row in rows:
            assert set(make_task(small).columns_read.values()) <= set(row)
    assert small.model.source.startswith("new:")
    assert small.train.steps == 8
    if preset.data.labels and preset.task == "classification":
        assert {row[preset.data.label] for row in found[0]} <= set(preset.data.labels)


def test_the_flag_trains_a_small_copy_and_prints_its_metric(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(tmp_path / "cache"))
    presets: Mapping[str, tuple[str, Experiment]] = {"csv": ("Own files.", ALL["classification.py", "csv"])}
    assert presets_main(presets, ["csv", "--smoke", "--output", str(tmp_path / "runs")]) == 0
    found = LINE.search(capsys.readouterr().out)
    assert found is not None
    assert found[1] == "csv"
    assert 0 <= float(found[3]) <= 1
    assert (tmp_path / "runs/csv-smoke/results.json").exists()
    assert not (tmp_path / "cache").exists()
    assert os.environ["JAXTUNE_CACHE"] == str(tmp_path / "cache")


def test_the_help_speaks_of_it(capsys):
    presets = {"csv": ("Own files.", ALL["classification.py", "csv"])}
    for argv in (["--help"], ["csv", "--help"]):
        with pytest.raises(SystemExit):
            presets_main(presets, argv)
        assert "--smoke" in capsys.readouterr().out


def metric_of(experiment: Experiment) -> str:
    """What a run of it is judged by; for labels of words that depends on what the labels are."""
    task = make_task(experiment)
    if task.name == "token_classification":
        task = task.resolve_labels([row["label"] for row in read_fixture(task.name)])
    return experiment.train.best_metric or task.default_metric


def runs_offline(script: str, name: str, folder: Path) -> None:
    """The command in a process of its own, without a network: whoever asks for one is refused."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **nowhere, "JAXTUNE_CACHE": str(folder), "HF_HOME": str(folder)}
    command = [sys.executable, str(ROOT / "experiments" / script), name, "--smoke"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-3000:]
    found = LINE.search(done.stdout)
    assert found is not None, done.stdout
    assert found[1] == ALL[script, name].name
    assert found[2] == metric_of(ALL[script, name])
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", FIRST)
def test_a_preset_of_every_task_runs(task, tmp_path):
    runs_offline(*FIRST[task], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("key", OTHERS, ids="-".join)
def test_all_other_presets_run(key, tmp_path):
    runs_offline(*key, tmp_path)
