"""How a long download shows itself: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_SECONDS = 5.0
"""At most one plain line in so many seconds; a short download prints only its first and last line."""


@contextmanager
def progress(label: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show the progress of ``label`` on standard error.

    Args:
        label: what is downloaded, as a file name.
        total: bytes in all, none if unknown.
        done: bytes that are there already.

    Yields:
        a function to be told how many bytes are there in all.
    """
    shown = _bar if sys.stderr.isatty() else _lines
    with shown(label, total, done) as update:
        yield update


@contextmanager
def _bar(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, completed=done)
        yield lambda now: bars.update(task, completed=now)


@contextmanager
def _lines(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    started = last_line = time.monotonic()
    size = f" ({_mib(total)})" if total else ""
    _say(f"downloading {label}{size}" + (f", {_mib(done)} already here" if done else ""))
    latest = done

    def update(now: int) -> None:
        nonlocal latest, last_line
        latest = now
        if time.monotonic() - last_line >= _LINE_SECONDS:
            last_line = time.monotonic()
            share = f" of {_mib(total)}, {100 * now // total} %" if total else ""
            _say(f"downloading {label}: {_mib(now)}{share}")

    yield update
    _say(f"downloaded {label}: {_mib(latest)} in {time.monotonic() - started:.1f} s")


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
