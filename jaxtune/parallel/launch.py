"""Several processes of one program on one machine: ``python -m jaxtune.parallel.launch --processes 4 -- COMMAND``.

Starts them with a coordinator on a free port, shows their output line by line with the number of the process,
passes SIGTERM and SIGINT on to all, and stops all when one ends badly. Imports neither JAX nor NumPy.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import IO

from jaxtune.parallel.distributed import COORDINATOR, PROCESS, PROCESSES

PREEMPTED = 75
"""Exit status of a run that saved because it was asked to stop."""
GRACE_SECONDS = 25.0
_COLOURS = (36, 33, 32, 35, 34, 31)
_DEVICES = "--xla_force_host_platform_device_count"
_POLL_SECONDS = 0.05

Say = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Start the processes, again if that is asked for, and return the exit status of the first that failed."""
    options = _parse(sys.argv[1:] if argv is None else list(argv))
    say = _Output(sys.stderr).writer("launch")
    for start in range(options.restarts + 1):
        group = Group(options.command, options.processes, options.devices_per_process, grace=options.grace)
        status = group.run()
        if (
            status == 0
            or group.asked_to_stop
            or status not in options.restart_on
            or start == options.restarts
        ):
            return status
        say(f"ended with exit status {status}; restart {start + 1} of {options.restarts}")
    raise AssertionError("the last start returns")


