"""``python -m tests.plan.two_slices TOPOLOGY``: what of a train step crosses from slice to slice, as JSON."""

from __future__ import annotations

import json
import os
import sys

from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, TrainConfig
from jaxtune.plan.collectives import collectives_of
from jaxtune.plan.program import make_program
from jaxtune.plan.topologies import devices, environment, parse_topology
from tests.parallel.curves import KINDS, WIDTH

MESHES = {
    "data": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "fsdp and tensor": MeshConfig(fsdp=4, tensor=2),
    "data and sequence": MeshConfig(data=4, sequence=2),
}
"""Of eight chips a slice; ``replica`` is the number of slices."""


def main(topology: str) -> None:
    parsed = parse_topology(topology)
    os.environ.update(environment(parsed))
    there = devices(parsed)
    for name, mesh in MESHES.items():
        experiment = Experiment(
            task="causal_lm",
            model=ModelConfig(precision="float32", dropout=0.0, scan_layers=True),
            data=DataConfig(max_length=128, batching="padded"),
            train=TrainConfig(batch_size=32),
            mesh=mesh,
        )
        program = make_program(experiment, {"model_type": "llama", **WIDTH, **KINDS["llama"][1]}, there)
        laid_out = program.prepared.network.mesh
        text = program.lower().compile().as_text()
        found = {
            "mesh": name,
            "slices": [sorted({d.slice_index for d in part.flat}) for part in laid_out.devices],
            "collectives": [[c.kind, c.axes, c.bytes] for c in collectives_of(text, dict(laid_out.shape))],
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
