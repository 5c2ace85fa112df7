"""The cache folder of downloads: where it is, one writer at a time, nothing half-written in it.

A name in the cache is trusted because of how it got there: written under a temporary name, flushed to
disk, and renamed in one step. A process killed on the way leaves a temporary name, which the next writer
of that entry removes.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxtune.errors import SourceError

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 2.0
"""Waiting longer than this for another process is said out loud."""


def cache_dir() -> Path:
    """Folder of downloads and derived files: ``JAXTUNE_CACHE``, or ``jaxtune`` in the user's cache folder."""
    chosen = os.environ.get("JAXTUNE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return _user_cache_dir() / "jaxtune"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock that belongs to the cache entry ``target``; other processes wait.

    The lock is the operating system's, so a killed holder releases it. Creates the parent folder.

    Raises:
        SourceError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock_file = target.with_name(f".{target.name}.lock")
    lock = FileLock(str(lock_file))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_PATIENCE_SECONDS)
        except Timeout:
            logger.warning("waiting for another process that is fetching %s", target.name)
            lock.acquire()
    except OSError as error:
        raise SourceError(
            f"cannot write to the cache folder {target.parent}: {error}. "
            "Set JAXTUNE_CACHE to a folder that can be written."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Give a temporary path to write a file or folder at; it becomes ``target`` when the block succeeds.

    The content is flushed to disk before the rename. When the block raises, nothing stays behind. Call it
    while holding ``locked(target)``: leftovers of killed writers of the same target are removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{_glob_safe(target.name)}.*.tmp"):
        discard(leftover)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(target)
    except BaseException:
        discard(temporary)
        raise


def flush(path: Path) -> None:
    """Ask the operating system to put a file, or every file of a folder, on the disk now."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())


def discard(path: Path) -> None:
    """Remove a file or a folder; a missing one is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _user_cache_dir() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    # The XDG rules: a relative path there is to be ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache"


def _glob_safe(name: str) -> str:
    return "".join(f"[{c}]" if c in "[]*?" else c for c in name)
