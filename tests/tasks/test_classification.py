from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.config import DataConfig, Experiment, TrainConfig
from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.registry import make_task

LOGITS = [
    [4.08, -5.12, 0.84],
    [-1.14, -0.9, -0.44],
    [-4.04, -0.46, -1.74],
    [6.64, 0.46, -0.7],
    [-0.56, -1.34, -2.12],
    [-0.78, 0.96, -0.48],
]
TARGETS = [0, 2, 1, 1, 0, 2]
WEIGHTS = (0.5, 2.0, 1.25)
# torch.nn.CrossEntropyLoss(weight=…, label_smoothing=…) of the above in float64 (torch 2.13): the
# loss and its gradient by the first row of logits.
TORCH = [
    (None, 0.0, 1.5900879295099528, [-0.006296908067316438, 1.6203664481637425e-05, 0.0062807044028348295]),
    (None, 0.1, 1.671421262843286, [0.004814203043794688, -0.005539351891073918, 0.0007251488472792744]),
    (WEIGHTS, 0.0, 2.1800033584251772, [-0.0025187632269265754, 6.481465792654971e-06, 0.002512281761133932]),
    (WEIGHTS, 0.1, 2.2376784822003213, [0.011547866733478872, -0.008881435203227336, -0.0026664315302515344]),
]


def task(labels=("negative", "neutral", "positive"), class_weights=None, label_smoothing=0.0, **data):
    train = TrainConfig(class_weights=class_weights, label_smoothing=label_smoothing)
    return make_task(Experiment(data=DataConfig(labels=labels, **data), train=train))


def tokenize(task, tokenizer, *records, **options):
    return task.tokenize(records, tokenizer, lambda i: f"reviews.csv:{i + 1}", **options)


def divided(sums, name):
    total, weight = sums[name]
    assert total.dtype == weight.dtype == jnp.float32
    return float(total / weight)


@pytest.mark.parametrize(("class_weights", "smoothing", "expected", "gradient"), TORCH)
def test_the_loss_is_that_of_torch(class_weights, smoothing, expected, gradient):
    model_task = task(class_weights=class_weights, label_smoothing=smoothing)
    batch = {"targets": jnp.array(TARGETS).reshape(3, 2), "weights": jnp.ones((3, 2))}

    def mean(logits):
        total, weight = model_task.loss(logits, batch)["loss"]
        return total / weight

    value, slope = jax.jit(jax.value_and_grad(mean))(jnp.array(LOGITS).reshape(3, 2, 3))
    assert float(value) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(slope[0, 0], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("class_weights", "smoothing", "expected"), [row[:3] for row in TORCH])
def test_absent_slots_reach_neither_loss_nor_gradient(class_weights, smoothing, expected):
    model_task = task(class_weights=class_weights, label_smoothing=smoothing)
    logits = np.full((6, 2, 3), np.nan, np.float32)
    logits[:, 0] = LOGITS
    targets = np.full((6, 2), 99)
    targets[:, 0] = TARGETS
    batch = {"targets": jnp.array(targets), "weights": jnp.array([[1.0, 0.0]] * 6)}
    sums = model_task.loss(jnp.array(logits), batch)
    assert divided(sums, "loss") == pytest.approx(expected, rel=1e-6)
    assert divided(sums, "accuracy") == pytest.approx(4 / 6)
    assert float(sums["accuracy"][1]) == 6
    slope = jax.grad(lambda x: model_task.loss(x, batch)["loss"][0])(jnp.array(logits))
    assert bool(jnp.isfinite(slope).all())


def test_a_nan_of_a_real_example_is_not_hidden():
    batch = {"targets": jnp.zeros((1, 1), jnp.int32), "weights": jnp.ones((1, 1))}
    assert np.isnan(divided(task().loss(jnp.full((1, 1, 3), jnp.nan), batch), "loss"))


def test_a_batch_without_examples_sums_to_zero():
    batch = {"targets": jnp.zeros((2, 2), jnp.int32), "weights": jnp.zeros((2, 2))}
    for total, weight in task(label_smoothing=0.1).loss(jnp.ones((2, 2, 3)), batch).values():
        assert float(total) == float(weight) == 0


def test_labels_come_from_the_training_values():
    resolved = task(labels=()).resolve_labels(["pos", None, "neg", "pos"])
    assert resolved.labels == ("neg", "pos")
    assert resolved.num_labels == 2


