"""Batches in plan order, built ahead by Grain in threads, with one position record for any process count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxtune.data.batches import Arrays, Batch, build_batch
from jaxtune.data.examples import Examples
from jaxtune.data.planning import Plan, StepPlan
from jaxtune.errors import ConfigError, DataError


class Dynamic(Protocol):
    """What a task makes of an example anew in every epoch: masks, spans that are cut out, other words."""

    def lengths(self, examples: Examples) -> tuple[np.ndarray, np.ndarray | None]:
        """Tokens of each text, and of each second text, as ``__call__`` will give them."""

    def __call__(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """The ragged columns of an example, changed, with ``labels``."""

    def most_labels(self, length: int, slots: int) -> int | None:
        """Most labelled tokens of a row of ``length`` tokens and ``slots`` examples; none labels any."""


def lengths_of(examples: Examples, dynamic: Dynamic | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Tokens of each text and second text that batches will hold."""
    return (examples.lengths, examples.decoder_lengths) if dynamic is None else dynamic.lengths(examples)


class Batches(Iterator[Batch]):
    """Iterator over this process's rows of the batches from step ``start_step`` on.

    Process ``p`` of ``process_count`` holds the ``p``-th of equal, contiguous shares of every batch's rows,
    so that the shares stacked in process order are the global batch.

    Args:
      examples: the tokenised split the plan was made for.
      plan: the global batches.
      start_step: step of the first batch.
      process_index: which share of the rows to build.
      process_count: number of shares.
      rows_of: which rows of a batch of so many to build, where a mesh deals them out otherwise.
      prefetch: batches built ahead; 0 builds each when it is asked for.
      dynamic: changes each example by a random generator that is a function of seed, epoch and example.
      seed: of those changes.

    Raises:
      ConfigError: the rows of a batch cannot be shared evenly, or the process index is out of range.
    """

    def __init__(
        self,
        examples: Examples,
        plan: Plan,
        *,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        rows_of: Callable[[int], Sequence[int]] | None = None,
        prefetch: int = 2,
        dynamic: Dynamic | None = None,
        seed: int = 0,
    ) -> None:
        import grain

        if not 0 <= process_index < process_count:
            raise ConfigError(f"process index {process_index} is not below the process count {process_count}")
        for rows, _ in plan.shapes:
            if rows % process_count:
                raise ConfigError(
                    f"a batch of {rows} rows cannot be shared by {process_count} processes: set data.rows "
                    f"(packed) or train.batch_size (padded, bucketed) to a multiple of {process_count}"
                )
        self._plan = plan

        def build(numbered: tuple[int, StepPlan]) -> Batch:
            number, step = numbered
            share = len(step.rows) // process_count
            rows: Sequence[int] = range(process_index * share, (process_index + 1) * share)
            if rows_of is not None:
                rows = rows_of(len(step.rows))
            if dynamic is None:
                return build_batch(examples, step, rows)
            epoch = int(plan.epoch_of(number))

            def changed(example: int) -> Arrays:
                words = np.random.SeedSequence([seed % 2**64, epoch, example])
                return dynamic(examples.arrays_of(example), np.random.Generator(np.random.Philox(words)))

            most = dynamic.most_labels(step.length, step.slots)
            return build_batch(examples, step, rows, arrays_of=changed, most_labels=most)

        options = grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
        steps = grain.MapDataset.source(_Numbered(plan)).map(build)
        self._iterator = iter(steps.to_iter_dataset(options))
        self._seek(start_step)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def position(self) -> dict[str, Any]:
        """JSON-able record of the next batch; the same on every process and for every process count."""
        return {"step": int(self._iterator.get_state()["next_index"]), "plan": self._plan.digest}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Go to the batch that ``record`` from :meth:`position` names.

        Raises:
          DataError: the record was made with other data, batch size, packing or seed.
        """
        if record["plan"] != self._plan.digest:
            raise DataError(
                "the saved position belongs to other batches: the training data, data.batching and its sizes, "
                "train.batch_size or train.seed changed since; restore them, or start anew with --resume never"
            )
        self._seek(int(record["step"]))

    def close(self) -> None:
        """Stop building ahead."""
        self._iterator.close()

    def _seek(self, step: int) -> None:
        if not 0 <= step <= len(self._plan):
            raise DataError(f"step {step} is outside the plan's {len(self._plan)} steps")
        self._iterator.set_state({"next_index": step})


@dataclass(frozen=True)
class _Numbered:
    """A plan as Grain reads it: each step with its number."""

    plan: Plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> tuple[int, StepPlan]:
        return step, self.plan[step]
