"""The experiment's own train step for devices that are elsewhere, all arrays abstract."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtune.config import Experiment
from jaxtune.errors import ConfigError
from jaxtune.hub.model_config import parse_config
from jaxtune.parallel.mesh import that_fits
from jaxtune.plan.compiled import Memory
from jaxtune.plan.flops import step_flops
from jaxtune.plan.imagined import imagined_batch, imagined_examples, imagined_plan, imagined_task
from jaxtune.training.network import build_network, check_plan
from jaxtune.training.prepare import Prepared


@dataclasses.dataclass(frozen=True)
class Program:
    """One train step on a mesh, not compiled yet.

    Attributes:
        prepared: network, optimizer and step, without data.
        state, batch: shapes, types and shardings of what the step takes.
    """

    prepared: Prepared
    state: Any
    batch: Mapping[str, jax.ShapeDtypeStruct]

    @property
    def tokens(self) -> int:
        """Tokens of one step on all devices, of both texts."""
        names = ("tokens", "decoder_tokens")
        return sum(int(np.prod(self.batch[name].shape)) for name in names if name in self.batch)

    @property
    def model_flops(self) -> float:
        """Of one step on all devices; see ``plan.flops``."""
        network = self.prepared.network
        params = jax.eval_shape(lambda: network.fresh_params(0))
        shapes = {name: field.shape for name, field in self.batch.items()}
        return step_flops(params, shapes, network.task.head)

    def state_memory(self) -> dict[str, int]:
        """Bytes on one device of parameters, optimizer and gradients, by their shardings."""
        return {
            "parameters": _bytes_on_a_device(self.state.params),
            "optimizer": _bytes_on_a_device(self.state.opt_state),
            "gradients": _bytes_on_a_device(self.state.trainable),
        }

    def memory(self, compiled: Any) -> Memory:
        """What the compiler says of a program."""
        found = compiled.memory_analysis()
        held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        peak = getattr(found, "peak_memory_in_bytes", 0) or held + found.temp_size_in_bytes
        return Memory(**self.state_memory(), peak=int(peak), temporaries=int(found.temp_size_in_bytes))

    def lower(self) -> Any:
        """The step in the compiler's input language."""
        return self.prepared.train_step.lower(self.state, self.batch)


def make_program(
    experiment: Experiment, raw_config: Mapping[str, Any], devices: Sequence[Any] | None = None
) -> Program:
    """The step of an experiment whose precision is settled.

    Args:
        raw_config: config.json of the model.
        devices: to lay out, which may be elsewhere; none takes those that are here.

    Raises:
        ConfigError: the mesh does not fit the devices, the batch or the model; or it is that of ``pmap``, which
            compiles when it runs only.
        WeightsError: an architecture or option that is not supported.
    """
    if experiment.mesh.mode == "pmap":
        raise ConfigError("`mesh.mode` is pmap, whose step cannot be compiled ahead of time; expected jit")
    config = parse_config(Path(experiment.model.source), raw_config)
    task = imagined_task(experiment, config)
    network = build_network(experiment, task, None, config, devices)
    examples = imagined_examples(experiment, task)
    plan = imagined_plan(experiment, examples)
    check_plan(plan, network.mesh, experiment.train.accumulate)
    prepared = Prepared(network, {}, plan, raw_config)
    batch = {
        name: jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=network.batch_sharding)
        for name, values in imagined_batch(experiment, task, examples, plan).items()
    }
    return Program(prepared, prepared.abstract_running_state(), batch)


def attention_of(experiment: Experiment, raw_config: Mapping[str, Any]) -> list[str]:
    """Which kernels compute attention in the experiment's step on the devices that are here, and why no others.

    The step is traced, not compiled; where the experiment's mesh does not fit these devices, all share each batch.

    Args:
        raw_config: config.json of the model.

    Raises:
        ConfigError: its batches do not divide over the devices.
    """
    mesh = dataclasses.replace(that_fits(experiment.mesh, jax.device_count()), mode="jit")
    program = make_program(dataclasses.replace(experiment, mesh=mesh), raw_config)
    jax.eval_shape(program.prepared.train_step, program.state, program.batch)
    return program.prepared.network.attention_lines()


def fingerprint(lowered: Any, *others: str) -> str:
    """A hash of a lowered program and of whatever else decides what becomes of it."""
    digest = hashlib.sha256(lowered.as_text().encode())
    for text in others:
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()


def _bytes_on_a_device(tree: Any) -> int:
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
