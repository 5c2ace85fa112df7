"""After the last step: the best model as a Hugging Face folder, test results, predictions, the report.

Every file is a function of the checkpoints and the data, so a run that was killed here does it all again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxtune import files
from jaxtune.config import to_dict
from jaxtune.data.pipeline import Split
from jaxtune.directions import higher_is_better
from jaxtune.errors import CheckpointError
from jaxtune.hub.saving import save_pretrained
from jaxtune.parallel.agreement import Processes
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.persistence.metrics_log import read_metrics
from jaxtune.persistence.run_directory import RunDirectory
from jaxtune.reports.report import ReportFacts, build_report
from jaxtune.tasks.base import pieces_of
from jaxtune.training.evaluation import Evaluated
from jaxtune.training.loop import Outcome
from jaxtune.training.network import Network
from jaxtune.training.prepare import Prepared
from jaxtune.training.progress import Progress

BEST = "best"
RESULTS = "results.json"
PREDICTIONS = "predictions.jsonl"


def finish(
    prepared: Prepared,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    outcome: Outcome,
    provenance: Mapping[str, Any],
    progress: Progress,
    processes: Processes,
) -> None:
    """Write ``best/``, ``predictions.jsonl``, the report, and last ``results.json``, the sign of a finished run.

    All processes evaluate; the first one writes, and the others wait for it.
    """
    with processes.together("the best model"):
        params, step = best_params(prepared, checkpoints, outcome, progress)
        network = prepared.network
        canonical = gathered(network.to_canonical(params), processes)
        if processes.first:
            best = network.pretrained(canonical, prepared.raw_config)
            save_pretrained(directory.file(BEST), best, overwrite=True)
        del canonical
    names = [name for name in ("validation", "test") if name in prepared.splits]
    last = names[-1] if names else None
    # Texts take long to write: those of the last split are the result, others count only where they chose the best.
    evaluated: dict[str, Evaluated] = {
        name: prepared.evaluate(params, name, written=name == last or prepared.watches_writing)
        for name in names
    }
    with processes.together("the report"):
        if processes.first:
            _write(prepared, directory, outcome, step, evaluated, provenance, progress)


def gathered(params: Any, processes: Processes) -> Any:
    """Parameters that the first process can read: in a single process as they are, else in its host memory.

    One array at a time is whole on the devices; the other processes keep none.
    """
    if not processes.several:
        return params
    from jax.experimental import multihost_utils

    def fetch(leaf: Any) -> Any:
        whole = leaf if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(whole) if processes.first else None

    return jax.tree.map(fetch, params)


def _write(
    prepared: Prepared,
    directory: RunDirectory,
    outcome: Outcome,
    step: int,
    evaluated: Mapping[str, Evaluated],
    provenance: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Predictions of the last split, the report, and the results."""
    last = [*evaluated][-1] if evaluated else None
    rows = [] if last is None else predictions(prepared.network, prepared.splits[last], evaluated[last])
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    files.write_text(directory.file(PREDICTIONS), lines)
    results = {
        "metric": prepared.best_metric,
        "step": step,
        "steps": prepared.plan.num_steps,
        "stopped": outcome.record.stopped,
        "skipped_updates": int(outcome.state.skipped),
        "splits": {name: result.metrics for name, result in evaluated.items()},
    }
    for name, data in build_report(_facts(prepared, directory, results, rows, provenance)).items():
        files.write_bytes(directory.file(name), data)
    files.write_text(directory.file(RESULTS), json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    for name, result in evaluated.items():
        shown = "  ".join(
            f"{m} {result.metrics[m]:.4f}"
            for m in prepared.shown_metrics
            if result.metrics.get(m) is not None
        )
        progress.say(f"best model (step {step})  {name}  {shown}")
    progress.say(f"done: {directory.path} (report.md, best/, predictions.jsonl)")


def best_params(
    prepared: Prepared, checkpoints: Checkpoints, outcome: Outcome, progress: Progress
) -> tuple[Any, int]:
    """Parameters of the best evaluation, in the layout the model runs in; the last ones without one."""
    step, last = outcome.record.best_step, int(outcome.state.step)
    if step is None or step == last:
        return outcome.state.params, last
    like = prepared.abstract_state()
    try:
        restored = checkpoints.restore(
            {"trainable": like.trainable, "frozen": like.frozen}, step, partial=True
        )
    except CheckpointError as error:
        progress.say(f"the best checkpoint is lost, the last parameters take its place: {error}")
        return outcome.state.params, last
    assert restored is not None, "an unreadable step raises"
    return prepared.network.params_of(restored.state), step


def predictions(network: Network, split: Split, evaluated: Evaluated) -> list[dict[str, Any]]:
    """One entry per row of a split: its text, its target, what the model says, and what tests of significance need."""
    data, task = network.experiment.data, network.task
    columns = [name for name in (data.text, data.text_pair) if name]
    rows: list[dict[str, Any]] = []
    for record, pieces in pieces_of(evaluated.outputs, split):
        texts = {name: str(record.get(column)) for name, column in zip(("text", "text_pair"), columns)}
        row = {"id": len(rows), **texts, "target": task.truth(record, pieces[0].example["target"])}
        answer, scores = task.answer(record, pieces), task.scores(record, pieces)
        if answer.keys() & row.keys():  # it would hide what was asked
            raise ValueError(
                f"an answer of {task.name} has the names {', '.join(answer.keys() & row.keys())}"
            )
        rows.append({**row, **answer, **({"scores": scores} if scores else {})})
    return rows


def _split_facts(split: Split) -> dict[str, Any]:
    lengths = split.examples.lengths
    return {
        "source": split.origin,
        "examples": len(split.examples),
        "median tokens": int(np.median(lengths)),
        "longest": int(lengths.max()),
        "share cut": split.truncated_share,
        "texts also in train": split.duplicates,
        "rows skipped": len(split.skipped),
        "skipped": split.skipped,
    }


def _facts(
    prepared: Prepared,
    directory: RunDirectory,
    results: Mapping[str, Any],
    rows: list[dict[str, Any]],
    provenance: Mapping[str, Any],
) -> ReportFacts:
    training = {
        "steps": results["steps"],
        "best step": results["step"],
        "stopped early": results["stopped"] or "no",
        "skipped updates": results["skipped_updates"],
        "batches": prepared.plan.describe(),
    }
    return ReportFacts(
        name=prepared.experiment.name,
        run=directory.path,
        config=to_dict(prepared.experiment),
        labels=prepared.task.labels,
        metric=prepared.best_metric,
        higher_is_better=higher_is_better(prepared.best_metric),
        rows=read_metrics(directory.path),
        training=training,
        data={name: _split_facts(split) for name, split in prepared.splits.items()},
        results=results["splits"],
        predictions=rows,
        lengths={name: split.examples.lengths.tolist() for name, split in prepared.splits.items()},
        provenance=provenance,
    )
