"""What happened since the last logged step. It is saved with every checkpoint, so that a resumed
run logs the same lines as one that was never stopped."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class LogWindow:
    """Sums over the steps since the last line.

    Attributes:
        sums: the task's name → [Σ, Σ weight], added in float64.
        grad_norm: of the last step.
        steps, examples, tokens, slots: counts; ``slots`` are all token positions, padding included.
        flops: model FLOPs.
        seconds: time spent on the steps, evaluation and saving apart.
    """

    sums: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    grad_norm: float = 0.0
    steps: int = 0
    examples: int = 0
    tokens: int = 0
    slots: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def add_step(
        self, metrics: dict[str, Any], lengths: np.ndarray, slots: int, flops: float, seconds: float
    ) -> None:
        """Add one step.

        Args:
            metrics: of the train step, on the host.
            lengths: token counts of the step's examples.
        """
        for name, (total, weight) in metrics["sums"].items():
            held = self.sums.setdefault(name, [0.0, 0.0])
            held[0] += float(total)
            held[1] += float(weight)
        self.grad_norm = float(metrics["grad_norm"])
        self.steps += 1
        self.examples += len(lengths)
        self.tokens += int(np.sum(lengths))
        self.slots += slots
        self.flops += flops
        self.seconds += seconds

    def line(self, peak: float | None) -> dict[str, float | None]:
        """The fields of a logged line; ``*_per_second``, ``step_time`` and ``mfu`` are times."""
        seconds = max(self.seconds, 1e-9)
        return {
            **{name: total / weight if weight else None for name, (total, weight) in self.sums.items()},
            "grad_norm": self.grad_norm,
            "padding_share": 1.0 - self.tokens / max(self.slots, 1),
            "examples_per_second": self.examples / seconds,
            "tokens_per_second": self.tokens / seconds,
            "step_time": seconds / max(self.steps, 1),
            "mfu": None if peak is None else self.flops / seconds / peak,
        }

    def to_record(self) -> dict[str, Any]:
        """As plain values; floats survive JSON exactly."""
        return dataclasses.asdict(self)


TIMES = frozenset({"examples_per_second", "tokens_per_second", "step_time", "mfu", "seconds"})
"""Fields of metrics.jsonl that are times: the only ones in which a resumed run differs."""
