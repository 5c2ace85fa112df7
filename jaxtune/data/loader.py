"""Batches in plan order, built ahead by Grain in threads, with one position record for any process count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxtune.data.batches import Batch, build_batch
from jaxtune.data.examples import Examples
from jaxtune.data.planning import Plan, StepPlan
from jaxtune.errors import ConfigError, DataError


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
      prefetch: batches built ahead; 0 builds each when it is asked for.

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
        prefetch: int = 2,
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

        def build(step: StepPlan) -> Batch:
            share = len(step.rows) // process_count
            return build_batch(examples, step, slice(process_index * share, (process_index + 1) * share))

        options = grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
        steps = grain.MapDataset.source(plan).map(build)
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
