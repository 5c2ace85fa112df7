"""Workers: one process per mesh, with a time limit, several side by side where cores and memory allow."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxtune.errors import ConfigError, RunError
from jaxtune.plan.compiled import Compiled
from jaxtune.plan.jobs import Job

MEMORY_OF_A_WORKER = 3 * 2**30
"""Bytes that the host should have for each: Llama-3-8B on 256 chips takes 1.8 GiB."""
_LAST_LINES = 12

Done = Callable[[int, Compiled], None]


def default_workers() -> int:
    """How many side by side: one per core and 3 GiB of free memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _free_memory() // MEMORY_OF_A_WORKER))


def compile_all(
    jobs: Sequence[Job], environment: Mapping[str, str], *, workers: int, limit: float, done: Done
) -> list[Compiled]:
    """What became of each job, in order.

    Args:
        environment: of the workers, beside this process's own.
        limit: seconds after which one is killed.
        done: called with the place of a job and its result, as each ends.

    Raises:
        ConfigError: the experiment goes with none of the meshes; the first such message. Where it goes with some, the
            others are results with ``error``.
    """
    found: dict[int, Compiled] = {}
    refused: list[ConfigError] = []
    with Workers(environment, limit) as pool, concurrent.futures.ThreadPoolExecutor(workers) as threads:
        pending = {threads.submit(pool.run, job): place for place, job in enumerate(jobs)}
        try:
            for future in concurrent.futures.as_completed(pending):
                place = pending[future]
                try:
                    found[place] = future.result()
                except ConfigError as error:
                    refused.append(error)
                    found[place] = Compiled(_sizes(jobs[place]), error=str(error))
                done(place, found[place])
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            pool.kill()
            raise
    if refused and len(refused) == len(jobs):
        raise refused[0]
    return [found[place] for place in range(len(jobs))]


class Workers:
    """The processes that are running, so that none outlives the plan."""

    def __init__(self, environment: Mapping[str, str], limit: float) -> None:
        self._environment = {**os.environ, **environment}
        self._limit = limit
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End them all, at once."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _kill_group(process)

    def run(self, job: Job) -> Compiled:
        """The result of one job; a worker that dies or takes too long is a result with ``error``.

        Raises:
            ConfigError: the experiment does not go with the model or the mesh.
            RunError: the workers were ended meanwhile.
        """
        with tempfile.TemporaryDirectory(prefix="jaxtune-plan-") as folder:
            asked, answer, log = (Path(folder) / name for name in ("job.json", "result.json", "log.txt"))
            asked.write_text(json.dumps(job.to_json()), encoding="utf-8")
            with log.open("wb") as output, self._started(asked, answer, output) as process:
                try:
                    status = process.wait(self._limit)
                except subprocess.TimeoutExpired:
                    return Compiled(_sizes(job), error=f"not compiled within {self._limit:.0f} s (--limit)")
            if status == 0 and answer.exists():
                return Compiled.from_json(json.loads(answer.read_text(encoding="utf-8")))
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            message = next((line for line in reversed(said) if line.startswith("error: ")), None)
            if status == 2 and message is not None:
                raise ConfigError(message.removeprefix("error: "))
            return Compiled(_sizes(job), error=_died(status, said))

    @contextlib.contextmanager
    def _started(self, asked: Path, answer: Path, output: object) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "jaxtune.plan.worker", str(asked), str(answer)]
        with self._lock:
            if self._stopped:
                raise RunError("the plan was stopped")
            process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,  # type: ignore[call-overload]
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            yield process
        finally:
            _kill_group(process)
            process.wait()
            with self._lock:
                self._running.discard(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _died(status: int, said: Sequence[str]) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of host memory? fewer --workers)" if status == -signal.SIGKILL else ""
        return f"the compiler's process was ended by {name}{hint}"
    return f"the compiler's process ended with status {status}: " + " | ".join(said[-_LAST_LINES:])


def _sizes(job: Job) -> dict[str, int]:
    mesh = job.experiment.mesh
    sizes = {axis: getattr(mesh, axis) for axis in ("replica", "data", "fsdp", "tensor", "sequence")}
    return {axis: size for axis, size in sizes.items() if isinstance(size, int) and size > 1}


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return MEMORY_OF_A_WORKER
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return MEMORY_OF_A_WORKER if found is None else int(found.split()[1]) * 1024
