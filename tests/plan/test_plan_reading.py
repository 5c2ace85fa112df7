"""What a plan is made for."""

import json

import pytest

from jaxtune.config import Experiment, ModelConfig, dump_yaml, to_dict
from jaxtune.errors import ConfigError, SourceError
from jaxtune.hub.model_config import parse_config
from jaxtune.models.model import build_model, init_params
from jaxtune.plan.reading import raw_config_of, read_experiment, with_precision_for
from jaxtune.plan.shapes import SHAPES, is_shape, shape_named

PARAMETERS = {
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "gpt2": 124_439_808,
    "t5-base": 222_903_552,
    "t5-3b": 2_851_598_336,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "gemma-2-2b": 2_614_341_888,
}
"""As transformers counts them without a task's head (BERT with its pooler), from the published config.json."""


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_published_number_of_parameters(name, tmp_path):
    import jax

    raw = SHAPES[name].config
    config = parse_config(tmp_path, raw)
    model = build_model(config, {"bert": None, "t5": "seq2seq_lm"}.get(raw["model_type"], "causal_lm"))
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    padding = -config.vocab_size % 128
    tables = 1 if raw["model_type"] in ("bert", "gpt2", "t5", "gemma2") else 2
    width = raw.get("hidden_size") or raw.get("n_embd") or raw.get("d_model")
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes)) - padding * tables * width
    assert counted == PARAMETERS[name]


def test_shape_by_its_names():
    assert shape_named("google-bert/bert-base-uncased") is shape_named("bert-base")
    assert not is_shape("bert")
    with pytest.raises(ConfigError, match="llama-3-8b"):
        shape_named("bert")


def test_experiment_of_a_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SHAPES["gpt2"].config, "n_layer": 3}))
    experiment = Experiment(task="causal_lm", model=ModelConfig(source=str(tmp_path)))
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(experiment))
    assert to_dict(read_experiment(str(path))) == to_dict(experiment)
    assert raw_config_of(experiment)["n_layer"] == 3


def test_experiment_of_a_run(tmp_path):
    run = tmp_path / "runs" / "one"
    (run / "base").mkdir(parents=True)
    experiment = Experiment(
        name="one", output=str(tmp_path / "runs"), model=ModelConfig(source="org/never-fetched")
    )
    (run / "config.yaml").write_text(dump_yaml(experiment))
    (run / "base" / "config.json").write_text(json.dumps(dict(SHAPES["gpt2"].config)))
    assert read_experiment(str(run)).name == "one"
    assert raw_config_of(experiment) == SHAPES["gpt2"].config


def test_new_models_and_none(tmp_path):
    new = Experiment(model=ModelConfig(source="new:textcnn"))
    assert raw_config_of(new)["model_type"] == "textcnn"
    with pytest.raises(SourceError):
        raw_config_of(Experiment(model=ModelConfig(source=str(tmp_path / "none"))))
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such experiment.*bert-base"):
        read_experiment(str(tmp_path / "nothing.yaml"))


def test_precision_of_a_plan():
    auto, said = Experiment(), Experiment(model=ModelConfig(precision="float32"))
    assert with_precision_for(auto, True).model.precision == "bfloat16"
    assert with_precision_for(auto, False).model.precision == "float32"
    assert with_precision_for(said, True).model.precision == "float32"
