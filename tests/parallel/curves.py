"""Twenty steps of a small model of each kind on a mesh, from random texts: loss curve and final parameters."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jaxtune.data.examples import Examples
from jaxtune.data.loader import Batches
from jaxtune.data.planning import plan_training
from jaxtune.hub.description import Description
from jaxtune.models.layer_stack import unstack_layers
from jaxtune.models.registry import family_of
from jaxtune.parallel.mesh import local_rows, put_batch
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.tasks.registry import make_task
from jaxtune.training.network import build_network, check_plan
from jaxtune.training.prepare import Prepared

STEPS = 20
LEARNING_RATE = 1e-4
WIDTH = {"vocab_size": 512}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": (
        "classification",
        {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
    ),
    "gpt2": ("causal_lm", {"n_embd": 128, "n_layer": 2, "n_head": 4}),
    "llama": (
        "causal_lm",
        {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "intermediate_size": 256,
        },
    ),
    "t5": (
        "translation",
        {
            "d_model": 128,
            "d_kv": 32,
            "d_ff": 256,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
}


class NoTokenizer:
    """What a task asks of a tokenizer where the tokens are there already."""

    pad_token_id = 0
    eos_token_id = 1

    def __len__(self) -> int:
        return WIDTH["vocab_size"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """Losses float64 [steps], and the final canonical parameters."""

    losses: np.ndarray
    params: Any


def texts(kind: str, count: int = 16 * STEPS) -> Examples:
    """Random texts of ragged lengths; what is to be learnt of them is how often words come."""
    rng = np.random.default_rng(0)

    def example(n: int) -> dict[str, Any]:
        tokens = np.minimum(rng.geometric(0.02, size=n) + 3, 511).astype(np.int32)
        common = {"tokens": tokens, "token_types": np.zeros(n, np.int32)}
        match KINDS[kind][0]:
            case "classification":
                tokens[0] = 4 + n % 3  # what the label can be read from
                return {**common, "target": int(n % 3)}
            case "causal_lm":
                return {**common, "labels": np.append(tokens[1:], 1).astype(np.int32), "target": 0}
            case _:
                target = tokens[: max(3, n // 2)]
                shifted = np.append(0, target[:-1]).astype(np.int32)
                return {**common, "decoder_tokens": shifted, "labels": target, "target": 0}

    return Examples.from_list(example(n) for n in rng.integers(4, 41, count))


def prepare(
    kind: str, mesh: MeshConfig, *, batching: str = "packed", **model: Any
) -> tuple[Prepared, Examples]:
    """A run of the kind on the mesh."""
    name, raw = KINDS[kind]
    raw = {"model_type": kind, **WIDTH, **raw}
    config = family_of(kind).config_class.from_hf(raw)
    experiment = Experiment(
        task=name,
        model=ModelConfig(precision="float32", matmul_precision="highest", **{"dropout": 0.0, **model}),
        data=DataConfig(batching=batching),
        optim=OptimConfig(learning_rate=LEARNING_RATE, schedule="constant", warmup=0.0),
        train=TrainConfig(batch_size=16, steps=STEPS),
        mesh=mesh,
    )
    task = make_task(experiment).for_model(Description(raw, config, NoTokenizer()))
    if name == "classification":
        task = task.resolve_labels([0, 1, 2], ("a", "b", "c"))
    network = build_network(experiment, task, NoTokenizer(), config)
    examples = texts(kind)
    plan = plan_training(
        examples.lengths,
        batching=batching,
        batch_size=16,
        seed=0,
        steps=STEPS,
        rows=8 if batching == "packed" else None,
        row_length=80 if batching == "packed" else None,
        decoder_lengths=examples.decoder_lengths,
    )
    check_plan(plan, network.mesh)
    return Prepared(network, {}, plan), examples


def run(
    prepared: Prepared,
    examples: Examples,
    *,
    resume: Checkpoints | None = None,
    save: Checkpoints | None = None,
    until: int = STEPS,
) -> Curve:
    """Train from the start, or from the newest checkpoint of ``resume``, to step ``until``, and save there."""
    batches = Batches(examples, prepared.plan, prefetch=0)
    if resume is None:
        state = prepared.initial_state(prepared.network.fresh_params(0))
    else:
        restored = resume.restore(prepared.abstract_state())
        assert restored is not None
        state = prepared.network.arrange(restored.state)
        batches.restore(restored.record["data"])
    sharding = prepared.batch_sharding
    several = jax.process_count() > 1
    losses = []
    for batch in itertools.islice(batches, until - int(state.step)):
        rows = len(batch["tokens"])
        if several:
            batch = {name: values[local_rows(sharding, rows)] for name, values in batch.items()}
        state, metrics = prepared.train_step(state, put_batch(batch, sharding, rows if several else None))
        total, weight = jax.device_get(metrics["sums"]["loss"])
        losses.append(float(total) / float(weight))
    if save is not None:
        save.save(until, prepared.network.to_canonical(state), {"data": batches.position()})
        save.wait()
    return Curve(np.array(losses), unstack_layers(jax.device_get(state.params)))
