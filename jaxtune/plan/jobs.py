"""What one worker is asked to compile."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtune.config import Experiment, from_dict, to_dict
from jaxtune.plan.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Job:
    """One mesh to compile for.

    Attributes:
        experiment: with its mesh, and its precision settled.
        raw_config: config.json of the model.
        topology: of chips elsewhere; none takes the devices that are here.
        cache: folder of results by the hash of the lowered program; none looks none up.
        capacity: bytes of HBM on a chip, where known: a state that is larger is not worth compiling for.
        steps: how many steps to run and time, on devices that are here; 0 only compiles.
    """

    experiment: Experiment
    raw_config: dict[str, Any]
    topology: Topology | None = None
    cache: str | None = None
    capacity: int | None = None
    steps: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        topology = None if self.topology is None else dataclasses.asdict(self.topology)
        return {**self.__dict__, "experiment": to_dict(self.experiment), "topology": topology}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Job:
        """The inverse of ``to_json``."""
        topology = values["topology"] and Topology(**values["topology"])
        return cls(**{**values, "experiment": from_dict(values["experiment"]), "topology": topology})
