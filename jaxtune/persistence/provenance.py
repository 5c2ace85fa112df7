"""provenance.json: what made a run, so that it can be judged and repeated later.

One entry per start of the run: the first, and one for each time it was resumed.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtune import files
from jaxtune.errors import RunError

PROVENANCE = "provenance.json"
_PACKAGES = {
    "jaxtune": "jaxtune",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "numpy": "numpy",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "grain": "grain",
    "tfds": "tensorflow-datasets",
}
# Those that decide how fast, and with which rounding, a CPU multiplies matrices.
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "bf16", "sve")

logger = logging.getLogger(__name__)


def collect_provenance(
    fingerprints: Mapping[str, str], extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One entry about this process, its machine and its data.

    Args:
      fingerprints: split name → content hash of its data.
      extra: further JSON-able facts, as the precision and why it was taken.
    """
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **versions()},
        "git": git_state(Path.cwd()),
        "jaxtune_git": git_state(Path(__file__).parent),
        "machine": machine(),
        "data": dict(fingerprints),
        **(extra or {}),
    }


def write_provenance(folder: str, entry: Mapping[str, Any], *, resumed_step: int | None = None) -> None:
    """Writes the first entry of a run, or adds one to its ``resumed`` list.

    Args:
      folder: the run directory, local or remote.
      entry: of `collect_provenance`.
      resumed_step: the step the run goes on from; None starts the file anew.

    Raises:
      RunError: the file cannot be written.
    """
    path = files.join(folder, PROVENANCE)
    content: dict[str, Any] = dict(entry) | {"resumed": []}
    if resumed_step is not None:
        first = _read(path)
        added = {"step": resumed_step, **entry}
        content = content | {"resumed": [added]} if first is None else _with_resumed(first, added)
    try:
        files.write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def versions() -> dict[str, str | None]:
    """Installed versions by short name; None for a package that is not installed."""
    found: dict[str, str | None] = {}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """``{"commit", "dirty"}`` of the checkout that tracks `folder`; None outside one or without git."""
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    # An installed package may lie in a folder that some checkout ignores: that commit says nothing about it.
    tracked = _git(folder, "ls-tree", "--name-only", "HEAD", "./")
    if commit is None or status is None or not tracked:
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}


def machine() -> dict[str, Any]:
    """Platform, processor and devices of this process; starts JAX's backend."""
    import jax

    devices = jax.devices()
    return {
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": _usable_cores(),
        "cpu_flags": cpu_flags(),
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
    }


def cpu_model() -> str:
    """The processor's name as the system says it."""
    return _cpu_line("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Which of the instruction sets that matter for matrix products this CPU reports."""
    reported = set((_cpu_line("flags") or _cpu_line("Features")).split())
    return [flag for flag in _CPU_FLAGS if flag in reported]


def _cpu_line(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    named = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in named if name.strip() == field), "")


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _git(folder: Path, *arguments: str) -> str | None:
    # No optional locks: a look must not touch the index of a checkout that somebody works in.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _read(path: str) -> dict[str, Any] | None:
    """The saved content; None, with a warning, where it is missing or unreadable: no run fails for it."""
    try:
        content = json.loads(files.read_text(path))
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read and is written anew: %s", path, error)
        return None
    return content if isinstance(content, dict) else None


def _with_resumed(first: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    earlier = first.get("resumed")
    return first | {"resumed": [*(earlier if isinstance(earlier, list) else []), added]}
