"""Reading many rows ahead of use, through Grain, with something to look at meanwhile."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxtune.data.records import Record, Records
from jaxtune.errors import DataError

logger = logging.getLogger(__name__)

BATCH = 1000
"""Rows that are read and tokenised together."""

_QUICK = 20_000
"""Fewer rows than this are over before a line about them helps."""


def read_batches(records: Records, label: str) -> Iterator[list[Record | DataError]]:
    """All rows in order, in lists of up to ``BATCH``, read in two threads ahead of use.

    A row that cannot be read is there as the DataError that says why.

    Args:
      records: what to read.
      label: what to call it while it goes on.
    """
    import grain

    def read(batch: int) -> list[Record | DataError]:
        return [_read(records, i) for i in range(batch * BATCH, min((batch + 1) * BATCH, len(records)))]

    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    batches = iter(grain.MapDataset.range(-(-len(records) // BATCH)).map(read).to_iter_dataset(options))
    with _progress(label, len(records)) as advance:
        try:
            for rows in batches:
                yield rows
                advance(len(rows))
        finally:
            batches.close()


def _read(records: Records, index: int) -> Record | DataError:
    try:
        return records[index]
    except DataError as error:
        return error


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        if total >= _QUICK:
            logger.info("%s: %s rows", label, f"{total:,}")
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(label, total=total)
        yield lambda count: bars.advance(bar, count)
