"""Exact evaluation: every example of a split once, outputs gathered, metrics by the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxtune.data.examples import Examples
from jaxtune.data.loader import Batches, Dynamic, lengths_of
from jaxtune.data.planning import Plan, StepPlan
from jaxtune.parallel.mesh import put_batch, rows_here


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Metrics of one split, and the task's outputs they come from, by example id."""

    metrics: dict[str, Any]
    outputs: dict[str, Any]


def gather_outputs(
    eval_step: Callable[..., Any],
    params: Any,
    examples: Examples,
    plan: Plan,
    sharding: NamedSharding,
    *,
    per_token: frozenset[str] = frozenset(),
    dynamic: Dynamic | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Outputs of every example, in the order of the data: arrays [n, …], or lists of arrays of what is per token.

    Args:
        eval_step: jitted ``(params, batch) -> outputs`` with replicated results.
        plan: of ``plan_evaluation``: names every example once, so none is counted twice and
            rows that only fill up the last batch not at all.
        per_token: names of outputs [B, S, …] with a value per token of the text that carries the labels.
    """
    batches = Batches(
        examples,
        plan,
        rows_of=rows_here(sharding),
        dynamic=dynamic,
        seed=seed,
    )
    lengths, decoder_lengths = lengths_of(examples, dynamic)
    gathered = _Gathered(len(examples), lengths if decoder_lengths is None else decoder_lengths, per_token)
    pending: tuple[StepPlan, Any] | None = None
    try:
        # The next batch is dispatched before the results of the one before are fetched.
        for step, batch in enumerate(batches):
            outputs = eval_step(params, put_batch(batch, sharding, plan[step].shape[0]))
            gathered.add(pending)
            pending = (plan[step], outputs)
    finally:
        batches.close()
    gathered.add(pending)
    assert gathered.outputs, "a plan has at least one step"
    return gathered.outputs


class _Gathered:
    """Outputs by example, filled step by step."""

    def __init__(self, count: int, lengths: np.ndarray, per_token: frozenset[str]) -> None:
        self.outputs: dict[str, Any] = {}
        self._count, self._lengths, self._per_token = count, lengths, per_token

    def add(self, pending: tuple[StepPlan, Any] | None) -> None:
        """Write one step's outputs to the places of their examples."""
        if pending is None:
            return
        step, outputs = pending[0], jax.device_get(pending[1])
        for name, values in outputs.items():
            if name not in self.outputs:
                self.outputs[name] = self._empty(name, values)
            for row, ids in enumerate(step.rows):
                self._put(name, values[row], ids)

    def _empty(self, name: str, values: np.ndarray) -> Any:
        if name in self._per_token:
            return [None] * self._count
        # NaN until written, so that an example a plan left out could not pass for a result.
        return np.full((self._count, *values.shape[2:]), np.nan, np.float32)

    def _put(self, name: str, values: np.ndarray, ids: tuple[int, ...]) -> None:
        found = self.outputs[name]
        if name not in self._per_token:
            if ids:
                found[list(ids)] = values[: len(ids)]
            return
        start = 0
        for example in ids:
            found[example] = values[start : start + self._lengths[example]]
            start += int(self._lengths[example])
