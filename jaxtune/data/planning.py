"""Which examples make up the global batch of every step.

The plan is a function of (seed, epoch, batch size, lengths) only: never of the number of processes
or devices, so that any mesh sees the same batches and any number of processes can resume. Order
comes from raw Philox bits, whose stream numpy keeps stable between versions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Int

from jaxtune.data.bucketing import bucket_epoch, choose_buckets, round_up
from jaxtune.data.packing import pack_epoch
from jaxtune.errors import ConfigError, DataError

Batching = Literal["packed", "bucketed", "padded"]

PLAN_VERSION = 1
"""Part of the digest: raised when the same inputs give another plan."""

_PACKED_FILL = 0.975
"""The packer keeps up with ``batch_size`` examples a step as long as they fill no more of its tokens."""

_GOOD_PADDING = 0.08


@dataclass(frozen=True)
class StepPlan:
    """One global batch."""

    rows: tuple[tuple[int, ...], ...]
    """Example ids of every row from left to right; an empty row is padding."""
    length: int
    """Tokens of a row (S)."""
    slots: int
    """Most examples of a row (N)."""
    decoder_length: int = 0
    """Tokens of a row's second text (T); 0 without one."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All example ids, row by row."""
        return tuple(example for row in self.rows for example in row)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, S)."""
        return len(self.rows), self.length


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

    Raises:
      DataError: there are no examples, or one is longer than ``row_length``.
      ConfigError: a size below one, or neither epochs nor steps.
    """
    layout = _Layout.choose(lengths, batching, batch_size, buckets, row_length, rows, decoder_lengths)
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
        epoch_steps = layout.epoch(_shuffled(len(lengths), seed, epoch), _key(seed, epoch, "batches"))
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
) -> Plan:
    """Plan one pass in which every example occurs exactly once, in the order of the data where that is free.

    Arguments and errors as in :func:`plan_training`; a ``row_length`` shorter than the longest example
    is raised to it here, since the data to evaluate may hold longer texts than the training data did.
    """
    if row_length is not None and len(lengths):
        row_length = max(row_length, round_up(int(np.max(lengths))))
    layout = _Layout.choose(lengths, batching, batch_size, buckets, row_length, rows, decoder_lengths)
    steps = layout.epoch(np.arange(len(lengths)), None)
    return _plan(steps, [len(steps)], len(steps), layout, seed=None)


def packed_shape(
    lengths: Int[np.ndarray, " n"], batch_size: int, row_length: int | None = None, rows: int | None = None
) -> tuple[int, int]:
    """Rows and row length of a packed step that holds ``batch_size`` examples of average length.

    Four examples of average length share a row, in a multiple of eight rows (one row or more for each of
    up to eight devices). Fewer rows are taken where the longest example would make eight wasteful.
    """
    tokens = batch_size * float(np.mean(lengths))
    there = min(
        tokens, float(np.sum(lengths))
    )  # fewer examples than one batch need no more room than they have
    longest = int(np.max(lengths))

    def length_for(count: int, tokens: float) -> int:
        return max(round_up(longest), round_up(math.ceil(tokens / (count * _PACKED_FILL))))

    if rows is not None:
        return rows, row_length or length_for(rows, there)
    if row_length is not None:
        needed = math.ceil(tokens / (row_length * _PACKED_FILL))
        return (round_up(needed) if needed > 8 else needed), row_length
    usual = max(8, round(batch_size / 32) * 8)
    choices = [count for count in (usual, 8, 4, 2, 1) if count <= batch_size]
    padding = {count: 1 - tokens / (count * length_for(count, tokens)) for count in choices}
    for count in choices:
        if padding[count] <= _GOOD_PADDING:
            return count, length_for(count, there)
    best = min(choices, key=lambda count: padding[count])
    return best, length_for(best, there)


