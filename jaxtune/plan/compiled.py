"""What compiling a train step for a mesh tells, as the worker writes it and the report reads it."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtune.plan.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip.

    Attributes:
        parameters, optimizer: of the state, by its shardings.
        gradients: of the trained parameters, by their shardings, in the parameters' type.
        peak: the most that is in use at once, by the compiler.
        temporaries: what the compiler's temporary buffers take; gradients and activations are in there.
    """

    parameters: int
    optimizer: int
    gradients: int
    peak: int
    temporaries: int

    @property
    def activations(self) -> int:
        """What the peak holds beside parameters, optimizer and gradients."""
        return max(0, self.peak - self.parameters - self.optimizer - self.gradients)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A train step compiled for one mesh.

    Attributes:
        mesh: sizes of the mesh axes.
        memory: None where it could not be compiled for want of memory.
        needed, available: bytes of HBM on a chip that the compiler named when it refused the program.
        model_flops: of one step on all chips, by formula: ``plan.flops``.
        compiled_flops: of one step on one chip, read from the optimised program; custom calls are not in it.
        hbm_bytes: that one chip reads and writes in a step, as the roofline counts them: see ``plan.bounds``.
        collectives: in one step, as one chip takes part in them.
        tokens: of one step on all chips.
        attention: which kernels compute it, in words.
        seconds: that the compilation took.
        host_memory: largest resident size of the process that compiled, in bytes.
        measured: median seconds of a step that was run; none where it was only compiled.
        error: what the compiler said where it failed for another reason.
    """

    mesh: dict[str, int]
    memory: Memory | None = None
    needed: int | None = None
    available: int | None = None
    model_flops: float = 0.0
    compiled_flops: float = 0.0
    hbm_bytes: float = 0.0
    collectives: tuple[Collective, ...] = ()
    tokens: int = 0
    attention: tuple[str, ...] = ()
    seconds: float = 0.0
    host_memory: int = 0
    measured: float | None = None
    error: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the program was compiled."""
        return self.memory is not None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Compiled:
        """The inverse of ``to_json``."""
        memory = values["memory"] and Memory(**values["memory"])
        collectives = tuple(Collective(**{**c, "axes": tuple(c["axes"])}) for c in values["collectives"])
        attention = tuple(values["attention"])
        return cls(**{**values, "memory": memory, "collectives": collectives, "attention": attention})
