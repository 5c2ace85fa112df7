"""Translation and summarization: pairs become examples, written texts become scores."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from jaxtune.config import DataConfig, Experiment
from jaxtune.data.examples import Examples
from jaxtune.errors import ConfigError, DataError
from jaxtune.hub.description import Description
from jaxtune.hub.tokenizer_building import Recipe, build_tokenizer
from jaxtune.reports.example_scores import example_scores
from jaxtune.tasks.base import pieces_of
from jaxtune.tasks.registry import make_task
from jaxtune.tasks.scoring.summaries import summary_metrics
from jaxtune.tasks.scoring.translation import translation_metrics

ENGLISH = ["one house", "two houses", "the house is small", "the small house", "a big house is not small"]
GERMAN = [
    "ein Haus",
    "zwei Häuser",
    "das Haus ist klein",
    "das kleine Haus",
    "ein großes Haus ist nicht klein",
]


@pytest.fixture(scope="module")
def tokenizer():
    texts = (ENGLISH + GERMAN) * 3
    return build_tokenizer(Recipe("bpe", 400), iter(texts), normalizer="none", model_kind="encoder_decoder")


def task_for(tokenizer, task="translation", *, start=5, positions=None, **data):
    experiment = Experiment(task=task, data=DataConfig(text="en", target="de", **data))
    raw = {"model_type": "t5", "decoder_start_token_id": start, "eos_token_id": tokenizer.eos_token_id}
    config = SimpleNamespace(vocab_size=len(tokenizer), max_position_embeddings=positions)
    return make_task(experiment).for_model(Description(raw, config, tokenizer))


def place(index):
    return f"pairs.tsv:{index + 1}"


def rows():
    return [{"en": a, "de": b} for a, b in zip(ENGLISH, GERMAN)]


def split_of(examples, records):
    return SimpleNamespace(
        examples=Examples.from_list(examples), records=records, rows=np.arange(len(records))
    )


def test_the_decoder_reads_the_target_shifted_behind_the_start_token(tokenizer):
    made = task_for(tokenizer, prefix="to German: ").tokenize(rows(), tokenizer, place)
    for example, (english, german) in zip(made, zip(ENGLISH, GERMAN)):
        assert tokenizer.decode(example["tokens"], skip_special_tokens=True) == f"to German: {english}"
        assert tokenizer.decode(example["labels"], skip_special_tokens=True) == german
        assert example["labels"][-1] == tokenizer.eos_token_id
        assert example["decoder_tokens"].tolist() == [5, *example["labels"][:-1]]
        assert not example["truncated"]


def test_a_target_longer_than_the_limit_is_cut_counted_and_still_ends(tokenizer):
    made = task_for(tokenizer, max_target_length=3).tokenize(rows(), tokenizer, place)
    for example in made:
        assert len(example["labels"]) <= 3
        assert example["labels"][-1] == tokenizer.eos_token_id
    assert made[-1]["truncated"]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"en": "", "de": "ein"}, "'en'"),
        ({"en": "one", "de": "  "}, "'de'"),
        ({"en": "one", "de": None}, "'de'"),
        ({"en": "one", "de": []}, "'de'"),
        ({"en": "one"}, "--data.target"),
    ],
)
def test_a_pair_with_one_side_empty_is_named_and_the_others_stay(tokenizer, row, named):
    made = task_for(tokenizer).tokenize([rows()[0], row, rows()[1]], tokenizer, place)
    assert isinstance(made[1], DataError)
    assert "pairs.tsv:2" in str(made[1])
    assert named in str(made[1])
    assert [isinstance(example, dict) for example in made] == [True, False, True]


def test_without_labels_the_target_is_not_read(tokenizer):
    made = task_for(tokenizer).tokenize([{"en": "one house"}], tokenizer, place, labelled=False)
    assert "decoder_tokens" not in made[0]


def test_a_model_that_cannot_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="decoder_start_token_id"):
        task_for(tokenizer, start=None)
    with pytest.raises(ConfigError, match=r"max_target_length.*16 tokens"):
        task_for(tokenizer, positions=16, max_target_length=17)
    with pytest.raises(ConfigError, match="text_pair"):
        task_for(tokenizer, text_pair="fr")


def outputs_of(texts):
    counts = np.full(len(texts), 4.0)
    return {"loss_sum": np.full(len(texts), 2.0), "right": counts / 2, "count": counts, "text": list(texts)}


@pytest.mark.parametrize(
    ("name", "metrics"), [("translation", translation_metrics), ("summarization", summary_metrics)]
)
def test_what_is_written_is_scored_against_the_raw_targets(tokenizer, name, metrics):
    task = task_for(tokenizer, name)
    said = [GERMAN[0], "zwei Haus", "", "das Haus", "ein Haus ist nicht klein"]
    split = split_of(task.tokenize(rows(), tokenizer, place), rows())
    found = task.score(outputs_of(said), split)
    assert found["loss"] == pytest.approx(0.5)
    assert found["perplexity"] == pytest.approx(math.exp(0.5))
    for metric, value in metrics(said, GERMAN).items():
        assert found[metric] == value
    # What predictions.jsonl keeps of each row gives the same metrics again.
    lines = [
        {**task.answer(record, pieces), "scores": task.scores(record, pieces)}
        for record, pieces in pieces_of(outputs_of(said), split)
    ]
    assert [line["written"] for line in lines] == said
    scores = example_scores(lines)
    for metric in task.metric_names:
        if metric in scores.columns:
            assert scores.scores(metric).value() == pytest.approx(found[metric], rel=1e-9), metric
    assert set(task.written_metrics) - {"rougeLsum"} <= set(scores.columns)


def test_the_best_of_several_references_counts(tokenizer):
    records = [{"en": "the house", "de": ["das Haus", "das Gebäude"]}]
    task = task_for(tokenizer)
    split = split_of(task.tokenize(records, tokenizer, place), records)
    assert task.score(outputs_of(["das Gebäude"]), split)["chrf"] == pytest.approx(100.0)
    assert task.truth(records[0], 0) == ["das Haus", "das Gebäude"]


def test_how_texts_are_searched_for_makes_no_other_examples(tokenizer):
    task = task_for(tokenizer)
    other = dataclasses.replace(task, asked=(("num_beams", 9),), generation=None)
    assert repr(other) == repr(task)