@dataclass(frozen=True)
class _Layout:
    """How one epoch's order becomes steps."""

    lengths: np.ndarray
    batching: Batching
    batch_size: int
    rows: int
    row_lengths: tuple[int, ...]
    slots: int
    decoder: _DecoderSide | None = None

    @classmethod
    def choose(
        cls,
        lengths: np.ndarray,
        batching: Batching,
        batch_size: int,
        buckets: int,
        row_length: int | None,
        rows: int | None,
        decoder_lengths: np.ndarray | None,
    ) -> _Layout:
        """Check the arguments and settle the shapes."""
        lengths = np.asarray(lengths, np.int64)
        decoder = _DecoderSide.choose(lengths, decoder_lengths, batching)
        sizes = (("train.batch_size", batch_size), ("data.buckets", buckets))
        for name, value in (*sizes, ("data.row_length", row_length), ("data.rows", rows)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if not len(lengths):
            raise DataError("there are no examples to make batches of; every row was empty or skipped")
        longest = int(lengths.max())
        if batching == "padded":
            return cls(lengths, batching, batch_size, batch_size, (round_up(longest),), 1, decoder)
        if batching == "bucketed":
            chosen = choose_buckets(lengths, buckets)
            return cls(lengths, batching, batch_size, batch_size, chosen, 1, decoder)
        if batching != "packed":
            raise ConfigError(f"data.batching: expected packed, bucketed or padded, got {batching!r}")
        room = lengths if decoder is None else decoder.room(lengths)
        longest = int(room.max())
        count, length = packed_shape(room, batch_size, row_length, rows)
        if longest > length:
            raise ConfigError(
                f"data.row_length: {length} tokens are fewer than the longest example has ({longest}); "
                f"raise data.row_length to at least {longest} or lower data.max_length"
            )
        # Twice the average: a row of short texts is closed a little early, and [B, N] stays small.
        slots = min(batch_size, max(2, 2 * math.ceil(batch_size / count)))
        return cls(lengths, batching, batch_size, count, (length,), slots, decoder)

    def epoch(self, order: np.ndarray, shuffle_batches: np.random.Philox | None) -> list[StepPlan]:
        """All steps of one pass; batches of several lengths are mixed when ``shuffle_batches`` is given."""
        if self.batching == "packed":
            room = self.lengths if self.decoder is None else self.decoder.room(self.lengths)
            packed = pack_epoch(
                room.tolist(),
                order.tolist(),
                rows=self.rows,
                row_length=self.row_lengths[0],
                batch_size=self.batch_size,
                slots=self.slots,
            )
            length = self.row_lengths[0]
            return [StepPlan(rows, length, self.slots, self._decoder_length(length)) for rows in packed]
        batches = bucket_epoch(self.lengths, order, self.row_lengths, self.batch_size)
        if shuffle_batches is not None and len(self.row_lengths) > 1:
            # A ragged batch stays last: its few examples then end the epoch, as with one length.
            whole = len(batches) - (len(batches[-1][0]) < self.batch_size)
            mixed = np.argsort(np.asarray(shuffle_batches.random_raw(whole)), kind="stable")
            batches = [batches[i] for i in mixed] + batches[whole:]
        return [
            StepPlan(self._one_per_row(ids), length, 1, self._decoder_length(length))
            for ids, length in batches
        ]

    def _decoder_length(self, length: int) -> int:
        return 0 if self.decoder is None else self.decoder.row_length(length)

    def _one_per_row(self, ids: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return tuple((example,) for example in ids) + ((),) * (self.rows - len(ids))

    def digest(self, seed: int | None) -> str:
        """Names the batches this layout makes with ``seed``."""
        parts = (PLAN_VERSION, self.batching, self.batch_size, self.rows, self.row_lengths, self.slots, seed)
        hasher = hashlib.blake2b(repr(parts).encode(), digest_size=16)
        hasher.update(self.lengths.astype("<i8").tobytes())
        if self.decoder is not None:
            hasher.update(repr(self.decoder.ratio).encode() + self.decoder.lengths.astype("<i8").tobytes())
        return hasher.hexdigest()


@dataclass(frozen=True)
class _DecoderSide:
    """The second texts: how long they are, and how long their rows are beside those of the first.

    Packing stays a matter of one number per example: what it takes of a row, of its text or of its
    second text, whichever is the larger share. Two sums of shares are then both at most one.

    Attributes:
        lengths: tokens of each second text.
        ratio: tokens of a row of second texts per token of a row of texts; none has all rows as long as the longest.
    """

    lengths: np.ndarray
    ratio: float | None

    @classmethod
    def choose(
        cls, lengths: np.ndarray, decoder_lengths: np.ndarray | None, batching: Batching
    ) -> _DecoderSide | None:
        """None without second texts."""
        if decoder_lengths is None:
            return None
        decoder = np.asarray(decoder_lengths, np.int64)
        ratio = float(decoder.sum()) / max(float(lengths.sum()), 1.0)
        return cls(decoder, max(ratio, 1e-3) if batching == "packed" else None)

    def room(self, lengths: np.ndarray) -> np.ndarray:
        """What each example takes of a packed row, counted in tokens of the first text."""
        assert self.ratio is not None
        return np.maximum(lengths, np.ceil(self.lengths / self.ratio).astype(np.int64))

    def row_length(self, length: int) -> int:
        """Tokens of a row of second texts, beside a row of ``length`` tokens."""
        longest = int(self.lengths.max())
        return round_up(longest if self.ratio is None else max(longest, math.ceil(length * self.ratio)))


def _plan(
    steps: Sequence[StepPlan], per_epoch: Sequence[int], whole: int, layout: _Layout, seed: int | None
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


def _key(seed: int, epoch: int, purpose: Literal["order", "batches"]) -> np.random.Philox:
    return np.random.Philox(
        np.random.SeedSequence([seed % 2**64, epoch, ("order", "batches").index(purpose)])
    )


def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation from raw bits; numpy promises those stable, but not ``Generator.permutation``."""
    return np.argsort(_key(seed, epoch, "order").random_raw(count), kind="stable")
