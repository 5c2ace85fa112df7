"""Multiple choice: choices meet in one softmax, also when packed; what labels may look like; and a run."""

from __future__ import annotations

import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtune
from jaxtune.config import DataConfig, Experiment, TrainConfig
from jaxtune.data.batches import build_batch, unpack
from jaxtune.data.examples import Examples
from jaxtune.data.planning import plan_evaluation
from jaxtune.errors import ConfigError, DataError
from jaxtune.models.layers import Policy
from jaxtune.models.model import build_model
from jaxtune.tasks.registry import make_task
from jaxtune.training.evaluation import gather_outputs
from jaxtune.training.step import make_eval_step, make_forward
from tests.tiny import BAD, CONFIG, GOOD, PLAIN, experiment

QUESTION = {"text": "the film", "choices": ["was good", "was bad", "is it"]}


def task(class_weights=None, label_smoothing=0.0, **data):
    train = TrainConfig(class_weights=class_weights, label_smoothing=label_smoothing)
    return make_task(Experiment(task="multiple_choice", data=DataConfig(**data), train=train))


def tokenize(task, tokenizer, *records, **options):
    return task.tokenize(records, tokenizer, lambda i: f"q.jsonl:{i + 1}", **options)


def target_of(tokenizer, label, choices=QUESTION["choices"], **data):
    (made,) = tokenize(task(**data), tokenizer, {"text": "the film", "choices": choices, "label": label})
    return made if isinstance(made, DataError) else made["target"]


def test_an_example_holds_its_choices_one_after_the_other(tokenizer):
    (made,) = tokenize(task(), tokenizer, QUESTION | {"label": 1})
    single = tokenizer([("the film", choice) for choice in QUESTION["choices"]])["input_ids"]
    assert made["tokens"].tolist() == [token for ids in single for token in ids]
    assert made["parts"].tolist() == [len(ids) for ids in single]
    assert made["target"] == 1
    with_question = task(text_pair="ask")
    (made,) = tokenize(with_question, tokenizer, QUESTION | {"ask": "not it", "label": 1})
    assert (
        made["tokens"][: made["parts"][0]].tolist() == tokenizer("the film", "not it was good")["input_ids"]
    )


def test_a_column_per_choice(tokenizer):
    columns = task(choices=("a", "b", "c"))
    row = {"text": "it", "a": "good", "b": "bad", "c": "bold"}
    made = tokenize(
        columns, tokenizer, row | {"label": 2}, row | {"label": "b"}, row | {"c": None, "label": 0}
    )
    assert [example["target"] for example in made] == [2, 1, 0]
    assert [len(example["parts"]) for example in made] == [3, 3, 2]
    (error,) = tokenize(columns, tokenizer, row | {"b": "", "label": 0})
    assert "column 'b' has '' as choice 2" in str(error)
    assert set(columns.columns_read.values()) == {"text", "a", "b", "c", "label"}


@pytest.mark.parametrize("label", [1, 1.0, "1", "B", "b", " was bad ", np.int64(1), b"1"])
def test_a_label_is_a_number_a_letter_or_the_text(tokenizer, label):
    assert target_of(tokenizer, label) == 1


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (3, "holds 3; expected the number of a choice from 0 to 2"),
        (-1, "holds -1"),
        ("D", "holds 'D'"),
        ("great", "holds 'great'"),
        (None, "is null"),
        ("", "holds ''"),
        (0.5, "holds 0.5"),
    ],
)
def test_labels_that_mean_no_choice(tokenizer, label, problem):
    error = target_of(tokenizer, label)
    assert isinstance(error, DataError)
    assert "q.jsonl:1: column 'label'" in str(error)
    assert problem in str(error)


def test_a_label_that_can_mean_two_choices_is_refused(tokenizer):
    error = target_of(tokenizer, "1", ["1", "2"])
    assert isinstance(error, DataError)
    assert "which can mean '1' and '2'" in str(error)
    assert target_of(tokenizer, 1, ["1", "2"]) == 1
    assert target_of(tokenizer, "2", ["1", "2"]) == 1


@pytest.mark.parametrize("choices", ["good", ["good"], [], None, ["good", 3], ["good", " ", "bad"]])
def test_choices_that_cannot_be(tokenizer, choices):
    assert isinstance(target_of(tokenizer, 0, choices), DataError)


def test_labels_that_count_from_one_are_noticed():
    assert task().resolve_labels([1, 2] * 5) == task()
    assert task().resolve_labels(["0", "1"] * 20) == task()
    assert task().resolve_labels(["A", "B"] * 20) == task()
    with pytest.raises(DataError, match="counted from 0"):
        task().resolve_labels(["1", "2"] * 10)


@pytest.mark.parametrize(
    "options",
    [{"class_weights": "balanced"}, {"label_smoothing": 0.1}, {"choices": ()}, {"labels": ("a", "b")}],
)
def test_options_that_cannot_be(options):
    with pytest.raises(ConfigError):
        task(**options)


