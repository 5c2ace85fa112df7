"""Questions on a text: end to end on a tiny BERT from random weights, with a tokenizer of its own."""

import dataclasses
import json
from pathlib import Path

import pytest

import jaxtune
from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jaxtune.data.pipeline import load_splits
from jaxtune.errors import DataError
from jaxtune.hub.tokenizer_building import Recipe, build_tokenizer
from jaxtune.tasks.registry import make_task
from jaxtune.tasks.scoring.squad import squad_v2

FIXTURE = Path(__file__).parents[1] / "questions.json"
SMALL = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def run_of(tmp_path, train=f"squad:{FIXTURE}", **data):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    model = ModelConfig(f"new:{tmp_path / 'config.json'}", tokenizer="wordpiece:400", precision="float32")
    fields = {"train": train, "validation": train, "holdout": (0.0, 0.0), "max_length": 64, "doc_stride": 16}
    columns = {"text": "question", "text_pair": "context", "label": "answers", "max_question_length": 16}
    return Experiment(
        name="questions",
        task="question_answering",
        output=str(tmp_path / "runs"),
        model=model,
        data=DataConfig(**{**fields, **columns, **data}),
        optim=OptimConfig(learning_rate=3e-3),
        train=TrainConfig(epochs=30, batch_size=16, eval_every=1000),
        mesh=MeshConfig(devices=1),
    )


def test_it_learns_the_fixture_and_says_where_the_answers_stand(tmp_path):
    experiment = run_of(tmp_path)
    run = jaxtune.train(experiment)
    found = run.results["splits"]["validation"]
    assert found["exact_match"] > 80
    assert found["no_answer_f1"] > 80
    assert run.config.data.null_threshold == 0.0
    again = jaxtune.train(dataclasses.replace(experiment, resume="auto"))
    assert again.results == run.results, "the threshold that was settled is no other configuration"

    lines = [json.loads(line) for line in Path(run.path, "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 18, "one per question, not per window"
    for line in lines:
        place = slice(line["start"], line["end"]) if line["answer"] else slice(0)
        assert line["text_pair"][place] == line["answer"]
    official = squad_v2(
        {str(i): line["answer"] for i, line in enumerate(lines)},
        {str(i): line["target"] for i, line in enumerate(lines)},
    )
    assert {name: found[name] for name in official} == official
    mean = sum(line["scores"]["f1"] for line in lines) / len(lines)
    assert mean == pytest.approx(found["f1"], abs=1e-9)

    predicted = run.predict_file(f"squad:{FIXTURE}")
    assert [row["prediction"]["answer"] for row in predicted] == [line["answer"] for line in lines]
    assert predicted[0]["id"] == "alta-1"
    asked = run.predict([{"question": lines[0]["text"], "context": lines[0]["text_pair"]}])
    assert asked[0]["answer"] == lines[0]["answer"] == "Ingrid Solberg"
    with pytest.raises(DataError, match="reads pairs of texts"):
        run.predict(["Who paid for the oldest pier?"])
    exported = jaxtune.load_pretrained(run.path, head="auto")
    assert exported.head == "span"
    config = json.loads((Path(run.path) / "best" / "config.json").read_text())
    assert config["architectures"] == ["BertForQuestionAnswering"]


def test_answers_that_do_not_stand_there_stop_the_run_or_are_listed(tmp_path):
    rows = [
        {
            "question": "Who?",
            "context": f"Ada wrote note {i}.",
            "answers": {"text": ["Ada"], "answer_start": [0]},
        }
        for i in range(8)
    ]
    rows[4]["answers"]["answer_start"] = [1]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = build_tokenizer(Recipe("wordpiece", 60), [row["context"] for row in rows] * 3)
    config = run_of(tmp_path, f"jsonl:{path}").data
    task = make_task(run_of(tmp_path))
    with pytest.raises(
        DataError, match=r"questions\.jsonl:5: column 'answers' is wrong: the answer 'Ada' does not"
    ):
        load_splits(config, task, tokenizer)
    splits = load_splits(dataclasses.replace(config, on_error="skip"), task, tokenizer)
    assert len(splits["train"].examples) == 7
    summary = splits["train"].summary()
    assert "1 rows skipped" in summary
    assert "it stands at 0" in summary
    assert "windows that hold their answer: 100.0%" in summary
    assert splits.task.null_threshold is None


def test_rows_of_the_hub_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"question": "Who?", "context": f"In {i} Ada did.", "answers": {"text": ["Ada"], "answer_start": [5]}}
        for i in range(6)
    ]
    rows[2]["answers"] = {"text": [], "answer_start": []}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    tokenizer = build_tokenizer(Recipe("wordpiece", 60), [row["context"] for row in rows] * 3)
    config = run_of(tmp_path, f"parquet:{tmp_path / 'train.parquet'}").data
    splits = load_splits(config, make_task(run_of(tmp_path)), tokenizer)
    assert (splits["train"].examples.targets.max(axis=1) > 0).tolist() == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    assert splits.task.null_threshold == 0.0
