"""Loss of 20 steps beside Hugging Face Trainer: same checkpoint, head, examples and recipe, no dropout.

    python -m venv peer && peer/bin/pip install torch transformers accelerate
    python benchmarks/loss_curve.py --peer-python peer/bin/python --out loss-curve

The examples are those of the first steps of the preset's own packed plan. The peer sees them one per
row; jaxtune one per row, packed as planned, and both split over microbatches and devices (on a CPU
eight fake ones). The schedule spans the 20 steps. Writes OUT.json and OUT.md.

At the rate of the preset the curve hardly moves within 20 steps; so it is drawn, in the first two
layouts, at ten times that rate too. The bar is for the preset's: the program fails if a loss there
is further than 1e-4 off.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from accuracy import HERE, preset

import jaxtune
from jaxtune.config import MeshConfig
from jaxtune.data.examples import Examples
from jaxtune.data.loader import Batches
from jaxtune.data.pipeline import Splits, load_splits
from jaxtune.data.planning import StepPlan
from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.pretrained import Pretrained, load_pretrained
from jaxtune.hub.tokenizers import load_tokenizer
from jaxtune.parallel.mesh import check_rows, put_batch
from jaxtune.persistence.provenance import machine, versions
from jaxtune.reports.tables import markdown_table
from jaxtune.tasks.registry import make_task
from jaxtune.training.network import Network, build_network
from jaxtune.training.prepare import Prepared, plan_run

STEPS, BATCH, LENGTH = 20, 32, 80
BAR = 1e-4


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to lay out and run the same examples."""

    packed: bool
    accumulate: int = 1
    devices: int = 1

    @property
    def name(self) -> str:
        """Head of a column."""
        parts = ["packed" if self.packed else "one per row"]
        parts += [f"accumulate {self.accumulate}"] * (self.accumulate > 1)
        parts += [f"{self.devices} devices"] * (self.devices > 1)
        return ", ".join(parts)


# A packed batch has eight rows: they do not divide over eight devices and four microbatches.
VARIANTS = (
    Variant(packed=False),
    Variant(packed=True),
    Variant(packed=True, devices=8),
    Variant(packed=True, accumulate=4, devices=2),
    Variant(packed=False, accumulate=4, devices=8),
)