def random_questions(count=12):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        parts = rng.integers(3, 9, rng.integers(2, 5))
        tokens = rng.integers(5, CONFIG.vocab_size, parts.sum()).astype(np.int32)
        types = np.concatenate([np.arange(n) >= n // 2 for n in parts]).astype(np.int32)
        rows.append(
            {"tokens": tokens, "token_types": types, "parts": parts, "target": rng.integers(len(parts))}
        )
    return Examples.from_list(rows)


def test_packed_choices_score_as_each_choice_alone():
    """Every choice in a row of its own, against whole questions side by side in a row."""
    examples = random_questions()
    model = build_model(CONFIG, "multiple_choice", 1, Policy(matmul_precision="highest"))
    tokens = jnp.ones((1, 8), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"]
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step = jax.jit(make_eval_step(make_forward(model), task().outputs))
    found = {}
    for batching in ("packed", "padded"):
        plan = plan_evaluation(examples.lengths, batching=batching, batch_size=4)
        found[batching] = gather_outputs(step, params, examples, plan, sharding)["logits"]
        ids = [row for step_plan in plan for row in unpack(build_batch(examples, step_plan))]
        assert sorted(i for i, _ in ids) == list(range(len(examples)))
        assert all(held.tolist() == examples.tokens_of(i).tolist() for i, held in ids)
    np.testing.assert_allclose(found["packed"], found["padded"], atol=1e-5, rtol=0)
    choices = [(i, k) for i in range(len(examples)) for k in np.flatnonzero(examples.parts[i])]
    rows, mask, types = (np.zeros((len(choices), int(examples.parts.max())), np.int32) for _ in range(3))
    for at, (i, k) in enumerate(choices):
        length, end = examples.parts[i, k], examples.parts[i, : k + 1].sum()
        rows[at, :length], mask[at, :length] = examples[i]["tokens"][end - length : end], 1
        types[at, :length] = examples[i]["token_types"][end - length : end]
    alone = jax.jit(lambda params: model.apply({"params": params}, rows, mask, None, types))(params)[:, 0, 0]
    assert len(choices) == (examples.parts > 0).sum() > len(examples) * 2
    assert np.abs(np.asarray(alone) - [found["packed"][i, k] for i, k in choices]).max() <= 1e-5
    assert (found["packed"][examples.parts == 0] == np.finfo(np.float32).min).all()


def test_the_loss_is_cross_entropy_over_the_choices_that_are_there():
    parts = np.array([[[4, 4, 4], [3, 3, 0]], [[2, 2, 2], [0, 0, 0]]])
    logits = np.array([[0.5, -1, 2, 1, 0, np.nan], [0, 1, 0, np.nan, np.nan, np.nan]], np.float32)
    batch = {
        "parts": jnp.array(parts),
        "targets": jnp.array([[2, 0], [0, 9]]),
        "weights": jnp.array([[1.0, 1.0], [1.0, 0.0]]),
    }
    sums = task().loss(jnp.array(logits)[..., None], batch)
    rows = [([0.5, -1, 2], 2), ([1, 0], 0), ([0, 1, 0], 0)]
    wanted = [-np.log(np.exp(scores[right]) / np.exp(scores).sum()) for scores, right in rows]
    assert float(sums["loss"][0]) == pytest.approx(sum(wanted), rel=1e-6)
    assert float(sums["loss"][1]) == 3
    assert float(sums["accuracy"][0]) == 2
    slope = jax.grad(lambda x: task().loss(x, batch)["loss"][0])(jnp.array(logits)[..., None])
    assert bool(jnp.isfinite(slope).all())
    assert not slope[1, 3:].any()


def test_a_run_learns_and_answers(tmp_path):
    rng = random.Random(0)
    rows = []
    for _ in range(240):
        kind = rng.choice(["funny", "lazy"])
        right = rng.choice(GOOD if kind == "funny" else BAD)
        wrong = rng.sample(BAD if kind == "funny" else GOOD, rng.randint(1, 2))
        choices = [right, *wrong]
        rng.shuffle(choices)
        text = " ".join([*rng.choices(PLAIN, k=3), kind])
        rows.append({"text": text, "endings": choices, "label": choices.index(right)})
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = jaxtune.train(
        experiment(
            tmp_path,
            task="multiple_choice",
            model={"dropout": 0.0},
            data={"train": f"jsonl:{path}", "choices": ("endings",)},
            train={"epochs": 8, "batch_size": 16},
        )
    )
    test = run.results["splits"]["test"]
    assert test["accuracy"] > 0.85
    answer = run.predict([{"text": "the film was lazy", "endings": ["superb", "tedious", "grim", "clever"]}])[
        0
    ]
    assert answer["answer"] in ("tedious", "grim")
    assert answer["choice"] in (1, 2)
    assert len(answer["probabilities"]) == 4
    assert sum(answer["probabilities"]) == pytest.approx(1)
    exported = jaxtune.load_pretrained(run.path, head="auto")
    assert exported.head == "multiple_choice"
    ids = exported.tokenizer(["a film", "a plot"], return_tensors="np")
    assert exported(ids["input_ids"], ids["attention_mask"]).shape == (2, 1)
    lines = (tmp_path / "runs" / "run" / "predictions.jsonl").read_text().splitlines()
    right = [json.loads(line)["scores"]["accuracy"] for line in lines]
    assert np.mean(right) == pytest.approx(test["accuracy"])
