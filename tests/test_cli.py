"""The command line: what it understands, what it says, where it says it, and its exit status."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxtune.cli import main, presets_main
from jaxtune.config import dump_yaml
from jaxtune.errors import RunError
from jaxtune.training.train import train
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def run(folder):
    """Path of a finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXTUNE_CACHE", str(folder / "cache"))
        return train(tiny.experiment(folder, name="done", train={"epochs": 1}), quiet=True).path


@pytest.fixture
def say(capsys):
    """Run a command → (exit status, standard output, standard error)."""

    def call(*argv, presets=None):
        try:
            words = [str(word) for word in argv]
            status = main(words) if presets is None else presets_main(presets, words)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return call


# What it understands


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "generate", "export", "table", "info"])
def test_every_command_explains_itself_with_an_example(say, command):
    status, out, _ = say(command, "--help")
    assert status == 0
    examples = [line for line in out.splitlines() if line.startswith("Example: ")]
    assert examples
    assert all(line.startswith(f"Example: jaxtune {command}") for line in examples)
    assert all(line.count("Example:") == 1 for line in examples)


def test_help_and_version(say):
    status, out, _ = say("--help")
    assert status == 0
    assert all(f"jaxtune {command}" in out for command in ("train", "evaluate", "predict", "export", "info"))
    assert say()[0] == 2
    status, out, _ = say("--version")
    assert (status, out.count("\n")) == (0, 1)


def test_an_unknown_command_or_field_is_named(say):
    status, out, err = say("fine-tune")
    assert (status, out) == (2, "")
    assert "'fine-tune'; there are: train, evaluate" in err
    status, _, err = say("train", "--optim.learning-rat", "1")
    assert status == 2
    assert "--optim.learning-rate" in err
    assert say("evaluate")[0] == 2


def test_presets_explain_themselves(say):
    presets = {"first": ("The first of them.", tiny.Experiment(name="first"))}
    status, out, _ = say("--help", presets=presets)
    assert status == 0
    assert "The first of them." in out
    status, _, err = say("first", presets=presets)
    assert status == 2
    assert "`model.source` is ''; expected a checkpoint" in err
    assert say("second", presets=presets)[0] == 2


