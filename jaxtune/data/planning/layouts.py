"""How examples in some order become the global batches of an epoch: their shapes, and who shares a row."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from jaxtune.data.planning.bucketing import bucket_epoch, choose_buckets, round_up
from jaxtune.data.planning.budget import Width, check_budget, packed_within, rows_within
from jaxtune.data.planning.packing import pack_epoch
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
class Wish:
    """What was asked for, by the names of the configuration."""

    batching: Batching
    batch_size: int
    buckets: int
    row_length: int | None
    rows: int | None
    max_tokens: int | None = None

    def check(self) -> None:
        """Raises ConfigError for a size below one."""
        sizes = (("train.batch_size", self.batch_size), ("data.buckets", self.buckets))
        for name, value in (*sizes, ("data.row_length", self.row_length), ("data.rows", self.rows)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")


@dataclass(frozen=True)
class Layout:
    """How one epoch's order becomes steps.

    Attributes:
        rows: of a batch, for each of ``row_lengths``.
        max_tokens: the budget that made them so, if one did.
    """

    lengths: np.ndarray
    batching: Batching
    batch_size: int
    rows: tuple[int, ...]
    row_lengths: tuple[int, ...]
    slots: int
    decoder: _DecoderSide | None = None
    max_tokens: int | None = None
    repeats: np.ndarray | None = None

    @classmethod
    def choose(
        cls,
        lengths: np.ndarray,
        wish: Wish,
        decoder_lengths: np.ndarray | None,
        repeats: np.ndarray | None = None,
        *,
        stretch: bool = False,
    ) -> Layout:
        """Check the arguments and settle the shapes."""
        lengths = np.asarray(lengths, np.int64)
        decoder = _DecoderSide.choose(lengths, decoder_lengths, wish.batching)
        wish.check()
        if not len(lengths):
            raise DataError("there are no examples to make batches of; every row was empty or skipped")
        if wish.batching == "packed":
            return cls._packed(lengths, wish, decoder, repeats, stretch)
        if wish.batching not in ("bucketed", "padded"):
            raise ConfigError(f"data.batching: expected packed, bucketed or padded, got {wish.batching!r}")
        longest = round_up(int(lengths.max()))
        chosen = choose_buckets(lengths, wish.buckets) if wish.batching == "bucketed" else (longest,)
        rows, budget = (wish.batch_size,) * len(chosen), wish.max_tokens
        if budget is not None:
            width = _width(decoder)
            budget = check_budget(budget, longest, width, 1, stretch=stretch)
            rows = tuple(rows_within(budget, width(length)) for length in chosen)
        return cls(lengths, wish.batching, wish.batch_size, rows, chosen, 1, decoder, budget, repeats)

    @classmethod
    def _packed(
        cls,
        lengths: np.ndarray,
        wish: Wish,
        decoder: _DecoderSide | None,
        repeats: np.ndarray | None,
        stretch: bool,
    ) -> Layout:
        room = lengths if decoder is None else decoder.room(lengths)
        longest, batch_size, budget = int(room.max()), wish.batch_size, wish.max_tokens
        mean = float(np.mean(room) if repeats is None else np.average(room, weights=repeats))
        total = float(np.sum(room) if repeats is None else room @ repeats)
        if wish.row_length is not None and longest > wish.row_length:
            raise ConfigError(
                f"data.row_length: {wish.row_length} tokens are fewer than the longest example has ({longest}); "
                f"raise data.row_length to at least {longest} or lower data.max_length"
            )
        if budget is None:
            count, length = _packed_shape(batch_size, longest, mean, total, wish.row_length, wish.rows)
        else:
            width, needed = _width(decoder), wish.row_length or round_up(longest)
            budget = check_budget(budget, needed, width, wish.rows or 1, stretch=stretch)
            count, length = packed_within(
                budget,
                width,
                longest=round_up(longest),
                mean=mean,
                total=total,
                fill=_PACKED_FILL,
                row_length=wish.row_length,
                rows=wish.rows,
            )
            batch_size = max(1, int(count * length * _PACKED_FILL / mean))
        # Twice the average: a row of short texts is closed a little early, and [B, N] stays small.
        slots = min(batch_size, max(2, 2 * math.ceil(batch_size / count)))
        return cls(lengths, "packed", batch_size, (count,), (length,), slots, decoder, budget, repeats)

    def epoch(
        self, order: np.ndarray, shuffle_batches: np.random.Philox | None, ids: np.ndarray | None = None
    ) -> list[StepPlan]:
        """All steps of one pass; batches of several lengths are mixed when ``shuffle_batches`` is given.

        Args:
          order: the order of the examples; with ``ids`` of the occurrences.
          ids: example of each occurrence, where some occur more often than others.
        """
        lengths = self.lengths if ids is None else self.lengths[ids]
        made = self._pack(lengths, order, ids) if self.batching == "packed" else None
        if made is None:
            made = self._bucket(lengths, order, shuffle_batches)
        if ids is None:
            return made
        # An example that occurs twice is two things to place, and one example again when placed.
        example = ids.tolist()
        return [
            replace(step, rows=tuple(tuple(example[e] for e in row) for row in step.rows)) for step in made
        ]

    def _pack(self, lengths: np.ndarray, order: np.ndarray, ids: np.ndarray | None) -> list[StepPlan]:
        room = lengths if self.decoder is None else self.decoder.room(lengths, ids)
        length = self.row_lengths[0]
        packed = pack_epoch(
            room.tolist(),
            order.tolist(),
            rows=self.rows[0],
            row_length=length,
            batch_size=self.batch_size,
            slots=self.slots,
        )
        return [StepPlan(rows, length, self.slots, self._decoder_length(length)) for rows in packed]

    def _bucket(
        self, lengths: np.ndarray, order: np.ndarray, shuffle_batches: np.random.Philox | None
    ) -> list[StepPlan]:
        batches = bucket_epoch(lengths, order, self.row_lengths, self.rows)
        rows = dict(zip(self.row_lengths, self.rows))
        if shuffle_batches is not None and len(self.row_lengths) > 1:
            # A ragged batch stays last: its few examples then end the epoch, as with one length.
            whole = len(batches) - (len(batches[-1][0]) < rows[batches[-1][1]])
            mixed = np.argsort(np.asarray(shuffle_batches.random_raw(whole)), kind="stable")
            batches = [batches[i] for i in mixed] + batches[whole:]
        return [
            StepPlan(_one_per_row(examples, rows[length]), length, 1, self._decoder_length(length))
            for examples, length in batches
        ]

    def _decoder_length(self, length: int) -> int:
        return 0 if self.decoder is None else self.decoder.row_length(length)

    def digest(self, seed: int | None) -> str:
        """Names the batches this layout makes with ``seed``."""
        # Without a budget all batches have as many rows, which the digest names once since there are plans.
        rows = self.rows[0] if self.max_tokens is None else self.rows
        parts = (PLAN_VERSION, self.batching, self.batch_size, rows, self.row_lengths, self.slots, seed)
        budget = () if self.max_tokens is None else ("max_tokens", self.max_tokens)
        hasher = hashlib.blake2b(repr(parts + budget).encode(), digest_size=16)
        hasher.update(self.lengths.astype("<i8").tobytes())
        if self.decoder is not None:
            hasher.update(repr(self.decoder.ratio).encode() + self.decoder.lengths.astype("<i8").tobytes())
        if self.repeats is not None:
            hasher.update(b"repeats" + self.repeats.astype("<f8").tobytes())
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

    def room(self, lengths: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """What each example (those of ``ids``) takes of a packed row, counted in tokens of the first text."""
        assert self.ratio is not None
        own = self.lengths if ids is None else self.lengths[ids]
        return np.maximum(lengths, np.ceil(own / self.ratio).astype(np.int64))

    def row_length(self, length: int) -> int:
        """Tokens of a row of second texts, beside a row of ``length`` tokens."""
        longest = int(self.lengths.max())
        return round_up(longest if self.ratio is None else max(longest, math.ceil(length * self.ratio)))


def packed_shape(
    lengths: Int[np.ndarray, " n"], batch_size: int, row_length: int | None = None, rows: int | None = None
) -> tuple[int, int]:
    """Rows and row length of a packed step that holds ``batch_size`` examples of average length.

    Four examples of average length share a row, in a multiple of eight rows (one row or more for each of
    up to eight devices). Fewer rows are taken where the longest example would make eight wasteful.
    """
    return _packed_shape(
        batch_size, int(np.max(lengths)), float(np.mean(lengths)), float(np.sum(lengths)), row_length, rows
    )


def _packed_shape(
    batch_size: int, longest: int, mean: float, total: float, row_length: int | None, rows: int | None
) -> tuple[int, int]:
    tokens = batch_size * mean
    there = min(tokens, total)  # fewer examples than one batch need no more room than they have

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


def _width(decoder: _DecoderSide | None) -> Width:
    """The longer of a row's two sides, from the tokens of the first."""
    return lambda length: length if decoder is None else max(length, decoder.row_length(length))


def _one_per_row(ids: tuple[int, ...], rows: int) -> tuple[tuple[int, ...], ...]:
    return tuple((example,) for example in ids) + ((),) * (rows - len(ids))