class Comparison:
    """The examples of every step, the checkpoint with its head, and both sides' curves on them."""

    def __init__(self, experiment: jaxtune.Experiment) -> None:
        self.pretrained, self.splits = _load(experiment)
        model = dataclasses.replace(
            experiment.model, dropout=0.0, precision="float32", matmul_precision="highest"
        )
        # One device for now, so that the preset's plan fits whatever machine this is.
        self.experiment = dataclasses.replace(experiment, model=model, mesh=MeshConfig(devices=1))
        self.plan = plan_run(self.experiment, self._network(self.experiment), self.splits).plan
        self.steps = tuple(step for step in self.plan.steps if len(step.ids) == BATCH)[:STEPS]
        # load_pretrained's arrays stay untouched whatever a run does with its state.
        self.params = jax.device_get(self.pretrained.params)

    @property
    def examples(self) -> Examples:
        """The training split."""
        return self.splits["train"].examples

    def _network(self, experiment: jaxtune.Experiment) -> Network:
        return build_network(experiment, self.splits.task, self.pretrained.tokenizer, self.pretrained.config)

    def ours(self, variant: Variant, learning_rate: float) -> dict[str, Any]:
        """jaxtune's loss and gradient norm at every step."""
        experiment = dataclasses.replace(
            self.experiment,
            optim=dataclasses.replace(self.experiment.optim, learning_rate=learning_rate),
            train=dataclasses.replace(self.experiment.train, accumulate=variant.accumulate),
            mesh=MeshConfig(data=variant.devices),
        )
        steps = self.steps if variant.packed else tuple(_one_per_row(step) for step in self.steps)
        plan = dataclasses.replace(
            self.plan, steps=steps, steps_per_epoch=(STEPS,), shapes=frozenset(step.shape for step in steps)
        )
        network = self._network(experiment)
        for rows, _ in plan.shapes:
            check_rows(rows, network.mesh, variant.accumulate)
        return _train(Prepared(network, self.splits, plan), self.params)

    def write(self, folder: Path) -> None:
        """batches.npz and head.npz, as the peer reads them."""
        shape = (STEPS, BATCH, LENGTH)
        names = ("input_ids", "attention_mask", "token_type_ids")
        batches = {name: np.zeros(shape, np.int32) for name in names}
        for t, step in enumerate(self.steps):
            for row, example in enumerate(step.ids):
                tokens = self.examples.tokens_of(example)
                batches["input_ids"][t, row, : len(tokens)] = tokens
                batches["attention_mask"][t, row, : len(tokens)] = 1
                batches["token_type_ids"][t, row, : len(tokens)] = self.examples.token_types_of(example)
        labels = np.array([self.examples.targets[list(step.ids)] for step in self.steps])
        np.savez(folder / "batches.npz", labels=labels, **batches)
        head = self.params["head"]["classifier"]
        weights = {"classifier.weight": head["kernel"].T, "classifier.bias": head["bias"]}
        np.savez(folder / "head.npz", **weights)

    def peer(self, python: str, folder: Path, learning_rate: float) -> dict[str, Any]:
        """The same of Hugging Face Trainer, in a process of its own."""
        optim, out = self.experiment.optim, folder / "peer.json"
        # The peer holds these of the recipe fixed: Trainer's defaults.
        assert (optim.name, optim.schedule, optim.clip_norm) == ("adamw", "linear", 1.0)
        assert (optim.beta1, optim.beta2, optim.epsilon) == (0.9, 0.999, 1e-8)
        command = [python, str(HERE / "peer_hf_trainer.py"), str(self.pretrained.folder)]
        command += ["--loss-curve", str(STEPS), "--out", str(out)]
        command += ["--batches", str(folder / "batches.npz"), "--head", str(folder / "head.npz")]
        command += ["--learning-rate", str(learning_rate), "--warmup", str(optim.warmup)]
        command += ["--weight-decay", str(optim.weight_decay)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())


def _load(experiment: jaxtune.Experiment) -> tuple[Pretrained, Splits]:
    """The checkpoint with the head that the preset's seed draws, and the preset's data."""
    task = make_task(experiment)
    tokenizer = load_tokenizer(locate(experiment.model.source, checkpoint=True))
    splits = load_splits(experiment.data, task, tokenizer)
    pretrained = load_pretrained(
        experiment.model.source, task.head, labels=splits.task.labels, seed=experiment.train.seed
    )
    return pretrained, splits


def _one_per_row(step: StepPlan) -> StepPlan:
    return StepPlan(tuple((example,) for example in step.ids), LENGTH, 1)


def _train(prepared: Prepared, params: Any) -> dict[str, Any]:
    """One run through jaxtune's own loader and step."""
    state = prepared.initial_state(params)
    batches = Batches(prepared.splits["train"].examples, prepared.plan)
    losses, norms, rates = [], [], []
    start = time.perf_counter()
    for step in range(STEPS):
        rates.append(float(prepared.schedule(state.step)))
        state, metrics = prepared.train_step(state, put_batch(next(batches), prepared.batch_sharding))
        metrics = jax.device_get(metrics)
        total, weight = metrics["sums"]["loss"]
        assert weight == BATCH, f"step {step + 1} counted {weight} examples"
        losses.append(float(total) / float(weight))
        norms.append(float(metrics["grad_norm"]))
    batches.close()
    return {
        "losses": losses,
        "grad_norms": norms,
        "learning_rates": rates,
        "seconds": time.perf_counter() - start,
    }


