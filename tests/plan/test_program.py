"""The experiment's step with abstract arrays: no weights, no tokenizer, no data."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, TrainConfig
from jaxtune.errors import ConfigError
from jaxtune.plan.program import fingerprint, make_program
from jaxtune.tasks.registry import TASKS
from tests.parallel.curves import KINDS, WIDTH

ALONG_DATA = MeshConfig()
OPTIONS = {"question_answering": {"text_pair": "context"}}
KIND = {"causal_lm": "gpt2", "translation": "t5", "summarization": "t5", "denoising": "t5"}


def program_of(task, mesh=ALONG_DATA, **data):
    kind = KIND.get(task, "bert")
    experiment = Experiment(
        task=task,
        model=ModelConfig(precision="float32"),
        data=DataConfig(**{"max_length": 32, "max_target_length": 16, **OPTIONS.get(task, {}), **data}),
        train=TrainConfig(batch_size=8),
        mesh=mesh,
    )
    return make_program(experiment, {"model_type": kind, **WIDTH, **KINDS[kind][1]}, jax.devices())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_step_of_every_task_is_traced(task, batching):
    program = program_of(task, batching=batching)
    state, metrics = jax.eval_shape(program.prepared.train_step, program.state, program.batch)
    assert jax.tree.map(lambda leaf: leaf.shape, state) == jax.tree.map(
        lambda leaf: leaf.shape, program.state
    )
    assert metrics["sums"]["loss"][0].shape == ()
    assert program.tokens >= 8 * 32
    assert program.model_flops > 0


def test_masked_words_alone_have_logits():
    batch = program_of("masked_lm", batching="padded").batch
    assert batch["at"].shape == batch["labels"].shape == (8, 5)


def test_bytes_on_a_device():
    whole, split = program_of("causal_lm"), program_of("causal_lm", MeshConfig(fsdp=8))
    everything = sum(leaf.size * 4 for leaf in jax.tree.leaves(whole.state.params))
    memory = whole.state_memory()
    assert memory["parameters"] == memory["gradients"] == everything
    # Adam's two moments, and a counter.
    assert memory["optimizer"] == 2 * everything + 4
    small = sum(leaf.size * 4 for leaf in jax.tree.leaves(whole.state.params) if leaf.size < 2**14)
    assert split.state_memory()["parameters"] == pytest.approx((everything - small) / 8 + small)


def test_memory_of_a_compiled_step_holds_the_state():
    program = program_of("classification")
    memory = program.memory(program.lower().compile())
    assert memory.peak >= memory.parameters + memory.optimizer
    assert memory.activations >= 0


def test_fingerprint_tells_programs_apart():
    one, same, other = (program_of("classification", max_length=length).lower() for length in (32, 32, 40))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert fingerprint(one, "v5e") != fingerprint(one, "v5p")


def test_scanned_layers_lie_as_the_step_wants_them():
    program = program_of("causal_lm")
    experiment = program.prepared.experiment
    scanned = dataclasses.replace(experiment.model, scan_layers=True)
    deep = make_program(
        dataclasses.replace(experiment, model=scanned), program.prepared.raw_config, jax.devices()
    )
    kernel = deep.state.trainable["backbone"]["layers"]["mlp_up"]["kernel"]
    assert kernel.shape == (2, 128, 512)
    assert np.prod(deep.lower().compile().memory_analysis().argument_size_in_bytes) > 0


def test_pmap_cannot_be_planned():
    with pytest.raises(ConfigError, match=r"pmap.*expected jit"):
        program_of("classification", MeshConfig(mode="pmap"))


def test_rows_that_do_not_divide():
    experiment = Experiment(
        model=ModelConfig(precision="float32"),
        data=DataConfig(batching="padded"),
        train=TrainConfig(batch_size=12),
    )
    with pytest.raises(ConfigError, match=r"12 rows.*use 8 or 16"):
        make_program(experiment, {"model_type": "bert", **WIDTH, **KINDS["bert"][1]}, jax.devices())
