from __future__ import annotations

import json
import uuid

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxtune import files
from jaxtune.errors import RunError
from jaxtune.hub import saving
from jaxtune.hub.pretrained import Pretrained, load_pretrained
from jaxtune.hub.saving import save_pretrained
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of

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


@pytest.mark.parametrize("problem", ["multi_label_classification", "single_label_classification"])
def test_the_problem_type_that_a_model_was_trained_for_is_written(model, tmp_path, problem):
    other = {"multi": "single", "single": "multi"}[problem[: problem.index("_")]] + "_label_classification"
    before = {**model.raw_config, "problem_type": other, "id2label": {"0": "bad", "1": "good"}}
    trained = Pretrained(
        model.model,
        model.params,
        labels=model.labels,
        raw_config=before,
        tokenizer=model.tokenizer,
        problem_type=problem,
    )
    save_pretrained(tmp_path / "out", trained)
    assert saved_config(tmp_path / "out")["problem_type"] == problem


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


def test_a_model_that_was_made_without_a_config_json(tmp_path):
    """BERT's fields are called as in config.json; GPT-2's are not, and a wrong config.json would be no help."""
    for model_type, settings in (("bert", {"vocab_size": 60}), ("gpt2", {"vocab_size": 60, "n_embd": 768})):
        config = family_of(model_type).config_class.from_hf(
            {**settings, "num_hidden_layers": 1, "n_layer": 1}
        )
        model = build_model(config, None)
        made = Pretrained(model, init_params(model, jax.random.key(0)))
        if model_type == "bert":
            save_pretrained(tmp_path / model_type, made)
            assert load_pretrained(tmp_path / model_type).config == config
        else:
            with pytest.raises(ValueError, match="cannot be saved without the config"):
                save_pretrained(tmp_path / model_type, made)
            assert not (tmp_path / model_type).exists()


def test_a_borrowed_output_table_is_written_once_it_was_trained(tmp_path):
    """An untied T5 whose file has only ``shared``: exported as it came, and with its own table when that differs."""
    raw = {
        **{"model_type": "t5", "vocab_size": 60, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1},
        **{"num_heads": 2, "tie_word_embeddings": False, "architectures": ["T5ForConditionalGeneration"]},
    }
    config = family_of("t5").config_class.from_hf(raw)
    model = build_model(config, "seq2seq_lm")
    save_pretrained(
        tmp_path / "own", Pretrained(model, init_params(model, jax.random.key(0)), raw_config=raw)
    )
    tensors = load_file(tmp_path / "own" / "model.safetensors")
    del tensors["lm_head.weight"]
    (tmp_path / "shared").mkdir()
    save_file(tensors, tmp_path / "shared" / "model.safetensors")
    (tmp_path / "shared" / "config.json").write_text(json.dumps(raw))
    lm = load_pretrained(tmp_path / "shared", "seq2seq_lm")
    save_pretrained(tmp_path / "again", lm)
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(tensors)
    table = lm.params["head"]["lm_head"]["embedding"]
    lm.params["head"]["lm_head"]["embedding"] = table.at[0, 0].add(1.0)
    save_pretrained(tmp_path / "trained", lm)
    trained = load_file(tmp_path / "trained" / "model.safetensors")
    assert trained["lm_head.weight"][0, 0] == tensors["shared.weight"][0, 0] + 1.0


@pytest.mark.parametrize(("settings", "theirs"), [({}, "marian"), ({"normalize_before": True}, "pegasus")])
def test_a_transformer_has_todays_name_of_the_same_network(tmp_path, settings, theirs):
    raw = {
        **{
            "model_type": "transformer",
            "vocab_size": 60,
            "d_model": 8,
            "encoder_layers": 1,
            "decoder_layers": 1,
        },
        **{
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "pad_token_id": 0,
        },
        **{"decoder_ffn_dim": 16, "max_position_embeddings": 16, "activation_dropout": 0.0, **settings},
    }
    config = family_of("transformer").config_class.from_hf(raw)
    model = build_model(config, "seq2seq_lm")
    lm = Pretrained(model, init_params(model, jax.random.key(0)), raw_config=raw)
    save_pretrained(tmp_path / "ours", lm)
    save_pretrained(tmp_path / "theirs", lm, modern_names=True)
    saved = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert saved["model_type"] == theirs
    assert saved["architectures"] == [family_of(theirs).heads["seq2seq_lm"].architecture]
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "transformer"
    ids = np.array([[5, 6, 7]])
    logits = [load_pretrained(tmp_path / form, "auto")(ids, None, ids) for form in ("ours", "theirs")]
    np.testing.assert_array_equal(*logits)
