from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.config import DataConfig, Experiment, TrainConfig
from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.registry import make_task

TASK = make_task(Experiment(task="regression", data=DataConfig(label="score")))


def test_the_loss_is_the_mean_squared_error_of_real_slots():
    logits = jnp.array([[[1.0], [jnp.nan]], [[4.0], [-1.0]]])
    batch = {"targets": jnp.array([[2.0, jnp.inf], [1.0, -1.5]]), "weights": jnp.array([[1.0, 0], [1, 1]])}
    sums = TASK.loss(logits, batch)
    assert float(sums["loss"][0]) == pytest.approx(1 + 9 + 0.25)
    assert float(sums["mae"][0]) == pytest.approx(1 + 3 + 0.5)
    assert float(sums["loss"][1]) == float(sums["mae"][1]) == 3
    slope = jax.grad(lambda x: TASK.loss(x, batch)["loss"][0])(logits)
    np.testing.assert_allclose(slope[..., 0], [[-2, 0], [6, 1]])


def test_targets_are_finite_numbers(tokenizer):
    values = [3, "2.5", np.float32(-1), "four", None, float("nan"), "inf", True, 1e300, 10**400]
    records = [{"text": "good film", "score": value} for value in values]
    results = TASK.tokenize(records, tokenizer, lambda i: f"ratings.tsv:{i + 1}")
    assert [result["target"] for result in results[:3]] == [3.0, 2.5, -1.0]
    assert "ratings.tsv:4: column 'score' holds 'four'; expected a finite number" in str(results[3])
    assert "is null" in str(results[4])
    assert all(isinstance(result, DataError) for result in results[3:])


def test_prediction_needs_no_label(tokenizer):
    (example,) = TASK.tokenize([{"text": "good"}], tokenizer, str, labelled=False)
    assert example["target"] == 0


def test_a_column_without_numbers_is_no_target():
    assert TASK.resolve_labels(["x", 1.5]) is TASK
    with pytest.raises(DataError, match=r"it holds 'good', for instance.*--task classification"):
        TASK.resolve_labels([None, "good"])


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(task="regression", train=TrainConfig(label_smoothing=0.1)),
        Experiment(task="regression", train=TrainConfig(class_weights="balanced")),
        Experiment(task="regression", data=DataConfig(labels=("a", "b"))),
    ],
)
def test_options_of_classes_are_refused(experiment):
    with pytest.raises(ConfigError, match="regression has no classes"):
        make_task(experiment)


def test_metrics_and_reading():
    result = TASK.metrics(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 4.0]))
    assert result["mse"] == result["loss"] == pytest.approx(1 / 3)
    assert result["mae"] == pytest.approx(1 / 3)
    assert result["spearman"] == pytest.approx(1)
    assert result["pearson"] == pytest.approx(0.9285714)
    assert set(result) == set(TASK.metric_names)
    assert TASK.read(np.array([1.5], np.float32)) == {"value": 1.5}


def test_an_unknown_task_is_named():
    with pytest.raises(ConfigError, match="'ranking', expected one of classification, multi_label"):
        make_task(Experiment(task="ranking"))  # type: ignore[arg-type]
