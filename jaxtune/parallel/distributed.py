"""The start and the end of one process of several, through JAX's multi-controller run time.

Each process runs the same program and drives all devices of its host; the first one (number 0) also serves
as the coordinator through which they find each other (https://docs.jax.dev/en/latest/multi_process.html).
This module imports JAX only where several processes are asked for, so that the launcher can read it.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from jaxtune.errors import ConfigError, ProcessError

COORDINATOR = "JAXTUNE_COORDINATOR"
"""``HOST:PORT`` of the first process, in the environment of each."""
PROCESSES = "JAXTUNE_PROCESSES"
"""How many processes there are."""
PROCESS = "JAXTUNE_PROCESS"
"""Which of them this one is, from 0."""

HEARTBEAT_SECONDS = 30
"""A process that was not heard of for so long is dead to the others, and they end too (JAX's default is 100)."""
LOST_EXIT_CODE = 76
"""Another process went, or no step finished in time: the same command goes on from the last checkpoint."""
_START_SECONDS = 300
_SHUTDOWN_SECONDS = 60
_LEAVE_SECONDS = 5
_LOCAL = ("127.0.0.1", "localhost", "::1")

logger = logging.getLogger(__name__)


def start_distributed(
    environment: Mapping[str, str] | None = None, *, start_seconds: int = _START_SECONDS
) -> bool:
    """Join the other processes of this run, if there are any; before anything touches a device.

    The three variables ``JAXTUNE_COORDINATOR``, ``JAXTUNE_PROCESSES`` and ``JAXTUNE_PROCESS`` say so aloud;
    TPU VMs and Slurm are recognised by JAX itself. Calls after the first do nothing.

    Args:
        environment: where the variables are looked up; none is this process's own.
        start_seconds: how long to wait for the other processes.

    Returns:
        whether this process is one of several.

    Raises:
        ConfigError: the variables contradict each other or cannot be read.
        ProcessError: the others did not come, or a device was in use already.
    """
    environment = os.environ if environment is None else environment
    given = read_environment(environment)
    found = given if given is not None else _cluster(environment)
    if found is None:
        return False
    import jax

    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    # Without it processes on CPUs do not see each other's devices; other platforms do not read it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            **found,
            initialization_timeout=start_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except Exception as error:
        raise ProcessError(_no_start(found, start_seconds, error)) from error
    if jax.process_index() > 0:
        # What all processes would say is said once, by the first.
        logging.getLogger("jaxtune").setLevel(logging.ERROR)
    return jax.process_count() > 1


def read_environment(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of ``jax.distributed.initialize`` from our three variables; None where there are none.

    Raises:
        ConfigError: some are missing, or one has no sense.
    """
    names = (COORDINATOR, PROCESSES, PROCESS)
    missing = [name for name in names if not environment.get(name)]
    if len(missing) == len(names):
        return None
    if missing:
        raise ConfigError(
            f"the environment has {', '.join(name for name in names if name not in missing)}, but not "
            f"{', '.join(missing)}; several processes need all three, a single one needs none"
        )
    coordinator = environment[COORDINATOR]
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError(
            f"{COORDINATOR} is {coordinator!r}; expected HOST:PORT of process 0, as 10.0.0.1:8476"
        )
    count = _number(environment, PROCESSES)
    process = _number(environment, PROCESS)
    if count < 1:
        raise ConfigError(f"{PROCESSES} is {count}; expected at least 1")
    if process >= count:
        raise ConfigError(f"{PROCESS} is {process}; expected 0 to {count - 1}, since {PROCESSES} is {count}")
    if count == 1:
        return None
    # A port of one machine's processes need not be open to the network.
    bind = {"coordinator_bind_address": coordinator} if host.strip("[]") in _LOCAL else {}
    return {
        "coordinator_address": coordinator,
        "num_processes": count,
        "process_id": process,
        "local_device_ids": [],  # all of this host
        **bind,
    }


def as_process(work: Callable[[], int]) -> int:
    """Run a command to its exit status; one of several processes that fails ends at once.

    Python's end would wait for the others in JAX's shutdown, and then abort: its exit status would be lost,
    and the others would hear of it a minute later.
    """
    try:
        status = work()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if _client() is None or status == 0:
            raise
    except BaseException:
        if _client() is None:
            raise
        traceback.print_exc()
        status = 1
    if _client() is not None and status not in (0, None):
        _leave(status)
    return status


def _leave(status: int) -> None:
    """End with this status, together with the others where they fail too, else alone; may return in the first case."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    client = _client()
    assert client is not None
    if status != LOST_EXIT_CODE:
        with suppress(Exception):
            client.wait_at_barrier("jaxtune/leaving", _LEAVE_SECONDS * 1000)
            return
    os._exit(status)


def _client() -> Any:
    """JAX's connection to the coordinator: strings by key and barriers, all with time-outs, without a device.

    Not public in JAX; Orbax goes through it as well. None in a single process.
    """
    module = sys.modules.get("jax._src.distributed")
    return None if module is None else module.global_state.client


def _cluster(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What JAX finds out by itself: Slurm with several tasks, or a TPU VM."""
    tasks = environment.get("SLURM_NTASKS", "1")
    if tasks != "1" and all(environment.get(name) for name in ("SLURM_STEP_NODELIST", "SLURM_PROCID")):
        # One task a host drives all its GPUs; JAX would give each task one.
        alone = environment.get("SLURM_STEP_NUM_NODES") == tasks
        return {"cluster_detection_method": "slurm", **({"local_device_ids": []} if alone else {})}
    platforms = environment.get("JAX_PLATFORMS", "tpu").split(",")
    return {} if "tpu" in platforms and _on_tpu_vm() else None


def _on_tpu_vm() -> bool:
    import importlib.util

    if importlib.util.find_spec("libtpu") is None:
        return False
    from jax._src import cloud_tpu_init

    return bool(getattr(cloud_tpu_init, "running_in_cloud_tpu_vm", False))


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{name} is {text!r}; expected a whole number")
    return int(text)


def _no_start(found: Mapping[str, Any], seconds: int, error: Exception) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else type(error).__name__
    if "process_id" not in found:
        return f"the processes of this run could not be found: {first}"
    return (
        f"process {found['process_id']} of {found['num_processes']} could not join the others at "
        f"{found['coordinator_address']} within {seconds} s: {first}. Start all processes, and check that the "
        "address is that of process 0 and that its port is open."
    )
