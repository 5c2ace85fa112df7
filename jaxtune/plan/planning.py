"""The plan of an experiment: every mesh compiled, bounded and put in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtune.config import Experiment, MeshConfig
from jaxtune.errors import ConfigError
from jaxtune.hub.fetching.cache import cache_dir
from jaxtune.hub.model_config import parse_config
from jaxtune.models.registry import family_of_config
from jaxtune.parallel.mesh import axis_sizes
from jaxtune.plan.compiled import Compiled
from jaxtune.plan.compiling import compile_all
from jaxtune.plan.imagined import imagined_examples, imagined_plan, imagined_task
from jaxtune.plan.jobs import Job
from jaxtune.plan.meshes import Limits, sensible_meshes
from jaxtune.plan.topologies import Topology, environment

Progress = Callable[[Compiled], None]


def limits_of(experiment: Experiment, raw_config: Mapping[str, Any]) -> Limits:
    """What the model's heads and the batch's rows allow.

    Raises:
        ConfigError: a batch that cannot be planned, or rows that do not divide over ``train.accumulate``.
        WeightsError: an architecture or option that is not supported.
    """
    config = parse_config(Path(experiment.model.source), raw_config)
    heads, kv_heads = family_of_config(config).attention_heads(config)
    examples = imagined_examples(experiment, imagined_task(experiment, config))
    (rows, length), *_ = imagined_plan(experiment, examples).shapes
    accumulate = experiment.train.accumulate
    if rows % accumulate:
        raise ConfigError(
            f"a batch has {rows} rows, which do not divide over `train.accumulate` {accumulate}; expected a divisor"
        )
    return Limits(heads, kv_heads, rows // accumulate, length)


def meshes_for(
    experiment: Experiment, raw_config: Mapping[str, Any], chips: int, slices: int, most: int
) -> list[MeshConfig]:
    """The first ``most`` sensible meshes.

    Raises:
        ConfigError: there is none, for the rows of the batch; names the numbers of rows that would do.
    """
    limits = limits_of(experiment, raw_config)
    found = sensible_meshes(experiment.mesh, chips, slices, limits)
    if not found:
        least = chips // min(chips, limits.heads)
        raise ConfigError(
            f"a batch has {limits.rows} rows, which divide over no mesh of {chips} chips in {slices} slice(s); expected a "
            f"multiple of {chips * experiment.train.accumulate} (`train.batch_size`), or of {least} with a larger "
            "`mesh.tensor`"
        )
    return found[:most]


def plan_meshes(
    experiment: Experiment,
    raw_config: Mapping[str, Any],
    meshes: Sequence[MeshConfig],
    topology: Topology,
    *,
    workers: int,
    limit: float,
    cached: bool = True,
    progress: Progress = lambda found: None,
) -> list[Compiled]:
    """The step compiled for each mesh, in their order.

    Raises:
        ConfigError: the experiment does not go with the model or a mesh.
    """
    cache = str(cache_dir() / "plans") if cached else None
    jobs = [
        Job(dataclasses.replace(experiment, mesh=mesh), dict(raw_config), topology, cache, topology.capacity)
        for mesh in meshes
    ]
    return compile_all(
        jobs, environment(topology), workers=workers, limit=limit, done=lambda _, found: progress(found)
    )


def fixed_mesh(mesh: MeshConfig, chips: int, slices: int) -> MeshConfig:
    """The mesh with ``auto`` worked out.

    Raises:
        ConfigError: see ``parallel.mesh.axis_sizes``.
    """
    sizes: dict[str, Any] = dict(axis_sizes(mesh, mesh.devices or chips, slices))
    return dataclasses.replace(mesh, **sizes)


def measure_meshes(
    experiment: Experiment,
    raw_config: Mapping[str, Any],
    meshes: Sequence[MeshConfig],
    *,
    steps: int,
    capacity: int | None,
    limit: float,
    progress: Progress = lambda found: None,
) -> list[Compiled]:
    """The step run on the devices that are here, on one mesh after the other.

    Raises:
        ConfigError: the experiment does not go with the model or a mesh.
    """
    jobs = [
        Job(dataclasses.replace(experiment, mesh=mesh), dict(raw_config), None, None, capacity, steps)
        for mesh in meshes
    ]
    return compile_all(jobs, {}, workers=1, limit=limit, done=lambda _, found: progress(found))
