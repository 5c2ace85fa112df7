"""report.md of a run: what was run on what, how good it is, where it errs, how to use it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxtune.reports.confusion import draw_confusion
from jaxtune.reports.curves import draw_learning_curve
from jaxtune.reports.distributions import draw_lengths, draw_reliability
from jaxtune.reports.style import pictures
from jaxtune.reports.tables import code, escape, format_value, markdown_table

MOST_SKIPPED = 200
"""Skipped rows listed in the report; beyond, their number is given."""
MISTAKES = 12
WRITTEN = 8
"""Written texts that are shown."""
TEXT_SHOWN = 160

Json = Mapping[str, Any]


@dataclass(frozen=True)
class ReportFacts:
    """All a report tells, as plain values ready for JSON."""

    name: str
    """Name of the run."""
    run: str
    """Its directory, as the user may type it after `jaxtune predict`."""
    config: Json
    """The resolved Experiment as a nested dict."""
    labels: Sequence[str] = ()
    """Class names in id order; empty for regression."""
    metric: str = "accuracy"
    """The metric that picked the best checkpoint."""
    higher_is_better: bool = True
    """Direction of ``metric``."""
    rows: Sequence[Json] = ()
    """Lines of metrics.jsonl (see ``learning_curve``)."""
    training: Json = field(default_factory=dict)
    """How the training went, as {"steps": 804, "best step": 536, "stopped": "early", "time": "2 min"}; shown as it is."""
    data: Mapping[str, Json] = field(default_factory=dict)
    """split → summary, shown as it is but for ``skipped``, a list of messages with their places."""
    results: Mapping[str, Json] = field(default_factory=dict)
    """split → metrics of the task (``Task.metrics``)."""
    predictions: Sequence[Json] = ()
    """Rows of predictions.jsonl on the last split of ``results``: text, target, and what ``Task.read`` gives."""
    lengths: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """split → tokens of each example."""
    provenance: Json = field(default_factory=dict)
    """Versions, devices, commits; nested dicts are flattened."""


def build_report(facts: ReportFacts) -> dict[str, bytes]:
    """The files of a report: report.md, and each picture as PNG and SVG.

    There is a learning curve; with lengths their histogram; with labels and results a confusion matrix; and of a
    reliability curve among the results its diagram. A pure function: the caller writes the files where the run lives.
    """
    files = _pictures(facts)
    parts = [
        _headline(facts),
        _results(facts),
        "## Learning curve\n\n![Loss, validation metric and learning rate over the steps](learning_curve.png)\n",
        _per_class(facts),
        _mistakes(facts),
        _written(facts),
        _data(facts),
        _training(facts),
        _use(facts),
        _provenance(facts),
    ]
    files["report.md"] = "\n".join(part for part in parts if part).encode()
    return files


def _pictures(facts: ReportFacts) -> dict[str, bytes]:
    curve = draw_learning_curve(
        facts.rows, metric=facts.metric, higher_is_better=facts.higher_is_better, title=facts.name
    )
    drawn = {"learning_curve": curve}
    split, metrics = _last_result(facts)
    if facts.labels and "confusion" in metrics:
        drawn["confusion_matrix"] = draw_confusion(metrics["confusion"], facts.labels, f"{split} split")
    if "reliability_count" in metrics:
        confidence, accuracy, counts = (
            np.asarray(metrics[f"reliability_{part}"]) for part in ("confidence", "accuracy", "count")
        )
        drawn["reliability"] = draw_reliability(
            confidence, accuracy, counts, metrics["calibration_error"], f"{split} split"
        )
    if facts.lengths:
        limit = facts.config.get("data", {}).get("max_length")
        drawn["lengths"] = draw_lengths(facts.lengths, limit)
    return {file: data for name, figure in drawn.items() for file, data in pictures(name, figure).items()}


def mistakes(predictions: Sequence[Json], limit: int = MISTAKES) -> list[Json]:
    """The worst predictions: wrong labels by descending score, or numbers by their distance to the target.

    Args:
        predictions: rows with ``target`` (None where unknown) and ``label`` and ``score``, or ``value``.
    """
    known = [row for row in predictions if row.get("target") is not None]
    if known and "value" in known[0]:
        return sorted(known, key=lambda row: -abs(row["value"] - row["target"]))[:limit]
    wrong = [row for row in known if {"score", "label"} <= row.keys() and row["label"] != row["target"]]
    return sorted(wrong, key=lambda row: -row["score"])[:limit]


def _last_result(facts: ReportFacts) -> tuple[str, Json]:
    return list(facts.results.items())[-1] if facts.results else ("", {})


def _headline(facts: ReportFacts) -> str:
    model, data = facts.config.get("model", {}), facts.config.get("data", {})
    lines = [
        f"# {escape(facts.name)}\n",
        f"{str(facts.config.get('task', 'training')).replace('_', ' ').capitalize()} of {code(str(data.get('train', '?')))}, "
        f"fine-tuned from {code(str(model.get('source', '?')))}.",
    ]
    split, metrics = _last_result(facts)
    if facts.metric in metrics:
        name = facts.metric.replace("_", " ")
        lines.append(f"\n**{name} on the {split} split: {format_value(metrics[facts.metric])}**")
    return "\n".join(lines) + "\n"


def _results(facts: ReportFacts) -> str:
    names = [
        name
        for name, value in _last_result(facts)[1].items()
        if not isinstance(value, list | tuple | Mapping)
    ]
    if not names:
        return ""
    rows = [
        [
            _metric_name(name, facts.labels),
            *(_cell(facts.results[split].get(name)) for split in facts.results),
        ]
        for name in names
    ]
    return "## Results\n\n" + markdown_table(["metric", *map(escape, facts.results)], rows)


def _cell(value: object) -> object:
    # The signature of a score has bars, which would end the cell.
    return escape(value) if isinstance(value, str) else value


def _metric_name(name: str, labels: Sequence[str]) -> str:
    # With two classes the plain scores are those of the second, as GLUE counts them.
    if len(labels) == 2 and name in ("precision", "recall", "f1"):
        return f"{name} of {escape(labels[1])}"
    return name.replace("_", " ")


def _per_class(facts: ReportFacts) -> str:
    split, metrics = _last_result(facts)
    if not facts.labels or "f1_per_class" not in metrics:
        return ""
    columns = [metrics[f"{kind}_per_class"] for kind in ("precision", "recall", "f1")] + [metrics["support"]]
    rows = [[escape(label), *values] for label, *values in zip(facts.labels, *columns)]
    table = markdown_table(["label", "precision", "recall", "f1", "examples"], rows)
    picture = "\n![Confusion matrix](confusion_matrix.png)\n" if "confusion" in metrics else ""
    if "reliability_count" in metrics:
        picture += "\n![How sure, and how often right](reliability.png)\n"
    return f"## Per class ({split} split)\n\n{table}{picture}"


def _mistakes(facts: ReportFacts) -> str:
    worst = mistakes(facts.predictions)
    if not worst:
        return ""
    texts = [
        escape(" ⏎ ".join(str(row[k]) for k in ("text", "text_pair") if row.get(k)), TEXT_SHOWN)
        for row in worst
    ]
    if "value" in worst[0]:
        header = ["target", "predicted", "text"]
        table = [[float(row["target"]), float(row["value"]), text] for row, text in zip(worst, texts)]
        title = "Largest errors"
    else:
        header = ["target", "predicted", "score", "text"]
        table = [
            [escape(str(row["target"])), escape(str(row["label"])), float(row["score"]), text]
            for row, text in zip(worst, texts)
        ]
        title = "Most confident mistakes"
    return f"## {title} ({_last_result(facts)[0]} split)\n\n" + markdown_table(header, table)


def _written(facts: ReportFacts) -> str:
    rows = [row for row in facts.predictions if "written" in row][:WRITTEN]
    if not rows:
        return ""
    table = [
        [escape(str(row.get(name)), TEXT_SHOWN) for name in ("text", "target", "written")] for row in rows
    ]
    return f"## Written ({_last_result(facts)[0]} split)\n\n" + markdown_table(
        ["text", "target", "written"], table
    )


def _data(facts: ReportFacts) -> str:
    if not facts.data:
        return ""
    keys = dict.fromkeys(key for summary in facts.data.values() for key in summary if key != "skipped")
    rows = [
        [escape(key.replace("_", " ")), *(summary.get(key) for summary in facts.data.values())]
        for key in keys
    ]
    parts = ["## Data\n", markdown_table(["", *map(escape, facts.data)], rows)]
    if facts.lengths:
        parts.append("![Lengths of the examples in tokens](lengths.png)\n")
    skipped = [
        (split, message) for split, summary in facts.data.items() for message in summary.get("skipped", ())
    ]
    if skipped:
        parts.append(f"### Skipped rows ({len(skipped):,})\n")
        parts += [f"- {split}: {escape(str(message), 300)}" for split, message in skipped[:MOST_SKIPPED]]
        if len(skipped) > MOST_SKIPPED:
            parts.append(f"- and {len(skipped) - MOST_SKIPPED:,} more")
        parts.append("")
    return "\n".join(parts)


def _training(facts: ReportFacts) -> str:
    how = [[escape(str(key)), value] for key, value in facts.training.items()]
    options = [
        [code(f"{group}.{key}"), code(json.dumps(value, ensure_ascii=False, default=str))]
        for group in ("model", "data", "optim", "train", "generation", "mesh")
        for key, value in facts.config.get(group, {}).items()
        if value not in (None, "", (), [])
    ]
    went = markdown_table(["", "value"], how) + "\n" if how else ""
    if not options:
        return f"## Training\n\n{went}" if went else ""
    # Folded away: complete enough to repeat the run, too long to read.
    table = markdown_table(["option", "value"], options)
    return f"## Training\n\n{went}<details><summary>All options</summary>\n\n{table}\n</details>\n"


def _use(facts: ReportFacts) -> str:
    run = shlex.quote(facts.run)
    return f"""## Use it

```bash
jaxtune predict {run} --text "…"
jaxtune predict {run} --input new.jsonl --output predictions.jsonl
jaxtune evaluate {run} --split test
jaxtune export {run} model    # a Hugging Face folder: config.json, safetensors, tokenizer
```

```python
import jaxtune

run = jaxtune.open_run({facts.run!r})
answers = run.predict([{{{str(facts.config.get("data", {}).get("text", "text"))!r}: "…"}}])
```
"""


def _provenance(facts: ReportFacts) -> str:
    rows = [[escape(key), value] for key, value in _flat(facts.provenance)]
    return "## Provenance\n\n" + markdown_table(["", "value"], rows) if rows else ""


def _flat(values: Json, prefix: str = "") -> list[tuple[str, object]]:
    result: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            result += _flat(value, f"{prefix}{key} ")
        else:
            result.append((f"{prefix}{key}", value))
    return result
