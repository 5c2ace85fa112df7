"""Back-translation: each text once through each run, and only through runs that write."""

from __future__ import annotations

import re

import pytest

from jaxtune.config import DataConfig, Experiment
from jaxtune.errors import ConfigError
from jaxtune.training import augmenting
from jaxtune.training.train import train
from tests.tiny import experiment


class FakeRun:
    """A run that turns texts round."""

    config = Experiment(task="causal_lm")

    def __init__(self, path, key="written"):
        self.path, self.key, self.asked = str(path), key, []
        (path / "best").mkdir(parents=True)
        (path / "best" / "config.json").write_text("{}")
        (path / "best" / "model.safetensors").write_text(str(path))

    def predict(self, texts):
        self.asked += texts
        return [{self.key: text[::-1]} for text in texts]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(tmp_path / "cache"))


def test_texts_go_there_and_back_and_each_once(tmp_path, monkeypatch):
    runs = {name: FakeRun(tmp_path / name) for name in ("there", "back")}
    monkeypatch.setattr(augmenting, "open_run", lambda path: runs[path])
    monkeypatch.setattr(augmenting, "_CHUNK", 2)
    assert augmenting.make_rewrite(DataConfig(augment=("swap=0.1",))) is None
    rewrite = augmenting.make_rewrite(DataConfig(augment=("back_translation=there,back",)))
    assert rewrite(["ab c", " ", "d\ud800", "e", "f"]) == ["ab c", "", "d?", "e", "f"]
    assert runs["there"].asked == ["ab c", "d?", "e", "f"]
    assert runs["back"].asked == ["c ba", "?d", "e", "f"]
    assert rewrite(["ab c", "", "d?", "e", "g"]) == ["ab c", "", "d?", "e", "g"]
    assert runs["there"].asked[4:] == runs["back"].asked[4:] == ["g"]
    # Other weights give other texts.
    (tmp_path / "there" / "best" / "model.safetensors").write_text("trained on")
    assert rewrite(["e"]) == ["e"]
    assert runs["there"].asked[5:] == ["e"]
    assert runs["back"].asked[5:] == ["e"]  # another chunk than before


def test_a_run_with_a_budget_repeats_and_copies(tmp_path, capsys):
    """What the data room decides reaches the batches: the plan that is printed, and the run that is trained."""
    data = {
        "max_tokens": 256,
        "balance": "oversample",
        "shots": 24,
        "augment": ("swap=0.2",),
        "fold": "1/3",
        "stratify": True,
        "batching": "padded",
    }
    wanted = experiment(tmp_path, data=data, train={"steps": 3, "log_every": 3})
    run = train(wanted)
    said = capsys.readouterr().err + capsys.readouterr().out
    shapes = re.findall(r"(\d+)×(\d+)", re.search(r"^plan: .*", said, re.MULTILINE)[0])
    assert len(shapes) == 1
    assert all(128 < int(rows) * int(length) <= 256 for rows, length in shapes)
    for line in ("24 rows of each label, of ", " changed copies beside", "seen equally often", "fold 1/3 of"):
        assert line in said
    assert set(run.results["splits"]) == {"validation", "test"}
    # Each evaluation keeps the budget too, and sees the rows as they are.
    again = run.evaluate("test")
    for name in ("loss", "accuracy"):
        assert again[name] == pytest.approx(run.results["splits"]["test"][name])


def test_runs_that_cannot_translate_are_named(tmp_path):
    with pytest.raises(ConfigError, match="is a run of causal_lm, which writes no texts"):
        augmenting.translated(FakeRun(tmp_path / "a", key="loss"), ["one"])
    run = FakeRun(tmp_path / "b")
    (tmp_path / "b" / "best" / "config.json").unlink()
    with pytest.raises(ConfigError, match="has no finished best model"):
        augmenting.translated(run, ["one"])
