"""Exact evaluation: every example of a split once, predictions gathered, metrics by the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Float

from jaxtune.data.examples import Examples
from jaxtune.data.loader import Batches
from jaxtune.data.planning import Plan
from jaxtune.parallel.mesh import put_batch


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Metrics of one split, and the logits [n, C] they come from, by example id."""

    metrics: dict[str, Any]
    logits: Float[np.ndarray, "n C"]


def gather_logits(
    eval_step: Callable[..., Any], params: Any, examples: Examples, plan: Plan, sharding: NamedSharding
) -> Float[np.ndarray, "n C"]:
    """Logits of every example, in the order of the data.

    Args:
        eval_step: jitted ``(params, batch) -> logits [B, N, C]`` with replicated results.
        plan: of ``plan_evaluation``: names every example once, so none is counted twice and
            rows that only fill up the last batch not at all.
    """
    batches = Batches(examples, plan, process_index=jax.process_index(), process_count=jax.process_count())
    gathered: np.ndarray | None = None
    pending: tuple[int, Any] | None = None
    try:
        # The next batch is dispatched before the results of the one before are fetched.
        for step, batch in enumerate(batches):
            logits = eval_step(params, put_batch(batch, sharding))
            gathered = _collect(pending, plan, len(examples), gathered)
            pending = (step, logits)
    finally:
        batches.close()
    gathered = _collect(pending, plan, len(examples), gathered)
    assert gathered is not None, "a plan has at least one step"
    return gathered


def _collect(
    pending: tuple[int, Any] | None, plan: Plan, count: int, gathered: np.ndarray | None
) -> np.ndarray | None:
    """Write one step's logits to the rows of their examples."""
    if pending is None:
        return gathered
    step, logits = pending[0], jax.device_get(pending[1])
    if gathered is None:
        gathered = np.full((count, logits.shape[-1]), np.nan, np.float32)
    for row, ids in enumerate(plan[step].rows):
        if ids:
            gathered[list(ids)] = logits[row, : len(ids)]
    return gathered
