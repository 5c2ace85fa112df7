"""Runs without a trained checkpoint, with a tokenizer built from their own training texts; and of decoders."""

import dataclasses
import json
import random

import numpy as np
import pytest

import jaxtune
from jaxtune.errors import ConfigError
from jaxtune.hub import start
from jaxtune.hub.tokenizer_building import Recipe, build_tokenizer
from jaxtune.training.train import train
from tests import tiny

SMALL = {
    "new:bilstm": ("embedding_size=16", "hidden_size=16", "hidden_dropout_prob=0.1"),
    "new:textcnn": ("embedding_size=16", "num_filters=8"),
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48, "vocab_size": 300}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(folder / "cache"))


def scratch(folder, name, source, tokenizer, **changes):
    model = {"source": source, "tokenizer": tokenizer, "overrides": SMALL.get(source, ())}
    changes = {"optim": {"learning_rate": 1e-2}, **changes}
    return tiny.experiment(folder, name=name, model=model, **changes)


def check_whole(run, folder, name, tmp_path):
    """Results, what the directory holds, evaluation, prediction and export agree."""
    assert run.results["splits"]["test"]["accuracy"] > 0.85
    again = jaxtune.open_run(str(folder / "runs" / name))
    assert again.evaluate("test")["accuracy"] == run.results["splits"]["test"]["accuracy"]
    texts = ["warm funny gripping lovely film", "dull grim cold tedious plot and scene"]
    answers = again.predict(texts)
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    again.export(str(tmp_path / "out"))
    lm = jaxtune.load_pretrained(tmp_path / "out", "auto")
    assert lm.labels == ("bad", "good")
    inputs = lm.tokenizer(texts, padding=True)
    logits = np.asarray(lm(inputs["input_ids"], inputs["attention_mask"]))
    odds = [np.log(a["probabilities"]["good"] / a["probabilities"]["bad"]) for a in answers]
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], odds, atol=1e-4)
    return lm


@pytest.mark.parametrize(
    ("source", "tokenizer"), [("new:bilstm", "wordpiece:200"), ("new:textcnn", "bpe:300")]
)
def test_a_baseline_learns_and_is_a_checkpoint_as_any_other(folder, tmp_path, source, tokenizer):
    name = source.removeprefix("new:")
    run = train(scratch(folder, name, source, tokenizer), quiet=True)
    lm = check_whole(run, folder, name, tmp_path)
    assert lm.config.vocab_size == len(lm.tokenizer)
    base = json.loads((folder / "runs" / name / "base" / "config.json").read_text())
    assert (base["model_type"], base["pad_token_id"], base["id2label"]) == (
        name,
        0,
        {"0": "bad", "1": "good"},
    )
    assert (folder / "runs" / name / "base" / "tokenizer.json").is_file()


def test_any_family_starts_from_its_config_json(folder, tmp_path):
    tiny.experiment(folder)  # writes the checkpoint
    source = f"new:{folder / 'tiny-bert' / 'config.json'}"
    run = train(scratch(folder, "bert", source, "unigram:100", train={"epochs": 4}), quiet=True)
    lm = check_whole(run, folder, "bert", tmp_path)
    assert lm.raw_config["architectures"] == ["BertForSequenceClassification"]
    assert lm.config.hidden_size == 32
    assert lm.config.vocab_size == len(lm.tokenizer) <= 100


def test_a_resumed_run_keeps_its_tokenizer(folder, monkeypatch):
    experiment = scratch(
        folder, "resumed", "new:textcnn", "wordpiece:200", train={"steps": 6, "save_every": 2}
    )
    first = train(experiment, quiet=True)
    metrics, results = tiny.without_times(first.metrics), first.results
    (folder / "runs/resumed/results.json").unlink()
    newest = folder / "runs/resumed/checkpoints/6"
    newest.rename(folder / "gone")

    def rebuilt(*args, **options):
        raise AssertionError("a resumed run built a tokenizer anew")

    monkeypatch.setattr(start, "build_tokenizer", rebuilt)
    again = train(experiment, quiet=True)
    assert tiny.without_times(again.metrics) == metrics
    assert again.results == results


