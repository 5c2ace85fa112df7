"""What a person sees while a run trains: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

LINE_EVERY_SECONDS = 10.0
"""Plain lines are at least this far apart, but for messages."""


class Progress(Protocol):
    """Where the loop reports to."""

    def begin(self, total: int, done: int) -> None:
        """Training goes from step ``done`` to ``total``."""

    def step(self, step: int, values: dict[str, float | None]) -> None:
        """``step`` is done; ``values`` are the latest logged ones."""

    def say(self, text: str) -> None:
        """A message of its own."""

    def end(self) -> None:
        """Training is over, or stopped."""


def make_progress(*, quiet: bool = False) -> Progress:
    """The bar on a terminal, lines otherwise, nothing but silence when ``quiet``."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


class Silent:
    """Says nothing: processes other than the first, and tests."""

    def begin(self, total: int, done: int) -> None: ...
    def step(self, step: int, values: dict[str, float | None]) -> None: ...
    def say(self, text: str) -> None: ...
    def end(self) -> None: ...


class Lines:
    """Plain lines on standard error."""

    def begin(self, total: int, done: int) -> None:
        self._total, self._start, self._last = total, done, time.monotonic()
        self._began: float | None = None
        self._values: dict[str, float | None] = {}

    def step(self, step: int, values: dict[str, float | None]) -> None:
        self._values = values or self._values
        now = time.monotonic()
        if self._began is None:  # the first step waits for the compiler and says nothing about the rest
            self._began, self._start = now, step
        if now - self._last < LINE_EVERY_SECONDS and step < self._total:
            return
        self._last = now
        left = (now - self._began) / max(step - self._start, 1) * (self._total - step)
        self.say(f"step {step}/{self._total}  {_shown(self._values)}  {_clock(left)} left")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def end(self) -> None: ...


class Bar:
    """A live bar with loss, accuracy, rate and time left (rich)."""

    def begin(self, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar: Any = RichProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("training", total=total, completed=done, values="compiling …")
        self._bar.start()

    def step(self, step: int, values: dict[str, float | None]) -> None:
        fields = {"values": _shown(values)} if values else {}
        self._bar.update(self._task, completed=step, **fields)

    def say(self, text: str) -> None:
        bar = getattr(self, "_bar", None)
        if bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        bar = getattr(self, "_bar", None)
        if bar is not None:
            bar.stop()


def _shown(values: dict[str, float | None]) -> str:
    parts = []
    for name in ("loss", "accuracy"):
        if values.get(name) is not None:
            parts.append(f"{name} {values[name]:.4f}")
    if values.get("examples_per_second") is not None:
        parts.append(f"{values['examples_per_second']:.1f} examples/s")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
