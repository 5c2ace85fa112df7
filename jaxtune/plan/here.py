"""``python -m jaxtune.plan.here``: prints the devices of this machine as JSON, in a process that lets go of them again.

A process that has asked for TPUs or GPUs holds them until it ends, and each mesh is run in a process of its own.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import jax

from jaxtune.errors import RunError
from jaxtune.plan.topologies import Topology, topology_here


def devices_here(limit: float) -> Topology:
    """The devices of this machine, as another process sees them.

    Args:
        limit: seconds to wait for them.

    Raises:
        RunError: JAX finds none, or does not answer.
    """
    command = [sys.executable, "-m", "jaxtune.plan.here"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"JAX did not name its devices within {limit:.0f} s; is another process using them?"
        ) from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        raise RunError(f"JAX cannot use the devices of this machine: {last[0]}")
    return Topology(**json.loads(done.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(topology_here(jax.devices()))))
