"""A thread that ends a process in which no step finishes any more, and says where it hangs.

A collective waits for ever for a peer that does not come; the heartbeat notices peers that died, this one
notices those that hang. A supervisor restarts on the exit status.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from jaxtune.parallel.distributed import LOST_EXIT_CODE

LONG_FACTOR = 20
LONG_SECONDS = 3600.0
"""What is no step (compiling, evaluating, saving) may take this long, or so many times a step's limit if that is more."""


def end_with_stacks(message: str) -> None:
    """Print the message and what every thread is doing, and end the process with ``LOST_EXIT_CODE``."""
    try:
        print(message, file=sys.stderr, flush=True)
        # The real one: standard error may have been replaced by an object without a file.
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
    finally:
        os._exit(LOST_EXIT_CODE)


class Watchdog:
    """Watches that steps finish, within its context.

    Args:
        seconds: longest time between two finished steps; None watches nothing and starts no thread.
        bite: what is done then; ends the process unless told.
        long_seconds: limit for what is no step; none takes ``LONG_SECONDS`` or ``LONG_FACTOR`` times ``seconds``.
    """

    def __init__(
        self,
        seconds: float | None,
        *,
        bite: Callable[[str], None] = end_with_stacks,
        long_seconds: float | None = None,
    ) -> None:
        self._seconds = seconds
        self._long = (
            long_seconds if long_seconds is not None else max(LONG_SECONDS, LONG_FACTOR * (seconds or 0))
        )
        self._bite = bite
        self._last, self._limit, self._doing = time.monotonic(), seconds, "a step"
        self._after = "the start"
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self._seconds is not None:
            self._last = time.monotonic()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def step_done(self, step: int) -> None:
        """A step finished on the devices."""
        self._last, self._after = time.monotonic(), f"step {step}"

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Something that is no step, and may take longer."""
        before = self._limit, self._doing
        # Time first: the thread must not see a new, shorter limit with the old time.
        self._last = time.monotonic()
        self._limit, self._doing = (None if self._seconds is None else self._long), doing
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._limit, self._doing = before

    def _watch(self) -> None:
        assert self._seconds is not None
        while not self._wake.wait(min(self._seconds / 4, 5.0)):
            limit, doing = self._limit, self._doing
            silent = time.monotonic() - self._last
            if limit is not None and silent > limit:
                self._bite(
                    f"watchdog: {doing} has not finished in {silent:,.1f} s (at most {limit:g} s are allowed; the last "
                    f"thing done was {self._after}). All threads of process {os.getpid()} follow; it ends with exit "
                    f"status {LOST_EXIT_CODE}. Start the same command again to go on from the last checkpoint."
                )
                return