def test_declared_labels_win_over_those_of_the_source():
    resolved = task(labels=()).resolve_labels([0, 1], ("good", "bad"), ("bad", "good"))
    assert resolved.labels == ("good", "bad")
    assert resolved._target({"label": 0}, resolved.source_names, "x") == 1


@pytest.mark.parametrize("names", [(), ("neg", "pos")])
def test_a_single_class_in_training_is_an_error(names):
    with pytest.raises(DataError, match="every training row has the label 'pos'"):
        task(labels=()).resolve_labels(["pos"] * 5, names)


def test_training_without_a_usable_label_is_an_error():
    with pytest.raises(DataError, match=r"it holds 'x', for instance.*'neg', 'pos'.*--data\.labels"):
        task(labels=()).resolve_labels(["x", None], ("neg", "pos"))


@pytest.mark.parametrize("labels", [("one",), ("a", "a"), ("a", " ")])
def test_labels_that_cannot_be(labels):
    with pytest.raises(ConfigError, match="expected at least two names"):
        task(labels=labels)


def test_class_weights_must_fit_the_labels():
    with pytest.raises(ConfigError, match="expected 3 numbers of 0 or more, one for each of"):
        task(class_weights=(1.0, 2.0))


def test_label_smoothing_out_of_range():
    with pytest.raises(ConfigError, match=r"train\.label_smoothing is 1\.0"):
        task(label_smoothing=1.0)


def test_balanced_class_weights_come_from_the_training_targets():
    balanced = task(class_weights="balanced")
    with pytest.raises(ValueError, match="with_class_weights"):
        balanced.loss(jnp.zeros((1, 1, 3)), {"targets": jnp.zeros((1, 1), int), "weights": jnp.ones((1, 1))})
    assert balanced.with_class_weights([0, 0, 0, 2]).class_weights == pytest.approx((4 / 6, 1.0, 2.0))
    fixed = task(class_weights=WEIGHTS)
    assert fixed.with_class_weights([0, 1]) is fixed


def test_a_task_can_be_a_static_argument():
    assert hash(task()) == hash(task())
    assert dataclasses.replace(task(), label="other") != task()


def test_tokenize_gives_targets_and_errors_in_order(tokenizer):
    rows = ["positive", "0", None, "", "angry", -1, 7]
    results = tokenize(task(), tokenizer, *({"text": "good film", "label": label} for label in rows))
    assert [result["target"] for result in results[:2]] == [2, 0]
    assert "reviews.csv:3: column 'label' has no label (it is null)" in str(results[2])
    assert "it is empty" in str(results[3])
    assert "'angry', which was never declared; expected one of 'negative', 'neutral', 'positive'" in str(
        results[4]
    )
    assert "-1, which marks rows without a label" in str(results[5])
    assert "the label 7," in str(results[6])
    assert all(isinstance(result, DataError) for result in results[2:])


def test_names_ids_and_texts_of_digits_may_be_mixed_where_labels_are_declared(tokenizer):
    values = ["negative", 1, "2", b"positive", 2.0, " neutral ", np.int64(0)]
    resolved = task().resolve_labels(values)
    assert resolved.labels == ("negative", "neutral", "positive")
    rows = tokenize(resolved, tokenizer, *({"text": "good film", "label": value} for value in values))
    assert [row["target"] for row in rows] == [0, 1, 2, 2, 2, 1, 0]


def test_prediction_needs_no_label(tokenizer):
    (with_label, without) = tokenize(
        task(), tokenizer, {"text": "good", "label": "?"}, {"text": "good"}, labelled=False
    )
    assert with_label["target"] == without["target"] == 0
    (error,) = tokenize(task(), tokenizer, {"text": "good"})
    assert "no column 'label'; the columns are: 'text'" in str(error)


def test_another_source_may_number_the_labels_otherwise(tokenizer):
    record = {"text": "good", "label": 0}
    (example,) = tokenize(task(), tokenizer, record, source_names=("positive", "negative"))
    assert example["target"] == 2


def test_read():
    answer = task().read(np.array([0.0, 1.0, 3.0], np.float32))
    assert answer["label"] == "positive"
    assert answer["score"] == answer["probabilities"]["positive"] == pytest.approx(0.8437947)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_metric_names_are_scalars_of_the_metrics():
    for labels in (("a", "b"), ("a", "b", "c")):
        model_task = task(labels=labels)
        result = model_task.metrics(np.eye(len(labels)), np.arange(len(labels)))
        assert {name for name, value in result.items() if isinstance(value, float)} == set(
            model_task.metric_names
        )
    assert model_task.default_metric in model_task.metric_names
