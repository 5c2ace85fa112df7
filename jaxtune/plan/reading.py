"""What a plan is made for: a shape by name, a file of an experiment, or a run that is there."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtune import files
from jaxtune.config import Experiment, Precision, load_yaml
from jaxtune.errors import ConfigError
from jaxtune.hub.fetching.locate import locate_tokenizer
from jaxtune.hub.model_config import read_config
from jaxtune.hub.new_models import is_new, new_config
from jaxtune.plan.shapes import SHAPES, is_shape, shape_named


def read_experiment(name: str) -> Experiment:
    """The experiment that a name stands for.

    Args:
        name: a shape (``llama-3-8b``), a YAML file, or a run directory.

    Raises:
        ConfigError: it is none of these, or the file is no experiment.
    """
    if is_shape(name):
        return shape_named(name).experiment(name)
    path = files.join(name, "config.yaml") if files.is_dir(name) else name
    if not files.exists(path):
        raise ConfigError(
            f"{name}: no such experiment; expected a YAML file (as a run's config.yaml), a run directory, or a shape: "
            f"{', '.join(SHAPES)}"
        )
    return load_yaml(files.read_text(path), path)


def raw_config_of(experiment: Experiment, run: str | None = None) -> dict[str, Any]:
    """config.json of the model that the experiment names; of the Hub's no weights are fetched.

    Args:
        run: its directory, which keeps one; none looks where the experiment says that is.

    Raises:
        SourceError: there is none.
    """
    model = experiment.model
    base = files.join(run or files.join(experiment.output, experiment.name), "base")
    if files.exists(files.join(base, "config.json")):
        return read_config(locate_tokenizer(base))
    if is_shape(model.source):
        return dict(shape_named(model.source).config)
    if is_new(model.source):
        return new_config(model.source, model.overrides)
    return read_config(locate_tokenizer(model.source))


def with_precision_for(experiment: Experiment, accelerated: bool) -> Experiment:
    """The experiment with ``auto`` precision settled: bfloat16 on accelerators, float32 on CPUs."""
    if experiment.model.precision != "auto":
        return experiment
    precision: Precision = "bfloat16" if accelerated else "float32"
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, precision=precision))
