"""The folders of saved steps: which can be trusted, which are the best, which may go.

    CHECKPOINTS/<step>/state/          arrays, written by Orbax
    CHECKPOINTS/<step>/record.json     everything else of the loop's state
    CHECKPOINTS/<step>/manifest.json   written last: without it the step is not trusted
    CHECKPOINTS/<step>/unfinished      lies there from the first to the last moment of a save

A step with ``unfinished`` and no manifest was cut off in the middle of its save and may be removed.
A step that lacks its manifest otherwise, or does not agree with it, was damaged later: it is never
deleted, only set aside under another name when training reaches that step again.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from jaxtune import files
from jaxtune.persistence.manifest import MANIFEST, has_manifest, verify_manifest, write_manifest

STATE = "state"
RECORD = "record.json"
UNFINISHED = "unfinished"

logger = logging.getLogger(__name__)


class StepFolders:
    """The saved steps below one folder, local or remote. Knows nothing about arrays."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.damaged: set[int] = set()
        """Steps that `verify` found damaged; they count neither as best nor as among the newest."""
        self._best_flags: dict[int, bool] = {}

    def path(self, step: int) -> str:
        """The folder of one step."""
        return files.join(self.root, str(step))

    def all(self) -> list[int]:
        """Steps that have a folder in whatever condition, ascending."""
        return sorted(int(name) for name in files.list_dir(self.root) if name.isascii() and name.isdigit())

    def finished(self) -> list[int]:
        """Steps that have a manifest and were not found damaged, ascending."""
        return [step for step in self.all() if step not in self.damaged and has_manifest(self.path(step))]

    def half_written(self, step: int) -> bool:
        """True where a save or a removal of this step was cut off."""
        folder = self.path(step)
        if has_manifest(folder):
            return False
        if files.exists(files.join(folder, UNFINISHED)):
            return True
        # A kill before the marker was there, or after it went: nothing that was ever whole is in it.
        return not (files.exists(files.join(folder, RECORD)) or files.is_dir(files.join(folder, STATE)))

    def verify(self, step: int) -> list[str]:
        """What is wrong with a step, one line per file; empty for a sound one. Reads every byte."""
        problems = verify_manifest(self.path(step))
        if problems:
            self.damaged.add(step)
        return [f"{self.path(step)}: {problem}" for problem in problems]

    def record(self, step: int) -> dict[str, Any]:
        """The content of record.json. Raises FileNotFoundError, ValueError."""
        return json.loads(files.read_text(files.join(self.path(step), RECORD)))

    def begin(self, step: int) -> None:
        """Makes room for a step that is about to be written. Raises OSError."""
        if step in self.all():
            self._clear(step)
        files.make_dirs(self.path(step))
        files.write_text(files.join(self.path(step), UNFINISHED), "This step is still being written.\n")

    def commit(self, step: int, record: str, *, best: bool) -> None:
        """Writes the record and, last, the manifest: from here on the step counts. Raises OSError."""
        folder = self.path(step)
        files.write_text(files.join(folder, RECORD), record)
        write_manifest(folder, ignore=(UNFINISHED,))
        files.remove(files.join(folder, UNFINISHED))
        self.damaged.discard(step)
        self._best_flags[step] = best

    def discard(self, step: int) -> None:
        """Removes a step; cut off halfway, what remains reads as half-written. Raises OSError."""
        folder = self.path(step)
        try:
            files.write_text(files.join(folder, UNFINISHED), "This step is being removed.\n")
        except OSError:
            # A full disk: the marker cannot be written, and space has to be made all the same.
            logger.debug("no room for a marker in %s", folder)
        files.remove(files.join(folder, MANIFEST))
        for name in files.list_dir(folder):
            if name != UNFINISHED:
                files.remove(files.join(folder, name))
        files.remove(folder)
        self._best_flags.pop(step, None)

    def best(self) -> int | None:
        """The newest finished step that was saved as the best so far."""
        flagged = [step for step in self.finished() if self._is_best(step)]
        return max(flagged, default=None)

    def retain(self, keep: int) -> None:
        """Removes all finished steps but the newest `keep` and the best one. Raises OSError."""
        finished = self.finished()
        kept = {*finished[-keep:], self.best()}
        for step in finished:
            if step not in kept:
                self.discard(step)

    def _is_best(self, step: int) -> bool:
        if step not in self._best_flags:
            try:
                self._best_flags[step] = bool(self.record(step)["best"])
            except (OSError, ValueError, KeyError, TypeError):
                return False
        return self._best_flags[step]

    def _clear(self, step: int) -> None:
        """Takes whatever lies in the way of a step away, without deleting what was once complete and is damaged."""
        if self.half_written(step) or not (step in self.damaged or self.verify(step)):
            self.discard(step)
            return
        taken = set(files.list_dir(self.root))
        names = (f"damaged-{step}" + (f"-{n}" if n else "") for n in range(len(taken) + 1))
        aside = files.join(self.root, next(name for name in names if name not in taken))
        logger.warning("%s is damaged; set aside as %s", self.path(step), aside)
        files.move(self.path(step), aside)
        self.damaged.discard(step)
        self._best_flags.pop(step, None)