def test_the_tokenizer_is_built_from_the_training_split_alone(folder, tmp_path):
    rows = [{"text": "warm film", "label": "good"}, {"text": "grim plot", "label": "bad"}] * 20
    for name, extra in (("train", []), ("test", [{"text": "warm zzz zzz zzz", "label": "good"}] * 30)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows + extra))
    data = {
        "train": f"jsonl:{tmp_path / 'train.jsonl'}",
        "test": f"jsonl:{tmp_path / 'test.jsonl'}",
        "holdout": (0.0, 0.0),
    }
    experiment = scratch(folder, "own", "new:textcnn", "wordpiece:200", data=data, train={"steps": 2})
    run = train(experiment, quiet=True)
    assert "z" not in "".join(run.pretrained().tokenizer.get_vocab())


def test_what_cannot_be_started_is_said_before_anything_is_trained(folder):
    with pytest.raises(ConfigError, match=r"`model\.tokenizer` is not set"):
        train(scratch(folder, "none", "new:bilstm", None), quiet=True)
    small = scratch(folder, "small", "new:textcnn", "wordpiece:200")
    small = tiny.experiment(
        folder,
        name="small",
        model={**vars(small.model), "overrides": ("vocab_size=20",)},
    )
    with pytest.raises(
        ConfigError, match=r"wordpiece:200 has .* tokens, but the model's embedding only 20 rows"
    ):
        train(small, quiet=True)


def test_a_model_that_cannot_do_the_task_is_named(folder):
    with pytest.raises(
        ConfigError, match="new:transformer:base: unknown head 'classification' for transformer"
    ):
        train(scratch(folder, "seq2seq", "new:transformer:base", "wordpiece:200"), quiet=True)
    scanned = scratch(folder, "scanned", "new:textcnn", "wordpiece:200")
    scanned = dataclasses.replace(scanned, model=dataclasses.replace(scanned.model, scan_layers=True))
    with pytest.raises(ConfigError, match="scan_layers: the layers of this textcnn differ"):
        train(scanned, quiet=True)


def gpt2_folder(path):
    """A tiny GPT-2 with random weights and a tokenizer that has, as GPT-2's, no padding token."""
    from transformers import PreTrainedTokenizerFast

    words = [" ".join(tiny.WORDS[5:])] * 3
    backend = build_tokenizer(Recipe("bpe", 300), words, model_kind="decoder").backend_tokenizer
    backend.post_processor = None
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**GPT2, "initializer_range": 0.1}))
    lm = jaxtune.load_pretrained(f"new:{path}", "causal_lm")
    lm.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[EOS]", bos_token="[EOS]")
    assert lm.tokenizer.pad_token_id is None
    jaxtune.save_pretrained(path, lm, overwrite=True)


@pytest.fixture(scope="module")
def gpt2(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXTUNE_CACHE", str(folder / "cache"))
        gpt2_folder(folder / "gpt2")
        changes = {"model": {"source": str(folder / "gpt2")}, "train": {"epochs": 4}}
        return train(tiny.experiment(folder, name="decoder", **changes), quiet=True)


def test_a_decoder_learns_to_classify_packed_texts(gpt2, folder, tmp_path):
    assert gpt2.config.data.batching == "packed"
    lm = check_whole(gpt2, folder, "decoder", tmp_path)
    assert lm.raw_config["architectures"] == ["GPT2ForSequenceClassification"]
    assert lm.raw_config["pad_token_id"] == lm.tokenizer.pad_token_id == lm.tokenizer.eos_token_id == 6


def test_packed_and_padded_decoders_say_the_same(gpt2):
    network, params = gpt2._network
    rows = [tiny.review(random.Random(i)) for i in range(40)]
    packed = network.predict(params, rows, str)
    padded = dataclasses.replace(
        network,
        experiment=dataclasses.replace(
            network.experiment, data=dataclasses.replace(network.experiment.data, batching="padded")
        ),
    )
    for a, b in zip(packed, padded.predict(params, rows, str)):
        assert a["probabilities"]["good"] == pytest.approx(b["probabilities"]["good"], abs=1e-5)


def test_the_exported_decoder_is_read_by_torch(gpt2, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[torch]'")
    from transformers import GPT2ForSequenceClassification

    gpt2.export(str(tmp_path / "out"))
    peer = GPT2ForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    lm = jaxtune.load_pretrained(tmp_path / "out", "auto", matmul_precision="highest")
    inputs = lm.tokenizer(["a warm film", "dull", "its plot was very grim and cold"], padding=True)
    with torch.no_grad():
        theirs = peer(**{name: torch.tensor(ids) for name, ids in inputs.items() if name != "token_type_ids"})
    ours = lm(inputs["input_ids"], inputs["attention_mask"])
    np.testing.assert_allclose(ours, theirs.logits.numpy(), atol=2e-5)