# Configuration files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"version: 99\n", "version 99 was written by a newer jaxtune"),
        (b"version: x\n", "`version` expects a whole number"),
        (b"optim:\n  learning_rat: 1\n", "did you mean `optim.learning_rate`?"),
        (b"train:\n  epochs: many\n", "`train.epochs` expects a number; got 'many'"),
        (b"train:\n  batch_size: -1\n", "c.yaml: `train.batch_size` is -1"),
        (b"train: {epochs: .inf}\n", "`train.epochs` is inf; expected a finite number"),
        (b"optim: {learning_rate: .nan}\n", "`optim.learning_rate` is nan; expected a finite number"),
        (b"model: {dropout: 1.0}\n", "`model.dropout` is 1.0; expected a share from 0 to below 1"),
        (b"train: {seed: 1}\ntrain: {seed: 2}\n", "c.yaml:2: `train` is given twice"),
        (b"train:\n\tepochs: 1\n", "c.yaml:2: not valid YAML"),
        (b"name: \xff\n", "not valid UTF-8 at byte 6"),
        (b"- a\n", "expected a mapping of fields, got list"),
        (b"name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_bad_config_file(say, tmp_path, text, said):
    path = tmp_path / "c.yaml"
    path.write_bytes(text)
    status, out, err = say("train", "--config", path)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err


def test_a_config_that_is_no_file(say, run, tmp_path):
    for given, said in (
        ((), "names no file"),
        ((tmp_path / "none.yaml",), "no such file"),
        ((tmp_path,), "is a folder"),
        ((run,), f"did you mean {run}/config.yaml?"),
    ):
        status, _, err = say("train", "--config", *given)
        assert status == 2
        assert said in err


def test_fields_beside_a_config_file_win(say, folder, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(dump_yaml(tiny.experiment(folder, name="configured", train={"epochs": 9})))
    status, out, err = say("train", f"--config={path}", "--train.steps", "2", "--train.epochs", "1")
    assert (status, out) == (0, "")
    assert "plan: 2 steps" in err
    assert say("train", "--config", path, "--train.steps", "2", "--train.epochs", "1")[2].count("\n") == 1


# Results on standard output, everything else on standard error


def test_predictions_alone_are_on_standard_output(say, run):
    status, out, _ = say("predict", run, "--text", "a warm film", "dull", "--text", "grim and cold")
    assert status == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 3
    assert answers[0].keys() == {"label", "score", "probabilities"}


def test_texts_on_standard_input(say, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a warm film\r\n\ndull and grim\n"))
    status, out, _ = say("predict", run)
    assert status == 0
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["a warm film", "dull and grim"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "nothing to predict" in say("predict", run)[2]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"warm \xff film\n"), encoding="utf-8"))
    status, _, err = say("predict", run)
    assert status == 2
    assert "standard input is not valid UTF-8" in err


def test_every_kind_of_file_is_predicted_without_labels(say, run, tmp_path):
    texts = ["a warm film", "dull and grim"]
    table = pa.table({"text": texts, "when": pa.array([0, 1], pa.timestamp("s")), "raw": [b"\xff", b"a"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": None}) + "\n" for t in texts)
    )
    (tmp_path / "rows.csv").write_text(
        "\ufeffid;text\n" + "".join(f'{i};"{t}"\n' for i, t in enumerate(texts))
    )
    (tmp_path / "rows.tsv").write_text("id\ttext\n" + "".join(f"{i}\t{t}\n" for i, t in enumerate(texts)))
    (tmp_path / "rows.txt").write_text("\n".join(texts))
    labels = set()
    for kind in ("jsonl", "csv", "tsv", "parquet", "txt"):
        status, out, _ = say("predict", run, "--input", tmp_path / f"rows.{kind}")
        assert status == 0, kind
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row["text"] for row in rows] == texts, kind
        labels.add(tuple(row["prediction"]["label"] for row in rows))
    assert len(labels) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "warm"}\n{oops\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": null}\n', "a.jsonl:1: column 'text' is null"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: column 'text' holds the int 3"),
        (
            "a.jsonl",
            b'{"review": "warm"}\n',
            "no column 'text', which this run reads; the columns are 'review'",
        ),
        ("a.csv", b"text\nwarm\xff film\n", "a.csv:2: column 'text' is not valid UTF-8"),
        ("a.csv", b"text\n", "a header and no rows"),
        ("a.csv", b"", "the file is empty"),
        ("a.xlsx", b"PK", "cannot tell what kind of data"),
    ],
)
def test_bad_rows_to_predict(say, run, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    status, out, err = say("predict", run, "--input", tmp_path / name)
    assert (status, out) == (2, "")
    assert said in err


def test_a_text_with_a_lone_surrogate_beside_it_is_still_printed(run, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a warm film", "note": "\\ud800"}\n')
    out = shell("predict", run, "--input", str(path))
    assert out.returncode == 0
    assert json.loads(out.stdout)["note"] == "\ud800"


def test_an_output_file_is_not_replaced_unasked(say, run, tmp_path):
    target = tmp_path / "new" / "predictions.jsonl"
    asked = ("predict", run, "--text", "a warm film", "--output", target)
    status, out, err = say(*asked)
    assert (status, out) == (0, "")
    assert "1 predictions written" in err
    before = target.read_text()
    status, _, err = say(*asked)
    assert status == 2
    assert "--overwrite" in err
    assert target.read_text() == before
    assert say(*asked, "--overwrite")[0] == 0
    assert "is a folder" in say("predict", run, "--text", "a", "--output", tmp_path, "--overwrite")[2]
    under_file = target / "x.jsonl"
    assert "cannot be written" in say("predict", run, "--text", "a warm film", "--output", under_file)[2]


def test_what_does_not_go_together(say, run):
    assert "not both" in say("predict", run, "--text", "a", "--input", "b.csv")[2]
    assert "--text names no text" in say("predict", run, "--text")[2]
    assert "no such run directory" in say("predict", f"{run}-none", "--text", "a")[2]
    assert "is not a jaxtune run" in say("evaluate", Path(run).parents[1])[2]


def test_evaluate_prints_numbers_or_json(say, run, folder):
    status, out, _ = say("evaluate", run)
    assert status == 0
    assert out.startswith("accuracy ")
    status, out, _ = say("evaluate", run, "--split", "validation", "--json")
    assert json.loads(out)["accuracy"] >= 0
    status, out, err = say("evaluate", run, "--split", "dev")
    assert (status, out) == (2, "")
    assert "it has: train, validation, test" in err


def test_evaluate_on_another_file(say, run, tmp_path):
    rows = tiny.write_reviews(tmp_path / "other.jsonl", rows=20, seed=5)
    _, out, _ = say("evaluate", run, "--data", f"jsonl:{rows}", "--json")
    assert sum(json.loads(out)["support"]) == 20
    (tmp_path / "bare.csv").write_text("text\na warm film\n")
    assert (
        "no column 'label', which this run reads" in say("evaluate", run, "--data", tmp_path / "bare.csv")[2]
    )


def test_export_never_replaces_what_it_does_not_know(say, run, tmp_path):
    out = tmp_path / "model"
    assert say("export", run, out)[:2] == (0, "")
    status, _, err = say("export", run, out)
    assert status == 2
    assert "--overwrite" in err
    assert say("export", run, out, "--overwrite")[0] == 0
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("mine")
    status, _, err = say("export", run, tmp_path / "notes", "--overwrite")
    assert status == 2
    assert "other files (thesis.tex)" in err
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["thesis.tex"]


def test_export_of_any_checkpoint(say, tmp_path):
    source, out = tiny.write_checkpoint(tmp_path / "source"), tmp_path / "out"
    assert say("export", source, out)[0] == 0
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert (out / "tokenizer.json").is_file()
    assert say("export", source, out, "--modern-names", "--dtype", "bfloat16", "--overwrite")[0] == 0
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert (out / "model.safetensors").stat().st_size < 0.6 * (source / "model.safetensors").stat().st_size
    status, _, err = say("export", tmp_path / "nothing", tmp_path / "new")
    assert status == 2
    assert "there is no file or folder" in err


def test_export_of_a_run_in_another_type(say, run, tmp_path):
    assert say("export", run, tmp_path / "out", "--dtype", "float16")[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


def test_info(say, run):
    status, out, _ = say("info", run)
    assert status == 0
    assert "finished" in out
    facts = json.loads(say("info", run, "--json")[1])
    assert facts["state"] == "finished"
    assert facts["results"].startswith("validation accuracy")
    assert facts["attention"][0].startswith("attention on cpu: plain for ")


# Pairs, and a quick end


def test_a_run_on_pairs_says_what_it_needs(say, folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "reviews.jsonl").read_text().splitlines()]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({**row, "other": row["text"]}) + "\n" for row in rows))
    data = {"train": f"jsonl:{path}", "text_pair": "other", "max_length": 48}
    pairs = train(tiny.experiment(folder, name="pairs", data=data, train={"steps": 1}), quiet=True).path
    status, _, err = say("predict", pairs, "--text", "a warm film")
    assert status == 2
    assert "reads pairs of texts; expected records with the columns 'text' and 'other'" in err
    path.write_text('{"text": "a warm film", "other": "dull"}\n')
    assert say("predict", pairs, "--input", path)[0] == 0


