"""A run without weights, tokenizer or data: its task, and one batch of texts of full length."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jaxtune.config import Experiment
from jaxtune.data.batches import Batch, build_batch
from jaxtune.data.examples import Examples
from jaxtune.data.planning import Plan, plan_training
from jaxtune.tasks.base import Task
from jaxtune.tasks.registry import make_task

TWO_LABELS = ("a", "b")
LABELLED = ("classification", "multi_label", "token_classification")
CHOICES = 4
"""Of a multiple choice whose choices are a list in one column."""
WRITTEN = 0.25
"""Length of what a T5 writes of the spans that were cut out, per token of the text: 15 % of it and the sentinels."""


def imagined_task(experiment: Experiment, config: Any) -> Task:
    """The task, with two labels where it has labels and the experiment names none.

    Raises:
        ConfigError: an option that the task does not have.
    """
    data, train = experiment.data, experiment.train
    if experiment.task in LABELLED and not data.labels:
        data = dataclasses.replace(data, labels=TWO_LABELS)
    weights = None if train.class_weights == "balanced" else train.class_weights
    train = dataclasses.replace(train, class_weights=weights)
    task: Any = make_task(dataclasses.replace(experiment, data=data, train=train))
    return dataclasses.replace(task, vocab_size=config.vocab_size) if hasattr(task, "vocab_size") else task


def imagined_examples(experiment: Experiment, task: Task) -> Examples:
    """As many texts as a step takes, each as long as may be.

    The lengths are the longest that the experiment allows: a plan that fits them fits all.
    """
    data = experiment.data
    length = data.max_length
    example: dict[str, Any] = {"target": 0}
    match experiment.task:
        case "multi_label":
            example["target"] = [0] * max(1, task.num_labels)
        case "regression":
            example["target"] = 0.5
        case "question_answering":
            example["target"] = [0, 0]
        case "multiple_choice":
            count = len(data.choices) if len(data.choices) > 1 else CHOICES
            example["parts"] = np.full(count, length, np.int32)
            length *= count
    tokens = np.zeros(length, np.int32)
    example |= {"tokens": tokens, "token_types": tokens}
    if task.head == "seq2seq_lm":
        second = np.zeros(_written(experiment), np.int32)
        example |= {"decoder_tokens": second, "labels": second}
    elif task.head in ("causal_lm", "mlm", "token_classification"):
        example["labels"] = tokens
    return Examples.from_list([example] * _examples_of_a_step(experiment, length))


def imagined_plan(experiment: Experiment, examples: Examples) -> Plan:
    """The batch of one step. Packed rows whose number or length is left to the data hold one text each.

    Raises:
        ConfigError: see ``plan_training``.
    """
    data = experiment.data
    if data.batching == "packed":
        length = int(examples.lengths.max())
        rows, row_length = data.rows or experiment.train.batch_size, data.row_length or length
        data = dataclasses.replace(data, rows=rows, row_length=row_length, max_tokens=None)
    return plan_training(
        examples.lengths,
        batching=data.batching,
        batch_size=experiment.train.batch_size,
        seed=0,
        steps=1,
        buckets=data.buckets,
        row_length=data.row_length,
        rows=data.rows,
        decoder_lengths=examples.decoder_lengths,
        max_tokens=data.max_tokens,
    )


def imagined_batch(experiment: Experiment, task: Task, examples: Examples, plan: Plan) -> Batch:
    """The arrays of that step, all tokens 0."""
    step = plan[0]
    most = None
    if task.head == "mlm":
        most = max(1, math.ceil(experiment.data.mask_share * step.length))
    batch = build_batch(examples, step)
    if most is not None:
        rows = len(batch["tokens"])
        batch |= {"at": np.zeros((rows, most), np.int32), "labels": np.zeros((rows, most), np.int32)}
    return batch


def _written(experiment: Experiment) -> int:
    data = experiment.data
    if experiment.task != "denoising":
        return data.max_target_length
    return data.max_length if data.noise == "infilling" else max(1, math.ceil(WRITTEN * data.max_length))


def _examples_of_a_step(experiment: Experiment, length: int) -> int:
    data = experiment.data
    if data.batching == "packed":
        return (data.rows or experiment.train.batch_size) * max(1, (data.row_length or length) // length)
    if data.max_tokens:
        return max(1, data.max_tokens // length)
    return experiment.train.batch_size