class Group:
    """The processes of one start.

    Args:
        command: what each of them runs.
        devices: CPU devices of each; none leaves that to the environment.
        grace: seconds between SIGTERM and SIGKILL, and for the others to follow one that was preempted.
    """

    def __init__(
        self, command: Sequence[str], count: int, devices: int | None = None, *, grace: float = GRACE_SECONDS
    ) -> None:
        self._command, self._count, self._devices, self._grace = list(command), count, devices, grace
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._ended: dict[int, int] = {}
        self._first_failure: tuple[int, int] | None = None
        self._signals: list[signal.Signals] = []
        self._deadline: float | None = None
        self._terminated = self._killed = False
        self._say: Say = _Output(sys.stderr).writer("launch")

    @property
    def asked_to_stop(self) -> bool:
        """Whether the launcher itself was told to stop."""
        return bool(self._signals)

    def run(self) -> int:
        """Start all, wait for all; 0 if all ended with 0, else what the first that failed ended with."""
        previous = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._start()
            passed = 0
            while len(self._ended) < self._count:
                for number in self._signals[passed:]:
                    self._pass_on(number)
                passed = len(self._signals)
                self._collect()
                self._enforce()
                time.sleep(_POLL_SECONDS)
        finally:
            self._kill()
            for thread in self._threads:
                thread.join()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return _status(self._first_failure[1]) if self._first_failure is not None else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(signal.Signals(number))

    def _start(self) -> None:
        coordinator = f"127.0.0.1:{free_port()}"
        outputs = _Output(sys.stdout), _Output(sys.stderr)
        for i in range(self._count):
            try:
                process = subprocess.Popen(
                    self._command,
                    env=environment_of(os.environ, i, self._count, coordinator, self._devices),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # a Ctrl-C reaches it once, through us
                )
            except OSError as error:
                self._say(f"process {i} could not be started: {self._command[0]}: {error.strerror}")
                self._first_failure = self._first_failure or (i, 127)
                self._count = i
                self._terminate("the others are stopped")
                return
            self._processes.append(process)
            for stream, output in zip((process.stdout, process.stderr), outputs):
                assert stream is not None
                thread = threading.Thread(
                    target=_copy_lines, args=(stream, output.writer(str(i))), daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def _collect(self) -> None:
        """Note the processes that have ended since the last look."""
        for i, process in enumerate(self._processes):
            code = None if i in self._ended else process.poll()
            if code is None:
                continue
            self._ended[i] = code
            if code == 0 or (self._first_failure is not None and self._terminated):
                continue
            self._say(f"process {i} {_how(code)}")
            if self._first_failure is not None:
                continue
            self._first_failure = (i, code)
            self._deadline = time.monotonic() + self._grace
            if code != PREEMPTED:
                # Its peers cannot go on without it, nor save.
                self._terminate("the others are stopped")

    def _enforce(self) -> None:
        """SIGTERM, then SIGKILL, when the time of what is left has come."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if self._terminated:
            left = ", ".join(str(i) for i in range(self._count) if i not in self._ended)
            if left and not self._killed:
                self._say(f"process {left} did not end within {self._grace:g} s of SIGTERM; killed")
            self._kill()
        else:
            self._terminate(f"the others have not followed within {self._grace:g} s and are stopped")

    def _pass_on(self, number: signal.Signals) -> None:
        self._say(f"{number.name}: passed on to all processes")
        self._send(number)
        self._deadline, self._terminated = time.monotonic() + self._grace, True

    def _terminate(self, why: str) -> None:
        if len(self._ended) < self._count:
            self._say(why)
        self._send(signal.SIGTERM)
        self._deadline, self._terminated = time.monotonic() + self._grace, True

    def _send(self, number: signal.Signals) -> None:
        for i, process in enumerate(self._processes):
            if i not in self._ended:
                process.send_signal(number)

    def _kill(self) -> None:
        self._killed = True
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it started itself


def environment_of(
    environment: Mapping[str, str], process: int, count: int, coordinator: str, devices: int | None
) -> dict[str, str]:
    """The environment of one process. On one machine they share its CPU, unless ``JAX_PLATFORMS`` says otherwise."""
    made = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
        **environment,
        COORDINATOR: coordinator,
        PROCESSES: str(count),
        PROCESS: str(process),
    }
    if devices is not None:
        flags = re.sub(rf"{_DEVICES}=\S*", "", made.get("XLA_FLAGS", ""))
        made["XLA_FLAGS"] = f"{flags} {_DEVICES}={devices}".strip()
    return made


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Output:
    """A stream that whole lines of several threads go to."""

    _lock = threading.Lock()

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._coloured = stream.isatty() and "NO_COLOR" not in os.environ

    def writer(self, name: str) -> Say:
        """Writes lines that begin with ``[name]``."""
        prefix = f"[{name}] "
        if self._coloured:
            colour = _COLOURS[int(name) % len(_COLOURS)] if name.isdigit() else 1
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"

        def write(text: str) -> None:
            with self._lock:
                try:
                    self._stream.write(f"{prefix}{text}\n")
                    self._stream.flush()
                except (BrokenPipeError, ValueError):
                    pass  # nobody reads any more: the processes go on

        return write


def _copy_lines(stream: IO[bytes], write: Say) -> None:
    with stream:
        for line in stream:
            write(line.decode("utf-8", "replace").rstrip("\r\n"))


def _status(code: int) -> int:
    """As a shell has it: 128 and the number of the signal that ended it."""
    return code if code >= 0 else 128 - code


def _how(code: int) -> str:
    if code == PREEMPTED:
        return f"ended with exit status {code}: it was asked to stop and saved"
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _parse(argv: list[str]) -> argparse.Namespace:
    own, _, command = _split(argv)
    parser = argparse.ArgumentParser(
        prog="python -m jaxtune.parallel.launch",
        usage="%(prog)s --processes N [options] -- COMMAND …",
        description="Start several processes of one run on this machine.",
        epilog="Example: python -m jaxtune.parallel.launch --processes 4 -- jaxtune train --config experiment.yaml",
    )
    parser.add_argument("--processes", type=_positive, required=True, help="how many")
    parser.add_argument("--devices-per-process", type=_positive, help="CPU devices of each (default: one)")
    parser.add_argument(
        "--restarts", type=int, default=0, help="start all again at most so many times (default: 0)"
    )
    parser.add_argument(
        "--restart-on",
        type=int,
        nargs="+",
        default=[PREEMPTED],
        metavar="STATUS",
        help=f"exit statuses after which they are started again (default: {PREEMPTED}, preempted)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        help=f"seconds between SIGTERM and SIGKILL (default: {GRACE_SECONDS:g})",
    )
    options = parser.parse_args(own)
    if not command:
        parser.error("no command is given; put it after --, as: -- jaxtune train --config experiment.yaml")
    options.command = command
    return options


def _split(argv: list[str]) -> tuple[list[str], str, list[str]]:
    if "--" not in argv:
        return argv, "", []
    at = argv.index("--")
    return argv[:at], "--", argv[at + 1 :]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
