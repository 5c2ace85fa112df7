"""Test accuracy of the preset `movie-reviews` beside Hugging Face Trainer: same split, recipe and seeds.

    python -m venv peer && peer/bin/pip install torch transformers accelerate
    python benchmarks/accuracy.py --peer-python peer/bin/python --seeds 0 1 2 --epochs 3 --out accuracy

Writes OUT.json and OUT.md. Each side picks its epoch on the validation split; the peer's last epoch
is given too. Without --peer-python only jaxtune's side runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jaxtune
from jaxtune.data.pipeline import load_splits
from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.tokenizers import load_tokenizer
from jaxtune.persistence.provenance import machine, versions
from jaxtune.reports.tables import markdown_table
from jaxtune.tasks.registry import make_task

HERE = Path(__file__).parent


def preset(name: str = "movie-reviews") -> jaxtune.Experiment:
    """A preset of experiments/classification.py."""
    spec = importlib.util.spec_from_file_location(
        "presets", HERE.parent / "experiments" / "classification.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PRESETS[name][1]


def write_splits(experiment: jaxtune.Experiment, folder: Path) -> None:
    """jaxtune's own split as jsonl files for the peer."""
    tokenizer = load_tokenizer(locate(experiment.model.source, checkpoint=True))
    splits = load_splits(experiment.data, make_task(experiment), tokenizer)
    for name, split in splits.items():
        rows = [
            {"id": i, "text": split.records[i][experiment.data.text], "label": split.labels[int(target)]}
            for i, target in enumerate(split.examples.targets)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False, default=bytes.decode) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def ours(experiment: jaxtune.Experiment, seed: int, epochs: float, output: Path) -> dict[str, Any]:
    """One run of jaxtune in a process of its own."""
    script = HERE.parent / "experiments" / "classification.py"
    command = [
        sys.executable,
        str(script),
        experiment.name,
        "--name",
        f"seed-{seed}",
        "--output",
        str(output),
    ]
    command += ["--train.seed", str(seed), "--train.epochs", str(epochs)]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    results = jaxtune.open_run(str(output / f"seed-{seed}")).results
    return {
        "seed": seed,
        "test_accuracy": results["splits"]["test"]["accuracy"],
        "validation_accuracy": results["splits"]["validation"]["accuracy"],
        "best_step": results["step"],
        "steps": results["steps"],
        "seconds": time.perf_counter() - start,
    }


def peer(python: str, model: Path, data: Path, seeds: list[int], epochs: float, out: Path) -> dict[str, Any]:
    """All seeds of the peer."""
    command = [python, str(HERE / "peer_hf_trainer.py"), str(model), str(data), "--out", str(out)]
    command += ["--epochs", str(epochs), "--seeds", *map(str, seeds)]
    subprocess.run(command, check=True)
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", help="interpreter with torch, transformers and accelerate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--out", default="accuracy", help="where to write, without .json or .md")
    args = parser.parse_args()
    experiment = preset()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        runs = [ours(experiment, seed, args.epochs, folder) for seed in args.seeds]
        results: dict[str, Any] = {
            "recipe": dataclasses.asdict(experiment.optim) | {"batch_size": 32, "epochs": args.epochs},
            "jaxtune": runs,
            "machine": machine(),
            "versions": versions(),
        }
        if args.peer_python:
            write_splits(experiment, folder)
            model = locate(experiment.model.source, checkpoint=True)
            results["peer"] = peer(
                args.peer_python, model, folder, args.seeds, args.epochs, folder / "peer.json"
            )
    Path(f"{args.out}.json").write_text(json.dumps(results, indent=1) + "\n")
    table = _table(results)
    Path(f"{args.out}.md").write_text(table)
    print(table)


def _table(results: dict[str, Any]) -> str:
    rows = [["jaxtune", run["seed"], run["test_accuracy"], None, run["steps"]] for run in results["jaxtune"]]
    mean = statistics.mean(run["test_accuracy"] for run in results["jaxtune"])
    rows.append(["jaxtune", "mean", mean, None, None])
    runs = results.get("peer", {}).get("runs", [])
    columns = ("test_accuracy_of_best_epoch", "test_accuracy")
    rows += [["HF Trainer", run["seed"], *(run[c] for c in columns), run["steps"]] for run in runs]
    if runs:
        rows.append(["HF Trainer", "mean", *(statistics.mean(run[c] for run in runs) for c in columns), None])
    return markdown_table(["", "seed", "test accuracy, best epoch", "last epoch", "steps"], rows)


if __name__ == "__main__":
    main()
