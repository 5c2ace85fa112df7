"""Ctrl-C and SIGTERM as a request to stop at the next step, not as an exception in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from jaxtune.config import Experiment
from jaxtune.errors import ProcessError

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}
"""What the command line ends with after a stop was asked for and the run was saved, unless the experiment says otherwise."""


def exit_code(experiment: Experiment, stopped_by: signal.Signals | None) -> int:
    """The exit status of a run that ended well, or that a signal stopped and that saved."""
    if stopped_by is None:
        return 0
    if stopped_by == signal.SIGTERM:
        return experiment.train.preempted_exit_code
    return EXIT_CODES[stopped_by]


class StopSignals:
    """Within the context, ``received`` holds the first SIGINT or SIGTERM.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread, where Python
    delivers no signals, nothing is changed.
    """

    numbers: tuple[signal.Signals, ...] = tuple(EXIT_CODES)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def due(self, step: int) -> bool:
        """Whether to save after ``step`` and stop; asked once after every step."""
        return self.received is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


class AgreedStopSignals(StopSignals):
    """One of several processes: a signal to any of them stops all of them after the same step.

    JAX's run time notices the SIGTERM (its own handler is in place since the processes joined, so none is set
    here), tells the others in the background, and takes the step after the furthest that any has begun. Asking
    costs some microseconds and never waits for the devices. A Ctrl-C is passed on as a SIGTERM to this process.
    """

    numbers = (signal.SIGINT,)

    def __init__(self) -> None:
        super().__init__()
        self._asked = False

    def due(self, step: int) -> bool:
        """As of ``StopSignals``; true at the same step in every process.

        Raises:
            ProcessError: JAX's preemption service is switched off.
        """
        from jax.experimental import multihost_utils

        try:
            reached = bool(multihost_utils.reached_preemption_sync_point(step))
        except RuntimeError as error:
            raise ProcessError(
                f"the processes cannot agree on a step to stop at: {error} Leave jax_enable_preemption_service on."
            ) from error
        if reached and self.received is None:
            self.received = signal.SIGTERM
        return reached

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self.received = signal.Signals(number)
        os.kill(os.getpid(), signal.SIGTERM)
