from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
from safetensors import safe_open

from jaxtune import files
from jaxtune.errors import RunError
from jaxtune.hub import saving
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.saving import save_pretrained

IDS = [[2, 8, 9, 3]]


@pytest.fixture
def model(make_checkpoint):
    return load_pretrained(make_checkpoint(), "classification", labels=("bad", "good"), dropout=0.0)


def saved_config(folder):
    return json.loads((folder / "config.json").read_text())


def test_what_is_saved_loads_as_the_same_model(model, tmp_path):
    save_pretrained(tmp_path / "out", model)
    again = load_pretrained(tmp_path / "out", "auto")
    np.testing.assert_array_equal(again(IDS), model(IDS))
    assert again.labels == model.labels
    assert again.report.missing == again.report.unexpected == ()
    assert again.tokenizer("good")["input_ids"] == model.tokenizer("good")["input_ids"]


def test_config_of_a_classifier(model, tmp_path, tiny_config):
    save_pretrained(tmp_path / "out", model)
    config = saved_config(tmp_path / "out")
    assert config == tiny_config | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "bad", "1": "good"},
        "label2id": {"bad": 0, "good": 1},
        "problem_type": "single_label_classification",
    }
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_config_of_a_regressor(make_checkpoint, tiny_config, tmp_path):
    old = tiny_config | {
        "id2label": {"0": "x", "1": "y", "2": "z"},
        "num_labels": 3,
        "torch_dtype": "float16",
    }
    save_pretrained(tmp_path / "out", load_pretrained(make_checkpoint(config=old), "regression"))
    config = saved_config(tmp_path / "out")
    assert config["id2label"] == {"0": "LABEL_0"}
    assert config["label2id"] == {"LABEL_0": 0}
    assert config["problem_type"] == "regression"
    assert config["torch_dtype"] == "float32"
    assert "num_labels" not in config


def test_config_of_a_backbone_is_the_one_that_was_read(make_checkpoint, tiny_config, tmp_path):
    save_pretrained(tmp_path / "out", load_pretrained(make_checkpoint()))
    assert saved_config(tmp_path / "out") == tiny_config


@pytest.mark.parametrize(("labels", "kept"), [((), True), (("p", "q"), False)])
def test_multi_label_stays_as_long_as_its_labels_do(
    make_checkpoint, make_tensors, tiny_config, tmp_path, labels, kept
):
    config = tiny_config | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "a", "1": "b"},
        "problem_type": "multi_label_classification",
    }
    folder = make_checkpoint(config=config, tensors=make_tensors(prefix="bert.", labels=2))
    save_pretrained(tmp_path / "out", load_pretrained(folder, "classification", labels=labels))
    assert (saved_config(tmp_path / "out")["problem_type"] == "multi_label_classification") == kept


def test_transformers_reads_the_config(model, tmp_path):
    from transformers import AutoConfig

    save_pretrained(tmp_path / "out", model)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.num_labels, config.id2label, config.label2id) == (
        2,
        {0: "bad", 1: "good"},
        {"bad": 0, "good": 1},
    )


def test_a_checkpoint_is_not_overwritten_without_a_word(model, tmp_path):
    save_pretrained(tmp_path / "out", model)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    model.params["head"]["classifier"]["bias"] += 1
    with pytest.raises(RunError, match="overwrite=True"):
        save_pretrained(tmp_path / "out", model)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    (tmp_path / "out" / "README.md").write_text("mine")
    (tmp_path / "out" / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "out" / ".saving-killed").mkdir()
    save_pretrained(tmp_path / "out", model, overwrite=True)
    np.testing.assert_array_equal(load_pretrained(tmp_path / "out", "auto")(IDS), model(IDS))
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert not {name for name in names if name.startswith(".") or "index" in name}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_written_to(model, tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.tex"):
        save_pretrained(tmp_path, model, overwrite=overwrite)
    with pytest.raises(RunError, match="is a file"):
        save_pretrained(tmp_path / "thesis.tex", model, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_fine(model, tmp_path):
    (tmp_path / "out").mkdir()
    save_pretrained(str(tmp_path / "out"), model)
    assert load_pretrained(tmp_path / "out", "auto").labels == ("bad", "good")


def test_a_save_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    save_pretrained(tmp_path / "old", model)
    before = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()}
    monkeypatch.setattr(saving, "write_safetensors", full)
    for name, overwrite in (("new", False), ("old", True)):
        with pytest.raises(RunError, match="No space left"):
            save_pretrained(tmp_path / name, model, overwrite=overwrite)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old", "tiny"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()} == before


def test_remote_folders(model):
    url = f"memory://{uuid.uuid4().hex}/best"
    save_pretrained(url, model)
    np.testing.assert_array_equal(load_pretrained(url, "auto")(IDS), model(IDS))
    with pytest.raises(RunError, match="overwrite"):
        save_pretrained(url, model)
    model.params["head"]["classifier"]["bias"] += 1
    save_pretrained(url, model, overwrite=True)
    np.testing.assert_array_equal(load_pretrained(url, "auto")(IDS), model(IDS))
    files.remove(url)


def test_a_checkpoint_without_tokenizer_is_saved_without(make_checkpoint, tmp_path):
    save_pretrained(tmp_path / "out", load_pretrained(make_checkpoint(tokenizer=False)))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
