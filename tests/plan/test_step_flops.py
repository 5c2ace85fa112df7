"""The formula of FLOPs against the matrix products of the compiled step, unscanned."""

import dataclasses

import jax
import pytest

from jaxtune.config import DataConfig, Experiment, ModelConfig, TrainConfig
from jaxtune.plan.compiled_flops import compiled_flops
from jaxtune.plan.program import make_program
from tests.parallel.curves import KINDS, WIDTH

TASKS = {
    "bert": ("classification", "masked_lm", "token_classification", "regression", "question_answering"),
    "gpt2": ("causal_lm",),
    "llama": ("causal_lm",),
    "t5": ("translation", "denoising"),
}
PAIRS = {"question_answering": "context"}
CASES = [(kind, task) for kind, tasks in TASKS.items() for task in tasks]


def experiment_of(task, **model):
    return Experiment(
        task=task,
        model=ModelConfig(precision="float32", dropout=0.0, **model),
        data=DataConfig(max_length=64, max_target_length=24, batching="padded", text_pair=PAIRS.get(task)),
        train=TrainConfig(batch_size=4),
    )


def program_of(kind, task, **model):
    raw = {"model_type": kind, **WIDTH, **KINDS[kind][1]}
    return make_program(experiment_of(task, **model), raw, jax.devices()[:1])


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_formula_is_what_the_compiler_was_given(kind, task):
    program = program_of(kind, task)
    counted = compiled_flops(program.lower().compile().as_text())
    assert counted == pytest.approx(program.model_flops, rel=0.01)


def test_what_remat_computes_again_is_no_model_flops():
    kept, again = program_of("gpt2", "causal_lm"), program_of("gpt2", "causal_lm", remat="full")
    assert again.model_flops == kept.model_flops
    # The layers' forward pass is computed twice: 4/3 of their part, and nothing of the head's.
    counted = compiled_flops(again.lower().compile().as_text())
    assert 1.1 * kept.model_flops < counted < 4 / 3 * kept.model_flops


def test_flops_grow_with_the_rows():
    raw = {"model_type": "gpt2", **WIDTH, **KINDS["gpt2"][1]}
    small = experiment_of("causal_lm")
    large = dataclasses.replace(small, train=TrainConfig(batch_size=8))
    once, twice = (make_program(e, raw, jax.devices()[:1]).model_flops for e in (small, large))
    assert twice == 2 * once
