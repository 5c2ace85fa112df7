"""Experiments to YAML and back, and what is said about wrong ones."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.config import (
    CONFIG_VERSION,
    DataConfig,
    Experiment,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    dump_yaml,
    from_dict,
    load_yaml,
    require_sources,
    to_dict,
    validate,
)
from jaxtune.errors import ConfigError

shares = st.floats(0, 0.99)
experiments = st.builds(
    Experiment,
    name=st.text("abcäß-_ ", min_size=1),
    model=st.builds(ModelConfig, source=st.text(max_size=20), dropout=st.none() | shares),
    data=st.builds(
        DataConfig,
        labels=st.lists(st.text(max_size=5), max_size=4).map(tuple),
        validation=st.none() | st.text(max_size=9),
        limit=st.none() | st.integers(1, 10**6),
    ),
    optim=st.builds(OptimConfig, learning_rate=st.floats(0, 1), clip_norm=st.none() | st.floats(0.1, 10)),
    train=st.builds(
        TrainConfig,
        seed=st.integers(0, 2**32 - 1),
        class_weights=st.none() | st.just("balanced") | st.lists(st.floats(0, 10)).map(tuple),
    ),
    mesh=st.builds(MeshConfig, data=st.none() | st.integers(1, 8)),
)


@given(experiments)
def test_yaml_round_trip_is_exact(experiment):
    assert load_yaml(dump_yaml(experiment)) == experiment


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "optim: {learning_rte: 1}",
            "unknown field `optim.learning_rte`; did you mean `optim.learning_rate`?",
        ),
        ("trian: {}", "did you mean `train`?"),
        ("optim: {learning_rate: fast}", "`optim.learning_rate` expects a number; got 'fast'"),
        ("train: {epochs: true}", "`train.epochs` expects a number; got True"),
        ("train: {batch_size: 2.5}", "`train.batch_size` expects a whole number; got 2.5"),
        ("train: 4", "`train` holds fields of its own"),
        ("task: poetry", "one of 'classification', 'multi_label'"),
        ("data: {holdout: [0.1]}", "2 values, each a number"),
        (f"version: {CONFIG_VERSION + 1}", "newer jaxtune"),
        ("a: [", "not valid YAML"),
        ("- a", "expected a mapping"),
    ],
)
def test_wrong_files_are_named_with_field_and_expectation(text, said):
    with pytest.raises(ConfigError, match=r"c\.yaml") as caught:
        load_yaml(text, "c.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"train": TrainConfig(batch_size=0)}, "train.batch_size"),
        ({"train": TrainConfig(seed=-1)}, "train.seed"),
        ({"train": TrainConfig(epochs=0)}, "train.epochs"),
        ({"train": TrainConfig(label_smoothing=1.5)}, "train.label_smoothing"),
        ({"optim": OptimConfig(weight_decay=-1)}, "optim.weight_decay"),
        ({"optim": OptimConfig(clip_norm=0.0)}, "optim.clip_norm"),
        ({"data": DataConfig(holdout=(0.6, 0.4))}, "data.holdout"),
        ({"data": DataConfig(batching="bucketed", rows=8)}, "data.rows"),
        ({"mesh": MeshConfig(data=0)}, "mesh.data"),
        ({"data": DataConfig(max_tokens=0)}, "data.max_tokens"),
        ({"data": DataConfig(shots=0)}, "data.shots"),
        ({"data": DataConfig(shots_seed=-1)}, "data.shots_seed"),
        ({"data": DataConfig(augment_copies=0)}, "data.augment_copies"),
        ({"task": "regression", "data": DataConfig(balance="oversample")}, "data.balance"),
        ({"task": "regression", "data": DataConfig(stratify=True)}, "data.stratify"),
        (
            {"task": "token_classification", "data": DataConfig(augment=("swap=0.1",))},
            r"data.augment` is .* task=token_classification: its labels belong to the words",
        ),
        ({"name": "a/b"}, "name"),
        ({"task": "regression", "train": TrainConfig(label_smoothing=0.1)}, "train.label_smoothing"),
    ],
)
def test_values_out_of_range_are_named(changes, field):
    with pytest.raises(ConfigError, match=f"`{field}"):
        validate(dataclasses.replace(Experiment(), **changes))


def test_a_learning_rate_without_a_dot_is_a_number():
    assert load_yaml("optim: {learning_rate: 3e-5}").optim.learning_rate == 3e-5


def test_missing_sources_are_named():
    with pytest.raises(ConfigError, match=r"model\.source"):
        require_sources(Experiment())
    with pytest.raises(ConfigError, match=r"data\.train"):
        require_sources(Experiment(model=ModelConfig(source="m")))


def test_every_field_has_a_help_string():
    import inspect

    from jaxtune import config

    for kind in (Experiment, ModelConfig, DataConfig, OptimConfig, TrainConfig, MeshConfig):
        lines = inspect.getsource(kind).splitlines()
        for f in dataclasses.fields(kind):
            if dataclasses.is_dataclass(getattr(config, str(f.type), None)):
                continue
            at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{f.name}:"))
            assert lines[at + 1].strip().startswith('"""'), f"{kind.__name__}.{f.name} has no help"


def test_a_partial_dict_takes_defaults():
    assert from_dict({"name": "x"}) == Experiment(name="x")
    assert from_dict(to_dict(Experiment())) == Experiment()
