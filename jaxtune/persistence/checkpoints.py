"""Saving the whole state of a run in the background, and restoring the newest state that is sound.

Orbax writes the arrays; a background thread then adds the record and, last, a manifest with a
checksum of every file. Restoring verifies the manifest first, names what is damaged or half-written,
and takes the newest step without a fault.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from jaxtune import files
from jaxtune.errors import CheckpointError
from jaxtune.persistence.checkpoint_arrays import OrbaxArrays, check_fit, describe
from jaxtune.persistence.checkpoint_steps import STATE, StepFolders

logger = logging.getLogger(__name__)

_QUIET_CHECKS, _QUIET_CHECK_SECONDS = 4, 0.05


class Arrays(Protocol):
    """What writes and reads the arrays of one step: Orbax, or a stand-in for a store it cannot write to."""

    def start(self, folder: str, state: Any) -> None:
        """Begins to write and returns when `state` may be overwritten."""

    def wait(self) -> None:
        """Ends, or raises, with the write."""

    def reset(self) -> None:
        """Forgets a failed write."""

    def read(self, folder: str, like: Any) -> Any:
        """The saved arrays in the form of `like`."""

    def close(self) -> None:
        """Frees what it holds."""


T = TypeVar("T")


class Company(Protocol):
    """The processes that save together; ``parallel.agreement.Processes`` where there are several."""

    @property
    def first(self) -> bool:
        """True in the one process that writes our own files."""

    def decide(self, name: str, work: Callable[[], T]) -> T:
        """What the first process finds, or its error, in every process."""

    def together(self, name: str) -> AbstractContextManager[None]:
        """Work that, where it fails in one process, fails in all."""


class Alone:
    """A single process."""

    first = True

    def decide(self, name: str, work: Callable[[], T]) -> T:
        """Its own answer."""
        return work()

    @contextmanager
    def together(self, name: str) -> Iterator[None]:
        """Nobody to be told."""
        yield


@dataclass(frozen=True)
class Restored:
    """A sound checkpoint, and what was wrong with newer ones."""

    step: int
    state: Any
    """In the classes, dtypes and shardings that were asked for."""
    record: dict[str, Any]
    """As it was given to `save`."""
    problems: list[str] = field(default_factory=list)
    """One line per damaged file or half-written step that was passed over."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: local or remote folder; need not exist.
      keep: how many of the newest steps to keep; the best one stays besides.
      writable: False for a reader beside a running training: nothing is removed or cleaned.
      arrays: what writes the arrays; Orbax unless told.
      processes: those that save and restore together; all of them make the same calls in the same order.
    """

    def __init__(
        self,
        folder: str,
        *,
        keep: int = 2,
        writable: bool = True,
        arrays: Arrays | None = None,
        processes: Company | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._folders = StepFolders(folder)
        self._keep = keep
        self._writable = writable
        self._given_arrays = arrays
        self._processes = processes or Alone()
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None
        self._last_saved: tuple[int, str] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._close(self._end_of_save)  # the other processes need not be on their way out too

    @property
    def _arrays(self) -> Arrays:
        # Made at first use: a reader of step numbers starts no threads.
        if self._given_arrays is None:
            self._given_arrays = OrbaxArrays()
        return self._given_arrays

    def save(self, step: int, state: Any, record: Mapping[str, Any], *, best: bool = False) -> None:
        """Saves in the background; every process calls it at the same step.

        Waits for the save before it. The arrays may be donated as soon as this returns. `best` says
        that no earlier step was better: the newest step saved so is kept beside the newest `keep`.
        Saving the same step with the same record again does nothing. A program must not end without
        `wait` or `close`: Python stops Orbax's helpers first, and the last save would be lost.

        Args:
          step: number of finished training steps; names the folder.
          state: pytree of jax arrays.
          record: JSON-able rest of the loop's state; copied here.

        Raises:
          CheckpointError: this save, or the one before in the background, failed.
          TypeError: a leaf of `state` is no jax array, or `record` is not JSON-able.
        """
        self.wait()
        text = json.dumps(
            {"step": step, "best": best, "arrays": describe(state), "record": dict(record)}, indent=1
        )
        if self._last_saved == (step, text):
            return
        try:
            with self._processes.together(f"the folder of step {step}"):
                if self._processes.first:
                    self._folders.begin(step)
            self._arrays.start(files.join(self._folders.path(step), STATE), state)
        except Exception as error:
            raise self._failed(step, error) from error
        self._thread = threading.Thread(
            target=self._finish, args=(step, text, best), name=f"checkpoint-{step}"
        )
        self._thread.start()

    def wait(self) -> None:
        """Until the save under way has ended. Raises CheckpointError where it failed, in whichever process."""
        if self._thread is None and self._failure is None:
            return
        with self._processes.together("a save"):
            self._end_of_save()

    def close(self) -> None:
        """Waits, then frees the background threads. Raises as `wait`."""
        self._close(self.wait)

    def _close(self, wait: Callable[[], None]) -> None:
        try:
            wait()
        finally:
            if self._given_arrays is not None:
                self._given_arrays.close()
                self._given_arrays = None

    def _end_of_save(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def steps(self) -> list[int]:
        """Finished steps, ascending; none of them is verified by this call."""
        return self._folders.finished()

    def best_step(self) -> int | None:
        """The newest finished step that was saved as the best."""
        return self._folders.best()

    def newest_sound(self) -> int | None:
        """The newest step whose every file is as it was written. Reads the checkpoints it tries."""
        return self._choose(None)[0]

    def restore(self, like: Any, step: int | None = None, *, partial: bool = False) -> Restored | None:
        """Reads the newest sound step, or the one asked for; None where nothing was ever saved.

        Every damaged or half-written step that is passed over is named in `problems` and logged.
        Half-written ones are removed. With more processes than one, the first decides.

        Args:
          like: pytree of jax.ShapeDtypeStruct with shardings (or of arrays) that says what to build.
          step: a certain step instead of the newest.
          partial: `like` names only some of the saved arrays, as the parameters alone.

        Raises:
          CheckpointError: all steps are damaged; or the one asked for is missing or damaged; or the
            checkpoint belongs to another model or optimizer.
        """
        self.wait()
        chosen, problems = self._processes.decide("the checkpoint", lambda: self._usable(step))
        if chosen is None:
            return None
        place = self._folders.path(chosen)
        saved = self._folders.record(chosen)
        check_fit(place, saved["arrays"], like, partial=partial)
        try:
            state = self._arrays.read(files.join(place, STATE), like)
        except Exception as error:
            raise CheckpointError(
                f"{place} has every byte that was written, but Orbax cannot read it: {_first_line(error)}"
            ) from error
        return Restored(chosen, state, saved["record"], problems)

    def _usable(self, step: int | None) -> tuple[int | None, list[str]]:
        """As `_choose`; logs the problems, and refuses to start from nothing where there was something."""
        chosen, problems = self._choose(step)
        for problem in problems:
            logger.warning("%s", problem)
        if chosen is None and self._folders.damaged:
            # To start from nothing is then the user's decision.
            raise CheckpointError(
                f"no checkpoint in {self._folders.root} is sound:\n  "
                + "\n  ".join(problems)
                + "\nBring the files back from a copy, or start anew with --resume never --overwrite."
            )
        return chosen, problems

    def _choose(self, step: int | None) -> tuple[int | None, list[str]]:
        """The newest sound step, and what is wrong with the ones passed over."""
        existing = self._folders.all()
        if step is not None and step not in existing:
            there = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(f"{self._folders.root} has no step {step}; it has: {there}")
        problems: list[str] = []
        for candidate in [step] if step is not None else existing[::-1]:
            found = self._problems(candidate)
            if not found:
                self._sweep(older_than=candidate)
                return candidate, problems
            problems += found
        if step is not None:
            raise CheckpointError("the checkpoint asked for cannot be used:\n  " + "\n  ".join(problems))
        return None, problems

    def _problems(self, step: int) -> list[str]:
        if not self._folders.half_written(step):
            return self._folders.verify(step)
        if self._writable:
            self._folders.discard(step)
        what = "removed" if self._writable else "skipped"
        return [f"{self._folders.path(step)}: half-written, the run ended during this save; {what}"]

    def _sweep(self, *, older_than: int) -> None:
        """Finishes what a kill cut off while an old step was being removed."""
        for step in self._folders.all():
            if self._writable and step < older_than and self._folders.half_written(step):
                self._folders.discard(step)

    def _finish(self, step: int, record: str, best: bool) -> None:
        """The background part of a save."""
        try:
            self._arrays.wait()
            if self._processes.first:
                self._folders.commit(step, record, best=best)
            self._last_saved = (step, record)
        except BaseException as error:
            # First the plain fact, so that no trouble while tidying up can hide it.
            self._failure = CheckpointError(f"step {step} could not be saved: {_first_line(error)}")
            self._failure = self._failed(step, error)
            self._failure.__cause__ = error
            return
        if self._processes.first:
            try:
                self._folders.retain(self._keep)
            except OSError as error:
                logger.warning("an old checkpoint in %s could not be removed: %s", self._folders.root, error)

    def _remove_half_written(self, step: int) -> None:
        """Removes what a failed save left, also what Orbax's abandoned writers still make for a moment."""
        if not self._folders.half_written(step):
            return
        quiet = 0
        while quiet < _QUIET_CHECKS:
            quiet += 1
            if files.exists(self._folders.path(step)):
                self._folders.discard(step)
                quiet = 0
            time.sleep(_QUIET_CHECK_SECONDS)

    def _failed(self, step: int, error: BaseException) -> CheckpointError:
        """Removes what a failed save left and says what happened."""
        place, root = self._folders.path(step), self._folders.root
        free = files.free_space(root)
        self._arrays.reset()
        if self._processes.first:
            try:
                self._remove_half_written(step)
            except OSError as problem:
                logger.warning("%s could not be removed: %s", place, problem)
        space = "" if free is None else f" ({free / 1e6:,.1f} MB free)"
        earlier = ", ".join(map(str, self.steps())) or "none"
        return CheckpointError(
            f"step {step} could not be saved in {place}{space}: {_first_line(error)}\n"
            f"Earlier checkpoints are intact: {earlier}. Make room or repair the folder, then start the "
            "same command again to go on from the newest."
        )


def _first_line(error: BaseException) -> str:
    full = os.strerror(errno.ENOSPC)
    if full in str(error):
        return full
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
