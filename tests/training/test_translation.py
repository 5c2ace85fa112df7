"""A Transformer from random weights learns to count in German: end to end, with a beam search at the end."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

import jaxtune
from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jaxtune.errors import ConfigError
from jaxtune.reports.records import read_run
from jaxtune.training.untrained import evaluate_untrained

ENGLISH = ["one", "two", "three", "four", "five", "six"]
GERMAN = ["eins", "zwei", "drei", "vier", "fünf", "sechs"]
TINY = (
    "d_model=32",
    "encoder_layers=1",
    "decoder_layers=1",
    "encoder_attention_heads=4",
    "decoder_attention_heads=4",
    "encoder_ffn_dim=64",
    "decoder_ffn_dim=64",
    "normalize_before=true",
    "dropout=0.0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seq2seq")
    triples = list(itertools.product(range(6), repeat=3))
    for name, words in (("en", ENGLISH), ("de", GERMAN)):
        (folder / name).write_text("".join(" ".join(words[i] for i in t) + "\n" for t in triples))
    return jaxtune.train(
        Experiment(
            name="counting",
            task="translation",
            output=str(folder / "runs"),
            model=ModelConfig(
                source="new:transformer", overrides=TINY, tokenizer="wordpiece:60", precision="float32"
            ),
            data=DataConfig(
                train=f"parallel:{folder / 'en'},{folder / 'de'}",
                text="source",
                target="target",
                max_length=16,
                max_target_length=12,
                holdout=(0.1, 0.2),
            ),
            optim=OptimConfig(learning_rate=1e-2),
            train=TrainConfig(steps=100, batch_size=16, eval_every=50, log_every=20),
            mesh=MeshConfig(devices=1),
        ),
        quiet=True,
    )


def test_it_learns_and_the_beam_search_is_scored(run):
    results = run.results["splits"]
    assert results["test"]["loss"] < 0.5
    assert results["test"]["chrf"] > 60
    assert results["test"]["bleu_signature"].startswith("nrefs:1")
    # While training, and of the validation split, only the loss is looked at: texts take long to write.
    assert "chrf" not in results["validation"]
    assert run.results["metric"] == "loss"


def test_predictions_hold_what_was_written_and_what_should_have_been(run, tmp_path):
    text = (Path(run.path) / "predictions.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    right = sum(line["written"] == line["target"] for line in lines)
    assert right / len(lines) > 0.5
    assert {"loss", "bleu", "chrf", "ter"} <= lines[0]["scores"].keys()
    assert set(lines[0]["text"].split()) <= set(ENGLISH)
    report = (Path(run.path) / "report.md").read_text(encoding="utf-8")
    assert "## Written (test split)" in report
    assert lines[0]["written"] in report
    # A signature is one cell.
    assert "nrefs:1\\|case:mixed" in report


def test_a_checkpoint_evaluated_as_it_is_gets_the_scores_of_the_run_that_made_it(run):
    start = dataclasses.replace(run.config.model, source=f"{run.path}/best", overrides=(), tokenizer=None)
    record = evaluate_untrained(dataclasses.replace(run.config, model=start), "as it is")
    expected = run.results["splits"]["test"]
    assert record.split == "test"
    for metric in ("loss", "bleu", "chrf"):
        assert record.metric(metric) == pytest.approx(expected[metric], rel=1e-6)
    assert record.rows["test"] == read_run(run.path).rows["test"]
    encoder = dataclasses.replace(run.config, task="classification", model=start)
    with pytest.raises(ConfigError, match="no trained head for classification"):
        evaluate_untrained(encoder, "another head")


def test_prediction_and_evaluation_afterwards_say_the_same(run):
    assert run.predict(["two three one"])[0]["written"].split()[0] in GERMAN
    assert run.evaluate("test")["chrf"] == pytest.approx(run.results["splits"]["test"]["chrf"])
