"""Scalars as TensorBoard event files, in a local folder or uploaded to a remote one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from jaxtune import files


class TensorBoardEvents:
    """One event file per start of the run.

    The records are written where they are called, without tensorboardX's queue and thread, so that
    `flush` means that every scalar is in the file.

    Args:
      folder: where TensorBoard is pointed to. A remote one is filled from a temporary local file.
      purge_step: TensorBoard hides what earlier files of the folder say of this step and later.
    """

    def __init__(self, folder: str, *, purge_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        place = folder
        if files.is_remote(folder):
            self._temporary = tempfile.TemporaryDirectory(prefix="jaxtune-events-")
            place = self._temporary.name
        files.make_dirs(place)
        # Numbered, because two starts within one second would otherwise share a name.
        start = len(files.list_dir(folder))
        self._writer = EventsWriter(str(Path(place) / "events"), filename_suffix=f".{start}")
        self._event = Event
        self._writer.write_event(
            Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START))
        )
        self.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds one point to each named curve."""
        from tensorboardX.summary import scalar

        for name, value in scalars.items():
            self._writer.write_event(
                self._event(wall_time=time.time(), step=step, summary=scalar(name, value))
            )

    def flush(self) -> None:
        """Everything written so far is in the folder. Raises OSError."""
        self._writer.flush()
        if self._temporary is not None:
            for name in files.list_dir(self._temporary.name):
                files.copy(files.join(self._temporary.name, name), files.join(self._folder, name))

    def close(self) -> None:
        """Flushes and ends the file."""
        self.flush()
        self._writer.close()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
