"""The configuration of a run: its fields, the checks on them, and its way to YAML and back."""

from jaxtune.config.checks import require_sources, validate
from jaxtune.config.experiment import (
    CONFIG_VERSION,
    DataConfig,
    Experiment,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    Precision,
    TaskName,
    TrainConfig,
)
from jaxtune.config.reading import dump_yaml, from_dict, load_yaml, to_dict

__all__ = [
    "CONFIG_VERSION",
    "DataConfig",
    "Experiment",
    "GenerationConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "TaskName",
    "TrainConfig",
    "dump_yaml",
    "from_dict",
    "load_yaml",
    "require_sources",
    "to_dict",
    "validate",
]
