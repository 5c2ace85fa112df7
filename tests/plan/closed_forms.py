"""``python -m tests.plan.closed_forms TOPOLOGY``: the collectives of small train steps, as JSON.

Each step is compiled for eight chips along one axis. Beside the collectives stand the numbers that their closed
forms are made of: bytes of parameters and of activations, all float32.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax

from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jaxtune.plan.collectives import Collective, collectives_of
from jaxtune.plan.program import make_program
from jaxtune.plan.topologies import devices, environment, parse_topology
from tests.parallel.curves import WIDTH

ROWS, LENGTH, LAYERS, HIDDEN = 8, 128, 2, 256
MODELS: dict[str, dict[str, Any]] = {
    "bert": {**WIDTH, "hidden_size": HIDDEN, "num_attention_heads": 8, "intermediate_size": 512},
    "llama": {
        **WIDTH,
        "hidden_size": HIDDEN,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": HIDDEN // 8,
        "intermediate_size": 512,
        "tie_word_embeddings": False,
    },
}
CASES: dict[str, tuple[str, str, bool]] = {
    "data": ("bert", "classification", False),
    "fsdp": ("llama", "causal_lm", True),
    "tensor": ("llama", "causal_lm", True),
}
"""Axis → family, task, and whether layers are scanned."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step was made of, and the collectives found in it.

    Attributes:
        parameters: bytes of all of them.
        split: of those that are divided over the axis, by whether they are of a layer or not.
    """

    parameters: int
    split_of_layers: int
    split_of_tables: int
    arrays_of_layers: int
    arrays_of_tables: int
    collectives: tuple[Collective, ...]

    def totals(self) -> dict[tuple[str, tuple[str, ...]], tuple[int, int]]:
        """(count, bytes) of each kind over each axes."""
        found: dict[tuple[str, tuple[str, ...]], tuple[int, int]] = {}
        for c in self.collectives:
            count, size = found.get((c.kind, c.axes), (0, 0))
            found[c.kind, c.axes] = (count + c.count, size + c.count * c.bytes)
        return found


def step_on(axis: str, there: Sequence[Any]) -> Step:
    """The step of ``CASES`` on eight devices along an axis."""
    family, task, scanned = CASES[axis]
    sizes: dict[str, Any] = {"data": 1, axis: 8}
    experiment = Experiment(
        task=task,  # type: ignore[arg-type]
        model=ModelConfig(precision="float32", matmul_precision="highest", dropout=0.0, scan_layers=scanned),
        data=DataConfig(max_length=LENGTH, batching="padded"),
        optim=OptimConfig(clip_norm=None),
        train=TrainConfig(batch_size=ROWS),
        mesh=MeshConfig(**sizes),
    )
    raw = {"model_type": family, "num_hidden_layers": LAYERS, **MODELS[family]}
    program = make_program(experiment, raw, there)
    text = program.lower().compile().as_text()
    split: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(program.state.params):
        if leaf.sharding.shard_shape(leaf.shape) != leaf.shape:
            of_layers = "layers" in jax.tree_util.keystr(keys)
            split[of_layers].append((leaf.size * 4, LAYERS if of_layers and scanned else 1))
    return Step(
        parameters=sum(leaf.size * 4 for leaf in jax.tree.leaves(program.state.params)),
        split_of_layers=sum(size for size, _ in split[True]),
        split_of_tables=sum(size for size, _ in split[False]),
        arrays_of_layers=sum(count for _, count in split[True]),
        arrays_of_tables=sum(count for _, count in split[False]),
        collectives=tuple(collectives_of(text, dict(program.prepared.network.mesh.shape))),
    )


def main(topology: str) -> None:
    parsed = parse_topology(topology)
    os.environ.update(environment(parsed))
    there = devices(parsed)
    print(json.dumps({axis: dataclasses.asdict(step_on(axis, there)) for axis in CASES}))


if __name__ == "__main__":
    main(sys.argv[1])
