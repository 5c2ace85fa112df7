"""jaxtune: fine-tune language models in JAX/Flax. Hugging Face checkpoints in, Hugging Face checkpoints out.

Names are resolved at first use (PEP 562): ``import jaxtune`` imports neither jax nor numpy and
touches no device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load_pretrained": "jaxtune.hub.pretrained",
    "save_pretrained": "jaxtune.hub.saving",
    "Pretrained": "jaxtune.hub.pretrained",
    "train": "jaxtune.training.train",
    "open_run": "jaxtune.training.run",
    "Run": "jaxtune.training.run",
    "Experiment": "jaxtune.config",
    "ModelConfig": "jaxtune.config",
    "DataConfig": "jaxtune.config",
    "OptimConfig": "jaxtune.config",
    "TrainConfig": "jaxtune.config",
    "MeshConfig": "jaxtune.config",
    "JaxtuneError": "jaxtune.errors",
}

__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from jaxtune.config import DataConfig as DataConfig
    from jaxtune.config import Experiment as Experiment
    from jaxtune.config import MeshConfig as MeshConfig
    from jaxtune.config import ModelConfig as ModelConfig
    from jaxtune.config import OptimConfig as OptimConfig
    from jaxtune.config import TrainConfig as TrainConfig
    from jaxtune.errors import JaxtuneError as JaxtuneError
    from jaxtune.hub.pretrained import Pretrained as Pretrained
    from jaxtune.hub.pretrained import load_pretrained as load_pretrained
    from jaxtune.hub.saving import save_pretrained as save_pretrained
    from jaxtune.training.run import Run as Run
    from jaxtune.training.run import open_run as open_run
    from jaxtune.training.train import train as train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxtune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
