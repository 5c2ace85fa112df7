"""Which examples make up the global batch of every step.

The plan is a function of (seed, epoch, batch size, lengths) only: never of the number of processes
or devices, so that any mesh sees the same batches and any number of processes can resume. Order
comes from raw Philox bits, whose stream numpy keeps stable between versions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jaxtune.data.planning.bucketing import round_up
from jaxtune.data.planning.layouts import Batching, Layout, StepPlan, Wish
from jaxtune.data.sampling import check_repeats, occurrences
from jaxtune.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """The global batches of a run, or of one pass of an evaluation."""

    steps: tuple[StepPlan, ...]
    steps_per_epoch: tuple[int, ...]
    """Steps of each epoch; the last is cut short where the run ends within an epoch. The sum is ``num_steps``."""
    digest: str
    """Of everything but the number of epochs: equal digests mean equal batches at equal steps."""
    whole_last_epoch: int
    """Steps the last epoch would have if it were not cut short."""
    padding_share: float
    """Share of all tokens in the batches that are padding."""
    mean_examples: float
    """Examples per step."""
    shapes: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """The (B, S) of the batches: one compilation each."""

    @property
    def num_steps(self) -> int:
        """Number of batches."""
        return len(self.steps)

    @property
    def slots(self) -> int:
        """Most examples of a row (N), the same in every step."""
        return self.steps[0].slots

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> StepPlan:
        return self.steps[step]

    def epoch_of(self, step: int) -> float:
        """Epochs done after ``step`` steps, as ``1.25``."""
        for epoch, steps in enumerate(self.steps_per_epoch):
            if step < steps or epoch == len(self.steps_per_epoch) - 1:
                whole = self.whole_last_epoch if epoch == len(self.steps_per_epoch) - 1 else steps
                return epoch + step / whole
            step -= steps
        return 0.0

    def describe(self) -> str:
        """One line for a person."""
        shapes = ", ".join(f"{rows}×{length}" for rows, length in sorted(self.shapes))
        return (
            f"{self.num_steps} steps of {self.mean_examples:.1f} examples on average, "
            f"shapes {shapes}, {self.padding_share:.1%} padding"
        )


def plan_training(
    lengths: Int[np.ndarray, " n"],
    *,
    batching: Batching,
    batch_size: int,
    seed: int,
    epochs: float | None = None,
    steps: int | None = None,
    buckets: int = 2,
    row_length: int | None = None,
    rows: int | None = None,
    decoder_lengths: Int[np.ndarray, " n"] | None = None,
    max_tokens: int | None = None,
    repeats: Float[np.ndarray, " n"] | None = None,
) -> Plan:
    """Plan a training run: every example exactly once per epoch, in an order shuffled per epoch.

    Args:
      lengths: token count by example id.
      batching: ``packed``, ``bucketed`` or ``padded``.
      batch_size: examples of a step (the last of an epoch may have fewer; packed steps never have more).
      seed: seed of the order.
      epochs: passes over the data, also fractions; ignored when ``steps`` is given.
      steps: number of steps.
      buckets: how many row lengths ``bucketed`` may use.
      row_length: tokens of a row when packed; chosen from the lengths when none.
      rows: rows of a packed batch; chosen when none.
      decoder_lengths: token counts of the second texts, where there are any.
      max_tokens: most tokens of a batch, padding included (of two texts the larger side); replaces ``batch_size``.
      repeats: how often an example is seen per epoch on average, instead of once: ⌊r⌋ times, and once more with
        the probability of the rest, decided anew for every epoch.

    Raises:
      DataError: there are no examples.
      ConfigError: a size below one, an example longer than ``row_length`` or ``max_tokens``, or neither epochs
        nor steps.
    """
    wish = Wish(batching, batch_size, buckets, row_length, rows, max_tokens)
    repeats = None if repeats is None else check_repeats(repeats, len(lengths))
    layout = Layout.choose(lengths, wish, decoder_lengths, repeats)
    if steps is None and epochs is None:
        raise ConfigError("train.epochs or train.steps: one of them must be set")
    wanted = steps if steps is not None else epochs
    if wanted is None or not wanted > 0:
        field_name = "train.steps" if steps is not None else "train.epochs"
        raise ConfigError(f"{field_name}: expected a number above 0, got {wanted}")
    planned: list[StepPlan] = []
    per_epoch: list[int] = []
    whole = 0
    for epoch in range(10**9):
        ids = None if repeats is None else _drawn(repeats, seed, epoch)
        count = len(lengths) if ids is None else len(ids)
        epoch_steps = layout.epoch(_shuffled(count, seed, epoch), _key(seed, epoch, "batches"), ids)
        whole = len(epoch_steps)
        if steps is not None:
            take = min(whole, steps - len(planned))
        else:
            assert epochs is not None
            # 1e-9: an epochs of 0.1 + 0.2 must not give one step more than 0.3.
            take = min(whole, math.ceil((epochs - epoch) * whole - 1e-9))
        planned += epoch_steps[:take]
        per_epoch.append(take)
        done = len(planned) >= steps if steps is not None else epoch + 1 >= (epochs or 0) - 1e-9
        if done:
            break
    return _plan(planned, per_epoch, whole, layout, seed)


def plan_evaluation(
    lengths: Int[np.ndarray, " n"],
    *,
    batching: Batching,
    batch_size: int,
    buckets: int = 2,
    row_length: int | None = None,
    rows: int | None = None,
    decoder_lengths: Int[np.ndarray, " n"] | None = None,
    max_tokens: int | None = None,
) -> Plan:
    """Plan one pass in which every example occurs exactly once, in the order of the data where that is free.

    Arguments and errors as in :func:`plan_training`; a ``row_length`` or ``max_tokens`` shorter than the longest
    example is raised to it here, since the data to evaluate may hold longer texts than the training data did.
    """
    if row_length is not None and len(lengths):
        row_length = max(row_length, round_up(int(np.max(lengths))))
    wish = Wish(batching, batch_size, buckets, row_length, rows, max_tokens)
    layout = Layout.choose(lengths, wish, decoder_lengths, stretch=True)
    steps = layout.epoch(np.arange(len(lengths)), None)
    return _plan(steps, [len(steps)], len(steps), layout, seed=None)


def _plan(
    steps: Sequence[StepPlan], per_epoch: Sequence[int], whole: int, layout: Layout, seed: int | None
) -> Plan:
    held = sum(len(step.rows) * (step.length + step.decoder_length) for step in steps)
    ids = np.fromiter(_all_ids(steps), np.int64)
    tokens = layout.lengths[ids].sum()
    if layout.decoder is not None:
        tokens += layout.decoder.lengths[ids].sum()
    return Plan(
        steps=tuple(steps),
        steps_per_epoch=tuple(per_epoch),
        digest=layout.digest(seed),
        whole_last_epoch=whole,
        padding_share=1.0 - float(tokens) / held,
        mean_examples=len(ids) / len(steps),
        shapes=frozenset(step.shape for step in steps),
    )


def _all_ids(steps: Sequence[StepPlan]) -> Iterator[int]:
    for step in steps:
        for row in step.rows:
            yield from row


def _key(seed: int, epoch: int, purpose: Literal["order", "batches", "repeats"]) -> np.random.Philox:
    return np.random.Philox(
        np.random.SeedSequence([seed % 2**64, epoch, ("order", "batches", "repeats").index(purpose)])
    )


def _drawn(repeats: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Example ids of one epoch, as often as they occur in it."""
    return occurrences(repeats, _key(seed, epoch, "repeats").random_raw(len(repeats)))


def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation from raw bits; numpy promises those stable, but not ``Generator.permutation``."""
    return np.argsort(_key(seed, epoch, "order").random_raw(count), kind="stable")
