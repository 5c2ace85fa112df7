"""A checkpoint as it is, evaluated on the test rows of an experiment: what fine-tuning has to beat."""

from __future__ import annotations

from jaxtune.config import Experiment, require_sources, to_dict, validate
from jaxtune.data.pipeline import Rows
from jaxtune.errors import ConfigError
from jaxtune.hub.model_config import head_of
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.start import describe_start
from jaxtune.persistence.provenance import machine, versions
from jaxtune.reports.example_scores import example_scores
from jaxtune.reports.records import RunRecord, rows_fingerprint
from jaxtune.tasks.registry import make_task
from jaxtune.training.finish import predictions
from jaxtune.training.network import build_network
from jaxtune.training.precision import with_precision


def evaluate_untrained(experiment: Experiment, name: str) -> RunRecord:
    """The record of an experiment of which not one step was trained.

    Args:
        name: of the record.

    Raises:
        JaxtuneError: whatever would keep the run from starting; a checkpoint without a trained head among it.
    """
    validate(experiment)
    require_sources(experiment)
    experiment, _ = with_precision(experiment)
    task = make_task(experiment)
    rows = Rows(experiment.data, task.columns_read)
    description = describe_start(experiment.model, rows.texts)
    if head_of(description.raw_config) != task.head:
        raise ConfigError(
            f"{experiment.model.source} has no trained head for {task.name} ({task.head}), so it can say nothing yet; "
            "train it first"
        )
    splits = rows.tokenize(task.for_model(description), description.tokenizer)
    experiment = splits.task.settle(experiment)
    network = build_network(experiment, splits.task, description.tokenizer, description.config)
    loaded = load_pretrained(experiment.model.source, task.head, labels=splits.task.labels)
    split = splits["test" if "test" in splits else "validation"]
    evaluated = network.evaluate(network.place(loaded.params), split)
    lines = predictions(network, split, evaluated)
    config, here = to_dict(experiment), machine()
    return RunRecord(
        name=name,
        config={
            "program": "zero-shot",
            **{key: config[key] for key in ("task", "model", "data", "generation")},
        },
        split=split.name,
        metrics={split.name: evaluated.metrics},
        rows={split.name: rows_fingerprint(lines)},
        examples=example_scores(lines),
        made={"versions": versions(), "machine": {key: here[key] for key in ("cpu", "platform", "devices")}},
    )