def compare(
    comparison: Comparison, python: str, folder: Path, learning_rate: float, variants: Sequence[Variant]
) -> dict[str, Any]:
    """Both sides at one learning rate, and how far they are apart."""
    peer = comparison.peer(python, folder, learning_rate)
    _say(f"rate {learning_rate:g}: the peer is done")
    runs = {}
    for variant in variants:
        if variant.devices > len(jax.devices()):
            _say(f"rate {learning_rate:g}, {variant.name}: skipped, too few devices here")
            continue
        run = comparison.ours(variant, learning_rate)
        runs[variant.name] = run
        _say(
            f"rate {learning_rate:g}, {variant.name}: {run['seconds']:.0f} s, "
            f"largest |Δ| {_furthest(run, peer, 'losses'):.1e}"
        )
    return {
        "learning_rate": learning_rate,
        "largest_loss_difference": {n: _furthest(run, peer, "losses") for n, run in runs.items()},
        "largest_relative_grad_norm_difference": {
            n: _furthest(run, peer, "grad_norms", relative=True) for n, run in runs.items()
        },
        "largest_learning_rate_difference": {
            n: _furthest(run, peer, "learning_rates") for n, run in runs.items()
        },
        "peer": peer,
        "jaxtune": runs,
    }


def _furthest(run: dict[str, Any], peer: dict[str, Any], field: str, relative: bool = False) -> float:
    ours, theirs = np.array(run[field]), np.array(peer[field])
    return float(np.max(np.abs(ours - theirs) / (np.abs(theirs) if relative else 1.0)))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(result: dict[str, Any]) -> str:
    """The curves at one learning rate, as Markdown."""
    runs, peer = result["jaxtune"], result["peer"]
    rows: list[list[str]] = []
    for t in range(STEPS):
        ours = [run["losses"][t] for run in runs.values()]
        difference = max(abs(loss - peer["losses"][t]) for loss in ours)
        row = [str(t + 1), f"{peer['learning_rates'][t]:.3g}", f"{peer['losses'][t]:.6f}"]
        rows.append([*row, *(f"{loss:.6f}" for loss in ours), f"{difference:.1e}"])
    largest = [f"{value:.1e}" for value in result["largest_loss_difference"].values()]
    norms = [f"{value:.1e}" for value in result["largest_relative_grad_norm_difference"].values()]
    rows.append(["largest \\|Δ\\|", "", "", *largest, max(largest, key=float)])
    rows.append(["largest relative \\|Δ gradient norm\\|", "", "", *norms, max(norms, key=float)])
    header = ["step", "rate", "HF Trainer", *(f"jaxtune: {name}" for name in runs), "largest \\|Δ\\|"]
    return f"Learning rate {result['learning_rate']:g}\n\n{markdown_table(header, rows)}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python", required=True, help="interpreter with torch, transformers and accelerate"
    )
    parser.add_argument("--out", default="loss-curve", help="where to write, without .json or .md")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    comparison = Comparison(preset())
    recipe = comparison.experiment.optim
    results, tables = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        comparison.write(folder)
        for rate, variants in ((recipe.learning_rate, VARIANTS), (10 * recipe.learning_rate, VARIANTS[:2])):
            results.append(compare(comparison, args.peer_python, folder, rate, variants))
            tables.append(table(results[-1]))
            print(tables[-1], flush=True)
    # numpy's maximum and `<=`: a NaN must not pass.
    largest = float(np.max(list(results[0]["largest_loss_difference"].values())))
    met = largest <= BAR
    verdict = f"At the preset's rate: largest |Δ| {largest:.1e}, bar {BAR:g}: {'met' if met else 'MISSED'}."
    whole = {
        "recipe": dataclasses.asdict(recipe) | {"batch_size": BATCH, "steps": STEPS, "dropout": 0.0},
        "bar": BAR,
        "met": met,
        "packed_shape": comparison.steps[0].shape,
        "example_ids": [step.ids for step in comparison.steps],
        "results": results,
        "machine": machine(),
        "versions": versions(),
    }
    Path(f"{args.out}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    Path(f"{args.out}.md").write_text("\n".join([*tables, verdict]) + "\n", encoding="utf-8")
    print(verdict)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
