"""The folder of one run: when it may be started in, gone on with, or replaced.

The resolved configuration is its first file, under a line that marks it as ours. A folder without
that line is somebody else's and is never touched.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from jaxtune import files
from jaxtune.config import Experiment, dump_yaml, from_dict, load_yaml, to_dict
from jaxtune.errors import ConfigError, RunError

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
MARKER = "# The resolved configuration of a jaxtune run; jaxtune knows its run directories by this line.\n"

FREE_FIELDS = frozenset(
    {
        "name",
        "output",
        "resume",
        "overwrite",
        "version",
        "train.keep",
        "train.log_every",
        "train.save_every",
        "train.compiler_options",
        "train.step_timeout",
        "train.preempted_exit_code",
        "model.scan_layers",
        "model.remat",
        "mesh",
    }
)
"""Fields (or whole sections) that may differ when a run goes on: training itself stays the same."""

RUN_FILES = (
    "results.json",  # first: what is half removed must not look finished
    CHECKPOINTS,
    "base",
    "best",
    "tensorboard",
    "metrics.jsonl",
    "provenance.json",
    "report.md",
    "predictions.jsonl",
    "learning_curve.png",
    "learning_curve.svg",
    "confusion_matrix.png",
    "confusion_matrix.svg",
    "reliability.png",
    "reliability.svg",
    "lengths.png",
    "lengths.svg",
)
"""What ``overwrite`` removes beside the configuration, which it replaces; anything else in the folder stays."""

_TEMPORARY = re.compile(r"^\..+\.[0-9]+-[0-9a-f]{8}\.tmp$")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run. `open` applies the rules for training, `existing` those for reading."""

    path: str

    @property
    def config(self) -> str:
        """config.yaml: everything that is needed to repeat the run."""
        return files.join(self.path, CONFIG)

    @property
    def checkpoints(self) -> str:
        """Folder of saved steps, for `Checkpoints`."""
        return files.join(self.path, CHECKPOINTS)

    def file(self, name: str) -> str:
        """Path of any other file of the run, as ``report.md``."""
        return files.join(self.path, name)

    def experiment(self) -> Experiment:
        """The saved configuration. Raises ConfigError for one that a newer jaxtune wrote."""
        return load_yaml(files.read_text(self.config), self.config)

    def save_config(self, experiment: Experiment) -> None:
        """Writes config.yaml anew, as after looking at the machine. Raises RunError."""
        _write(self.config, MARKER + dump_yaml(experiment))

    def has_checkpoints(self) -> bool:
        """True where a step was saved, whether or not it is sound."""
        return any(name.isdigit() for name in files.list_dir(self.checkpoints))

    @classmethod
    def existing(cls, path: str) -> RunDirectory:
        """A run to read from. Raises RunError where there is none."""
        if not files.exists(path):
            raise RunError(f"{path}: there is no such run directory")
        if not _is_ours(path):
            raise RunError(f"{path} is not a jaxtune run: it has no {CONFIG} that a run wrote")
        return cls(path)

    @classmethod
    def open(
        cls, experiment: Experiment, *, free: Collection[str] = FREE_FIELDS
    ) -> tuple[RunDirectory, Experiment]:
        """Makes or takes up ``OUTPUT/NAME`` as `experiment.resume` and `.overwrite` say.

        Only the first process calls this. A run without a checkpoint has nothing to lose, so its
        configuration may still change: a first start that failed for a typo is simply repeated. With ``must`` there is at least one checkpoint, though
        not necessarily a sound one.

        Args:
          experiment: what is asked for now.
          free: dotted fields or sections that may differ from the saved ones.

        Returns:
          The directory, and the configuration to run: as asked for in a new directory; in an old one
          with everything that was asked for as ``auto`` at the value which the first start chose.

        Raises:
          RunError: the directory is not ours, exists, holds nothing to resume, was started with
            another configuration, or cannot be written.
          ConfigError: a newer jaxtune wrote the saved configuration.
        """
        run = cls(files.join(experiment.output, experiment.name))
        if experiment.overwrite and experiment.resume != "never":
            raise RunError(
                "--overwrite replaces a run and needs --resume never; without it, --resume auto goes on"
            )
        occupied = run._occupied()
        if occupied and not _is_ours(run.path):
            raise RunError(
                f"{run.path} exists and is not a jaxtune run ({occupied[0]}{', …' if occupied[1:] else ''} "
                f"is in it, and no {CONFIG} that a run wrote); it is left as it is. Choose another --name or --output."
            )
        if experiment.resume == "must" and not run.has_checkpoints():
            raise RunError(f"{run.path} has no checkpoint to resume from; --resume auto starts it")
        if experiment.resume == "never" and occupied:
            if not experiment.overwrite:
                raise RunError(
                    f"{run.path} holds a run already. Choose another --name, go on with --resume auto, "
                    "or replace it with --resume never --overwrite."
                )
            run._remove_run()
        elif run.has_checkpoints() or files.exists(run.file(RUN_FILES[0])):
            experiment = _merged(run, experiment, free)
        run._remove_temporary()
        run.save_config(experiment)
        return run, experiment

    def _occupied(self) -> list[str]:
        """Names in the folder, leftovers of a killed write apart. Raises RunError for a file."""
        if files.exists(self.path) and not files.is_dir(self.path):
            raise RunError(f"{self.path} is a file; a run needs a folder. Choose another --name or --output.")
        try:
            return [name for name in files.list_dir(self.path) if not _TEMPORARY.match(name)]
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def _remove_run(self) -> None:
        try:
            for pattern in RUN_FILES:
                for name in fnmatch.filter(files.list_dir(self.path), pattern):
                    files.remove(self.file(name))
        except OSError as error:
            raise RunError(f"{self.path} cannot be overwritten: {error.strerror or error}") from error
        left = [name for name in files.list_dir(self.path) if name != CONFIG and not _TEMPORARY.match(name)]
        if left:
            logger.warning(
                "%s: overwritten; these are no files of a run and stay: %s", self.path, ", ".join(left)
            )

    def _remove_temporary(self) -> None:
        for name in files.list_dir(self.path):
            if _TEMPORARY.match(name):
                with suppress(OSError):
                    files.remove(self.file(name))


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a run directory for this process; the system lets go of it when the process ends, however it does.

    The lock lies in the cache folder, so that nothing is written to a directory that may not be ours.
    Processes on other machines, and remote directories, are not covered.

    Raises:
      RunError: another process is training there.
    """
    if files.is_remote(path):
        yield
        return
    from filelock import FileLock, Timeout

    from jaxtune.hub.fetching.cache import cache_dir

    key = hashlib.sha256(files.absolute(path).encode()).hexdigest()[:32]
    files.make_dirs(str(cache_dir() / "runs"))
    lock = FileLock(cache_dir() / "runs" / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"another process is training in {path}; wait for it to end, or choose another --name"
        ) from None
    try:
        yield
    finally:
        lock.release()


def differences(saved: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str]) -> list[str]:
    """Dotted names of fields that differ and may not, with both values.

    A field that is now ``auto`` agrees with whatever was chosen for it at the first start.
    """
    old, now = _flat(saved), _flat(new)
    return [
        f"{name}: saved {_show(old, name)}, now {_show(now, name)}"
        for name in [*old, *(name for name in now if name not in old)]
        if not _is_free(name, free) and now.get(name) != "auto" and old.get(name) != now.get(name)
    ]


def _merged(run: RunDirectory, asked: Experiment, free: Collection[str]) -> Experiment:
    """What to run in a directory that has a configuration: the saved one with its free fields as asked."""
    saved, new = to_dict(run.experiment()), to_dict(asked)
    different = differences(saved, new, free)
    if different:
        raise RunError(
            f"{run.path} was started with another configuration:\n  "
            + "\n  ".join(different)
            + "\nTo go on with it, give these fields their saved values. For a new run choose another --name, "
            "or replace this one with --resume never --overwrite."
        )
    try:
        return from_dict(_take_free(saved, new, free, ""), run.config)
    except ConfigError as error:
        raise RunError(f"{run.path} cannot go on with the configuration asked for: {error}") from error


def _take_free(saved: Any, new: Any, free: Collection[str], path: str) -> Any:
    if isinstance(saved, Mapping) and isinstance(new, Mapping) and path not in free:
        prefix = f"{path}." if path else ""
        return {name: _take_free(saved.get(name), new[name], free, prefix + name) for name in new}
    return new if path in free else saved


def _is_free(name: str, free: Collection[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:n]) in free for n in range(1, len(parts) + 1))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _show(flat: Mapping[str, Any], name: str) -> str:
    return repr(flat[name]) if name in flat else "(no such field)"


def _is_ours(path: str) -> bool:
    try:
        return files.read_bytes(files.join(path, CONFIG)).startswith(MARKER.encode())
    except OSError:
        return False


def _write(path: str, text: str) -> None:
    try:
        files.write_text(path, text)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}. Make the folder writable, or choose another --output."
        ) from error
