"""The one train step and the one evaluation step, for every task and every mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtune.models.layers import DropoutKey, dropout_key
from jaxtune.models.model import Seq2SeqModel
from jaxtune.training.state import Params, TrainState, merge

Batch = Mapping[str, Array]
Sums = dict[str, tuple[Array, Array]]
Forward = Callable[[Params, Batch, DropoutKey | None], Float[Array, "B N C"]]
TaskOutputs = Callable[[Array, Batch], dict[str, Array]]
TaskLoss = Callable[[Float[Array, "B N C"], Batch], Sums]
Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


ONE_TEXT = ("tokens", "segment_ids", "positions", "token_types")
TWO_TEXTS = tuple(
    f"{side}{name}" for side in ("", "decoder_") for name in ("tokens", "segment_ids", "positions")
)
WORD_HEADS = ("mlm", "causal_lm", "seq2seq_lm")


def make_forward(model: Any) -> Forward:
    """``model.apply`` on a batch's fields."""
    names = TWO_TEXTS if isinstance(model, Seq2SeqModel) else ONE_TEXT
    # Tokens against the vocabulary are all of a row's, or those that ``at`` names; ``starts`` are examples'.
    chosen = "at" if model.head in WORD_HEADS else "starts"

    def forward(params: Params, batch: Batch, key: DropoutKey | None) -> Float[Array, "B N C"]:
        fields: dict[str, Array | None] = {name: batch[name] for name in names}
        if names is ONE_TEXT:
            fields["starts"] = batch.get(chosen)
        return model.apply({"params": params}, **fields, dropout_key=key)

    return forward


def make_train_step(
    forward: Forward,
    loss: TaskLoss,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    accumulate: int = 1,
    mapped_over: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """``train_step(state, batch) -> (state, metrics)``, pure, to be jitted with the state donated.

    Args:
        optimizer: gives a descent direction without a learning rate (``optimizers.make_optimizer``).
        schedule: learning rate at a step.
        accumulate: microbatches a batch is split into; their gradient sums and weights are added
            up and divided once, so the result does not depend on it.
        mapped_over: axis of the ``pmap`` that the step runs in, each device with rows of its own; their
            sums are added up too. None where ``jit`` sees the whole batch.

    The metrics are the task's (sum, weight) pairs, ``grad_norm`` (of the mean gradient, before
    clipping), ``finite``, and ``skipped_in_a_row``. A step whose loss or gradient is not finite
    leaves parameters and optimizer state as they were.
    """

    def objective(trainable: Params, frozen: Params, batch: Batch, key: DropoutKey) -> tuple[Array, Sums]:
        sums = loss(forward(merge(trainable, frozen), batch, key), batch)
        return sums["loss"][0], sums

    gradient = jax.grad(objective, has_aux=True)

    def summed_gradient(state: TrainState, batch: Batch) -> tuple[Params, Sums]:
        # Rows are counted from 0 in each microbatch (and on each device of a pmap), so each has its own key.
        base = 0 if mapped_over is None else jax.lax.axis_index(mapped_over) * accumulate
        if accumulate == 1:
            key = dropout_key(state.seed, state.step, base)
            return gradient(state.trainable, state.frozen, batch, key)

        def add(totals: Any, microbatch: tuple[Array, Batch]) -> tuple[Any, None]:
            index, rows = microbatch
            key = dropout_key(state.seed, state.step, base + index)
            part = gradient(state.trainable, state.frozen, rows, key)
            return jax.tree.map(jnp.add, totals, part), None

        # Microbatch i takes rows i, i + accumulate, …: under data parallelism each device then
        # keeps its own rows in every microbatch and nothing is resharded.
        microbatches = {
            name: rows.reshape(-1, accumulate, *rows.shape[1:]).swapaxes(0, 1) for name, rows in batch.items()
        }
        first = jax.tree.map(lambda rows: rows[0], microbatches)
        shapes = jax.eval_shape(gradient, state.trainable, state.frozen, first, dropout_key(0, 0))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        totals, _ = jax.lax.scan(add, zeros, (jnp.arange(accumulate), microbatches))
        return totals

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        grads, sums = summed_gradient(state, batch)
        if mapped_over is not None:
            grads, sums = jax.lax.psum((grads, sums), mapped_over)
        total, weight = sums["loss"]
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-8), grads)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(total)

        direction, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        rate = schedule(state.step)
        trainable = jax.tree.map(lambda p, d: (p - rate * d).astype(p.dtype), state.trainable, direction)

        def unless_broken(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        skip = 1 - finite.astype(jnp.int32)
        state = state.replace(
            step=state.step + 1,
            trainable=unless_broken(trainable, state.trainable),
            opt_state=unless_broken(opt_state, state.opt_state),
            skipped=state.skipped + skip,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * skip,
        )
        extra = {"grad_norm": grad_norm, "finite": finite, "skipped_in_a_row": state.skipped_in_a_row}
        return state, {"sums": sums, **extra}

    return train_step


def make_eval_step(forward: Forward, outputs: TaskOutputs) -> Callable[[Params, Batch], dict[str, Array]]:
    """``eval_step(params, batch) -> outputs`` of the task, without dropout."""

    def eval_step(params: Params, batch: Batch) -> dict[str, Array]:
        return outputs(forward(params, batch, None), batch)

    return eval_step
