"""JAX's profiler server, which tpu/profile.sh asks for a trace."""

from __future__ import annotations

import os

import jax

PORT = "JAXTUNE_PROFILER_PORT"
_started: list[int] = []


def start_profiler_server() -> None:
    """Open the port that the environment names, if it names one; once a process, when the devices are known."""
    port = os.environ.get(PORT, "")
    if port and not _started:
        jax.profiler.start_server(int(port))
        _started.append(int(port))
