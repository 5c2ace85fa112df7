"""``--smoke``: does a preset run from its first line to its last? Offline, on any machine, in seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jaxtune.config import Experiment

FLAG = "--smoke"
HELP = (
    f"With {FLAG}, after the preset, a two-layer random model trains eight steps on some thirty rows that come with "
    "jaxtune, in the columns that the preset names: a test of the whole path, offline, in seconds."
)


def run_smoke(experiment: Experiment, *, keep: bool) -> int:
    """Train a small copy of an experiment, print its metric, and return the exit status.

    Args:
        keep: leave the run in ``experiment.output``; it is thrown away otherwise.

    Raises:
        JaxtuneError: what the preset itself would fail with.
    """
    from jaxtune.training.smoke import smoke_experiment
    from jaxtune.training.stop_signals import exit_code
    from jaxtune.training.train import train

    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jaxtune-smoke-") as folder, _own_cache(folder):
        small = smoke_experiment(experiment, Path(folder))
        if keep:
            small = dataclasses.replace(small, output=experiment.output)
        run = train(small)
        if run.interrupted is not None:
            return exit_code(experiment, run.interrupted)
        metric, results = run.results["metric"], run.results["splits"]["test"]
    shown = {name: results.get(name) for name in dict.fromkeys((metric, "loss"))}
    values = ", ".join(f"{name} {'none' if v is None else format(v, '.4f')}" for name, v in shown.items())
    print(f"{small.name}: test {values} ({time.monotonic() - begun:.0f} s)")
    return 0


@contextlib.contextmanager
def _own_cache(folder: str) -> Iterator[None]:
    """Tokenised rows of a smoke run are nothing that a cache should keep."""
    name = "JAXTUNE_CACHE"
    before = os.environ.get(name)
    os.environ[name] = str(Path(folder) / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
