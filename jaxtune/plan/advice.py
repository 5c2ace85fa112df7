"""What would make a step fit that does not."""

from __future__ import annotations

import dataclasses

from jaxtune.config import Experiment
from jaxtune.parallel.mesh import BATCH_AXES, DATA, FSDP, TENSOR
from jaxtune.parallel.rules import divisors
from jaxtune.plan.compiled import Compiled

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Facts:
    """Settings of an experiment that decide what a step keeps in memory.

    Attributes:
        remat, scan_layers: of the model.
        accumulate: microbatches of a step.
        rows: of a whole batch.
        optimizer: its name.
    """

    remat: str
    scan_layers: bool
    accumulate: int
    rows: int
    optimizer: str

    @classmethod
    def of(cls, experiment: Experiment, rows: int | None = None) -> Facts:
        """Those of an experiment.

        Args:
            rows: of a batch, where it is not ``train.batch_size``.
        """
        model, train = experiment.model, experiment.train
        return cls(
            remat=model.remat,
            scan_layers=model.scan_layers,
            accumulate=train.accumulate,
            rows=rows or train.batch_size,
            optimizer=experiment.optim.name,
        )


def lacking(compiled: Compiled) -> str:
    """By how much it does not fit, as "16.85 of 15.75 GiB, 1.10 too many"; empty where it fits or nobody says."""
    if compiled.needed is None or compiled.available is None:
        return ""
    needed, available = compiled.needed / GIB, compiled.available / GIB
    return f"{needed:.2f} of {available:.2f} GiB, {needed - available:.2f} too many"


def advice(compiled: Compiled, facts: Facts) -> list[str]:
    """What to change so that a step fits, most useful first; empty where nothing lacks.

    Activations go first (remat, then accumulation), as they cost time only and are mostly the larger part. Where
    parameters, optimizer and gradients alone are too large, which the worker sees before it compiles, neither helps,
    and only splitting them further does.
    """
    if compiled.fits or compiled.needed is None or compiled.available is None:
        return []
    state_alone = compiled.seconds == 0.0
    lines = [] if state_alone else [*_keep_less(facts), *_smaller_microbatches(compiled, facts)]
    lines += _split_further(compiled)
    if state_alone and facts.optimizer == "adamw":
        lines.append("optim.name adafactor or lion (now adamw): less state than two moments a parameter")
    if not lines:
        lines.append("more chips, or chips with more HBM: remat, accumulation and fsdp are used up")
    return lines


def _keep_less(facts: Facts) -> list[str]:
    lines = []
    if facts.remat != "full":
        lines.append(f"model.remat full (now {facts.remat}): activations are computed again, not kept")
    if not facts.scan_layers:
        lines.append("model.scan_layers true: one layer's buffers are reused for all")
    return lines


def _smaller_microbatches(compiled: Compiled, facts: Facts) -> list[str]:
    """More microbatches, as long as each still divides over the axes that split rows."""
    splits = 1
    for axis in BATCH_AXES:
        splits *= compiled.mesh.get(axis, 1)
    most = facts.rows // splits
    more = [n for n in divisors(most, most) if n > facts.accumulate and n % facts.accumulate == 0]
    if facts.rows % splits or not more:
        return []
    return [
        f"train.accumulate {more[0]} (now {facts.accumulate}): {facts.rows // more[0]} rows at once, "
        f"not {facts.rows // facts.accumulate}"
    ]


def _split_further(compiled: Compiled) -> list[str]:
    fsdp, data = compiled.mesh.get(FSDP, 1), compiled.mesh.get(DATA, 1)
    if data > 1:
        larger = min(n for n in divisors(data, data) if n > 1) * fsdp
        upto = f" to {data * fsdp}" if data * fsdp > larger else ""
        return [
            f"mesh.fsdp {larger}{upto} (now {fsdp}), mesh.data less: parameters, optimizer and gradients on more chips"
        ]
    if compiled.mesh.get(TENSOR, 1) == 1 and fsdp > 1:
        return ["mesh.tensor 2 or more: splits activations of a row too"]
    return []
