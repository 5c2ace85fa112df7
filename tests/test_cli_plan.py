"""``jaxtune plan`` and ``jaxtune sweep`` as people call them, on fake devices of this machine."""

import csv
import json

import pytest

from jaxtune.cli import main
from jaxtune.config import DataConfig, Experiment, ModelConfig, TrainConfig, dump_yaml
from tests.parallel.curves import KINDS, WIDTH


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A small BERT in a file of its own."""
    monkeypatch.setenv("JAXTUNE_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "bert", **WIDTH, **KINDS["bert"][1]}))
    made = Experiment(
        name="small",
        model=ModelConfig(source=str(model)),
        data=DataConfig(max_length=16, batching="padded"),
        train=TrainConfig(batch_size=8),
    )
    path = tmp_path / "small.yaml"
    path.write_text(dump_yaml(made))
    return str(path)


def test_plan_of_one_mesh_and_its_report(experiment, tmp_path, capsys):
    report = str(tmp_path / "plans")
    command = ["plan", experiment, "--topology", "cpu:8", "--mesh.fsdp", "4", "--report", report]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "data 2 × fsdp 4" in out
    assert "cpu:8, 8 chips" in out
    assert "all-gather" in out or "all-reduce" in out
    assert "[1/1] data 2 × fsdp 4: compiled in" in err
    (row,) = csv.DictReader((tmp_path / "plans" / "plan.csv").read_text().splitlines())
    assert row["mesh"] == "data 2 × fsdp 4"
    assert int(row["parameters"]) > 0
    assert (tmp_path / "plans" / "plan.md").read_text().startswith("# small on cpu:8")
    assert (tmp_path / "plans" / "plan.png").read_bytes()[:4] == b"\x89PNG"

    assert main(command) == 2
    assert "plan.csv exists" in capsys.readouterr().err


@pytest.mark.slow
def test_sweep_over_meshes_as_json(experiment, capsys):
    assert main(["plan", experiment, "--topology", "cpu:4", "--sweep", "--most", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {json.dumps(row["mesh"]) for row in found} == {'{"fsdp": 4}', '{"data": 4}', '{"tensor": 4}'}
    assert all(row["fits"] and row["bound"] is None for row in found)


@pytest.mark.slow
def test_measured_steps(experiment, capsys):
    assert main(["sweep", experiment, "--over", "mesh", "--steps", "3", "--most", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 2
    assert all(0 < row["measured"] < 60 for row in found)
    assert found[0]["measured"] <= found[1]["measured"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan"], "names no experiment"),
        (["plan", "nowhere.yaml"], "no such experiment"),
        (["plan", "EXPERIMENT", "--topology", "v5e:3x3"], "v5e has no shape 3x3; known: "),
        (["plan", "EXPERIMENT", "--topology", "v9:2x2"], "the chip v9 is not known"),
        (["plan", "EXPERIMENT", "--topology", "cpu:8", "--mesh.fsdp", "3"], "sizes that fit"),
        (["plan", "EXPERIMENT", "--most", "0"], "--most is 0; expected more than 0"),
        (["sweep", "EXPERIMENT", "--steps", "0"], "--steps is 0; expected more than 0"),
        (
            ["plan", "EXPERIMENT", "--topology", "cpu:16", "--sweep", "--train.batch-size", "7"],
            "7 rows, which divide over no mesh of 16",
        ),
    ],
)
def test_mistakes_are_named(experiment, words, said, capsys):
    assert main([experiment if word == "EXPERIMENT" else word for word in words]) == 2
    assert said in capsys.readouterr().err


def test_heads_that_do_not_divide(experiment, capsys):
    words = ["plan", experiment, "--topology", "cpu:8", "--mesh.tensor", "8", "--train.batch-size", "8"]
    assert main(words) == 2
    assert "the model has 4 heads; expected one of 1, 2, 4" in capsys.readouterr().err


def test_accelerators_have_sources(capsys):
    assert main(["plan", "--accelerators"]) == 0
    out = capsys.readouterr().out
    assert "v5e" in out
    assert "https://" in out
