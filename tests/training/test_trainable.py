"""Training the head alone: the backbone keeps every byte, through steps, resume, evaluation and export."""

import contextlib
import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxtune
from jaxtune.config import OptimConfig
from jaxtune.errors import ConfigError
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.model import build_model, init_params
from jaxtune.training.optimizers import make_optimizer
from jaxtune.training.state import TRAINED, count, create_state, partition
from jaxtune.training.train import train
from tests import tiny
from tests.tiny import without_times
from tests.training import test_causal_lm as decoder

STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("head")


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(folder / "cache"))


def experiment(folder, **changes):
    """Decay, an L1 penalty and dropout at work: none of them may touch what is frozen."""
    training = {"trainable": "head", "steps": STEPS, "save_every": 8, "keep": 9, "batch_size": 16}
    optim = {"learning_rate": 3e-2, "weight_decay": 0.1, "l1": 1e-4}
    return tiny.experiment(folder, **{"name": "head", "train": training, "optim": optim, **changes})


@pytest.fixture(scope="module")
def finished(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXTUNE_CACHE", str(folder / "cache"))
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            run = train(experiment(folder))
        (folder / "said.txt").write_text(said.getvalue())
        return run


def assert_backbone_is_untouched(folder, exported):
    before, after = load_file(folder / "tiny-bert/model.safetensors"), load_file(exported)
    frozen = [name for name in after if not name.startswith("classifier")]
    assert len(frozen) == len(before)
    for name in frozen:
        # A checkpoint without a head has no prefix.
        assert after[name].tobytes() == before[name.removeprefix("bert.")].tobytes(), name


def test_the_backbone_keeps_every_byte_while_the_head_learns(finished, folder):
    assert_backbone_is_untouched(folder, folder / "runs/head/best/model.safetensors")
    losses = [row["loss"] for row in finished.metrics if row["split"] == "train"]
    assert losses[-1] < 0.9 * losses[0]


def test_a_checkpoint_has_optimizer_state_for_the_head_alone(finished, folder):
    saved = json.loads((folder / f"runs/head/checkpoints/{STEPS}/record.json").read_text())["arrays"]
    assert {name for name in saved if name.startswith("trainable/")} == {
        "trainable/head/classifier/bias",
        "trainable/head/classifier/kernel",
    }
    assert not [name for name in saved if name.startswith("opt_state") and "backbone" in name]
    assert [name for name in saved if name.startswith("opt_state") and "head/classifier/kernel" in name]


def test_it_resumes_evaluates_and_predicts(finished, folder):
    """From the second last checkpoint, opened before it goes on."""
    results, metrics = finished.results, without_times(finished.metrics)
    run = folder / "runs/head"
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    (run / "results.json").unlink()
    opened = jaxtune.open_run(run)
    assert opened.predict(["a warm funny film"])[0]["label"] in ("good", "bad")
    opened.export(str(folder / "early"))
    assert_backbone_is_untouched(folder, folder / "early/model.safetensors")
    again = train(experiment(folder), quiet=True)
    assert again.results == results
    assert without_times(again.metrics) == metrics
    assert again.evaluate("test") == results["splits"]["test"]
    assert_backbone_is_untouched(folder, run / "best/model.safetensors")


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_head_and_backbone_part_the_same_way_in_stacked_layers(name):
    model = build_model(tiny.CONFIG, "classification", 2)
    params = init_params(model, jax.random.key(0))
    state = create_state(stack_layers(params), make_optimizer(OptimConfig(name=name)), 0, TRAINED["head"])
    assert set(state.trainable) == {"head"}
    assert set(state.frozen) == {"backbone"}
    assert count(state.params) == count(params)
    everything, nothing = partition(params, TRAINED["all"])
    assert nothing == {}
    jax.tree.map(np.testing.assert_array_equal, everything, params)


def test_what_is_to_be_trained_is_said(finished, folder):
    model = build_model(tiny.CONFIG, "classification", 2)
    total = count(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    assert f"66 of {total:,} parameters to train" in (folder / "said.txt").read_text()
    assert json.loads((folder / "runs/head/provenance.json").read_text())["trained_parameters"] == 66


def test_a_head_without_parameters_is_refused(folder, tmp_path):
    rng = np.random.default_rng(0)
    texts = [{"text": decoder.counting(rng, int(n))} for n in rng.integers(4, 40, 60)]
    wrong = decoder.experiment(tmp_path, texts)
    wrong = dataclasses.replace(wrong, train=dataclasses.replace(wrong.train, trainable="head"))
    with pytest.raises(ConfigError, match=r"train\.trainable.*no parameters of its own"):
        train(wrong, quiet=True)
