"""``python -m tests.plan.compile_families TOPOLOGY``: the train step of every family, small, compiled for these chips.

Prints a line of JSON for each family: its name, seconds, peak bytes of a chip, and how attention is computed. One
process for all, as the compiler takes seconds to start.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from typing import Any

from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, TrainConfig
from jaxtune.hub.new_models import STARTS, new_config
from jaxtune.models.registry import FAMILIES
from jaxtune.plan.program import Program, make_program
from jaxtune.plan.topologies import devices, environment, parse_topology
from jaxtune.training.smoke import TINY
from tests.models.family_cases_all import CASES

TASK_OF_KIND = {"encoder": "classification", "decoder": "causal_lm", "encoder_decoder": "translation"}
LENGTH = 128
"""The least that splash attention takes."""


def small_config(family: str) -> dict[str, Any]:
    """config.json of a small model of the family."""
    if family in STARTS:
        return new_config(f"new:{family}", TINY[family])
    raw = dict(next(case.config for case in CASES.values() if case.model_type == family))
    return raw | {name: 2 * LENGTH for name in ("max_position_embeddings", "n_positions") if name in raw}


def program_of(family: str, there: list[Any]) -> Program:
    """Its step on data 2 × fsdp 2 × tensor 2, or on fsdp 8 where there are no heads to split."""
    raw = small_config(family)
    kind = FAMILIES[family].kind
    experiment = Experiment(
        task=TASK_OF_KIND[kind],  # type: ignore[arg-type]
        model=ModelConfig(precision="bfloat16", dropout=0.0),
        data=DataConfig(max_length=LENGTH, max_target_length=LENGTH),
        train=TrainConfig(batch_size=16),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    )
    if family in ("bilstm", "textcnn"):
        experiment = dataclasses.replace(experiment, mesh=MeshConfig(fsdp=8))
    return make_program(experiment, raw, there)


def main(topology: str) -> None:
    parsed = parse_topology(topology)
    os.environ.update(environment(parsed))
    there = devices(parsed)
    for family in FAMILIES:
        program, start = program_of(family, there), time.perf_counter()
        compiled = program.lower().compile()
        found = {
            "family": family,
            "seconds": round(time.perf_counter() - start, 1),
            "peak": program.memory(compiled).peak,
            "attention": program.prepared.network.attention_lines(),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
