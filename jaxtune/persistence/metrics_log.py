"""metrics.jsonl: one JSON line per logged step, and the same numbers for TensorBoard.

A resumed run drops the lines after the step it resumes at and then writes them again, so that the
file ends up as that of a run which was never stopped.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtune import files
from jaxtune.errors import RunError
from jaxtune.persistence.tensorboard_events import TensorBoardEvents

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
# JSON has no such numbers; a reader that knows only JSON still reads these lines.
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

logger = logging.getLogger(__name__)


class MetricsLog:
    """The metrics of one run.

    Locally a line is in the file when `write` returns. A remote file is written whole at `flush`;
    call it before each checkpoint, or a killed run would resume after lines that were never stored.

    Args:
      folder: the run directory, local or remote.
      resumed_step: the step the run goes on from; later lines are dropped. None starts anew.
      tensorboard: also write event files.
      primary: False in all processes but the first, which then write nothing.

    Raises:
      RunError: the files cannot be written.
    """

    def __init__(
        self,
        folder: str,
        *,
        resumed_step: int | None = None,
        tensorboard: bool = True,
        primary: bool = True,
    ) -> None:
        self._path = files.join(folder, METRICS)
        self._primary = primary
        self._events: TensorBoardEvents | None = None
        self._lines: list[str] = []
        self._unwritten = False
        if not primary:
            return
        events = files.join(folder, TENSORBOARD)
        with self._named():
            kept = _lines_until(self._path, resumed_step)
            files.write_text(self._path, "".join(line + "\n" for line in kept))
            if resumed_step is None:
                files.remove(events)
        if files.is_remote(self._path):
            self._lines = kept
        if tensorboard:
            with self._named():
                first = 0 if resumed_step is None else resumed_step + 1
                self._events = TensorBoardEvents(events, purge_step=first)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds one line.

        Args:
          row: has an integer ``step``; values are numbers (Python's, NumPy's or 0-d arrays), text,
            None, or lists of these. Floats come back exactly; NaN and infinities are stored as the
            strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``. With a ``split``, TensorBoard names
            are ``split/name``.

        Raises:
          RunError: the line cannot be written.
          TypeError: a value is of another type. KeyError: no ``step``.
        """
        if not self._primary:
            return
        values = {name: _plain(name, value) for name, value in row.items()}
        step = int(values["step"])
        line = json.dumps({name: _storable(value) for name, value in values.items()}, allow_nan=False)
        with self._named():
            if files.is_remote(self._path):
                self._lines.append(line)
                self._unwritten = True
            else:
                files.append_lines(self._path, [line])
            if self._events is not None:
                self._events.write(step, _curves(values))

    def flush(self) -> None:
        """Everything written so far is stored: on the disk, or in the remote file. Raises RunError."""
        if not self._primary:
            return
        with self._named():
            if self._unwritten:
                files.write_text(self._path, "".join(line + "\n" for line in self._lines))
                self._unwritten = False
            elif not files.is_remote(self._path):
                files.sync(self._path)
            if self._events is not None:
                self._events.flush()

    def close(self) -> None:
        """Flushes and ends the event file. Raises RunError."""
        self.flush()
        if self._events is not None:
            with self._named():
                self._events.close()
            self._events = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self._path} cannot be written: {error.strerror or error}. "
                "Make room or repair the folder, then start the same command again to go on."
            ) from error


def read_metrics(folder: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a torn last line is left out. Empty without the file."""
    lines = _sound_lines(files.join(folder, METRICS))
    return [{name: _restored(value) for name, value in row.items()} for _, row in lines]


def _lines_until(path: str, step: int | None) -> list[str]:
    if step is None:
        return []
    return [line for line, row in _sound_lines(path) if row["step"] <= step]


def _sound_lines(path: str) -> list[tuple[str, dict[str, Any]]]:
    """Each line as it stands and as it reads; what a kill tore is dropped and named."""
    try:
        text = files.read_bytes(path).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    # Not splitlines: other characters than \n end a line there.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            row["step"] + 0
        except (ValueError, KeyError, TypeError):
            logger.warning("%s:%d: not a whole line of metrics; dropped", path, number)
            continue
        found.append((line, row))
    return found


def _plain(name: str, value: Any) -> Any:
    """NumPy and JAX scalars as Python's, the same value."""
    if isinstance(value, (list, tuple)):
        return [_plain(name, entry) for entry in value]
    if getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"metric {name!r} is a {type(value).__name__}; expected a number, text, None or a list")


def _storable(value: Any) -> Any:
    if isinstance(value, list):
        return [_storable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(entry) for entry in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _curves(values: Mapping[str, Any]) -> dict[str, float]:
    prefix = f"{values['split']}/" if values.get("split") else ""
    return {
        prefix + name: float(value)
        for name, value in values.items()
        if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