def test_a_reader_that_has_gone_is_no_error(run):
    lines = "a warm film\n" * 20_000
    command = f"'{sys.executable}' -m jaxtune.cli predict '{run}' | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], input=lines, text=True, capture_output=True
    )
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert "Error" not in done.stderr


def test_ctrl_c_ends_without_a_traceback(say, run, monkeypatch):
    def interrupted(self, records):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxtune.training.run.Run.predict", interrupted)
    assert say("predict", run, "--text", "a") == (130, "", "interrupted\n")


def test_a_full_disk_is_no_traceback(say, run, monkeypatch):
    def full(self, records):
        raise OSError(28, "No space left on device", "/somewhere/file")

    monkeypatch.setattr("jaxtune.training.run.Run.predict", full)
    status, out, err = say("predict", run, "--text", "a")
    assert (status, out) == (2, "")
    assert err.startswith("error: /somewhere/file: No space left on device. Make room")


def test_errors_of_ours_are_shown_as_they_are(say, run, monkeypatch):
    def fails(self, records):
        raise RunError("the thing, the place, what to do")

    monkeypatch.setattr("jaxtune.training.run.Run.predict", fails)
    assert say("predict", run, "--text", "a") == (2, "", "error: the thing, the place, what to do\n")


def shell(*argv):
    return subprocess.run(
        [sys.executable, "-m", "jaxtune.cli", *argv], capture_output=True, text=True, env=dict(os.environ)
    )
