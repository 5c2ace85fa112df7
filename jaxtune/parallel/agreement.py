"""What the processes of a run agree on: what one decided, that all are well, that all run the same.

Everything goes as text through the coordinator that JAX's run time has anyway, and not through the devices:
it works before they are touched, every wait has a time-out, and the error names the process that did not come.
Each question costs the coordinator one message to and from each process.
"""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jaxtune import errors, files
from jaxtune.errors import ConfigError, JaxtuneError, ProcessError, RunError

WAIT_SECONDS = 3600.0
"""A process that ends is noticed by its heartbeat; this is for one that goes on and does not come."""
_SHARED_SECONDS = 10.0
_SHOWN = 5
_PREFIX = "jaxtune"

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class _Absent(ProcessError):
    """A process did not come in time."""


class Store(Protocol):
    """Text by key that all processes see: what JAX's client of the coordinator offers of it."""

    def key_value_set(self, key: str, value: str) -> None:
        """Set a key, once."""

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        """The value of a key, as soon as it is there. Raises an error after the time-out."""

    def key_value_delete(self, key: str) -> None:
        """Forget a key and all keys below it."""


class Processes:
    """The processes of a run as one of them sees them. All of them must ask the same questions in the same order.

    Attributes:
        index: number of this process.
        count: how many there are.
    """

    def __init__(
        self, index: int = 0, count: int = 1, store: Store | None = None, wait: float = WAIT_SECONDS
    ) -> None:
        if count > 1 and store is None:
            raise ValueError("several processes need a store to talk through")
        self.index, self.count = index, count
        self._store, self._wait = store, wait
        self._asked = 0

    @classmethod
    def here(cls) -> Processes:
        """Those of JAX's run time; a single process where it was not started."""
        import jax
        from jax._src import distributed  # the client is not public; Orbax reads it here too

        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            return cls()
        return _of_client(jax.process_index(), jax.process_count(), distributed.global_state.client)

    @property
    def first(self) -> bool:
        """Whether this is the process that decides, writes and speaks."""
        return self.index == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def gather(self, name: str, value: Any) -> list[Any]:
        """The value of each process, in every process.

        Args:
            name: what it is about, for the error of a process that waits in vain.
            value: whatever JSON can hold.

        Raises:
            ProcessError: a process did not come in time, or came with another question.
            JaxtuneError: a process failed before it came here; see ``together``.
        """
        if not self.several:
            return [value]
        answers = self._ask(name, {"name": name, "value": value})
        failed = [(process, a["failed"]) for process, a in enumerate(answers) if "failed" in a]
        if failed:
            process, (kind, text) = failed[0]
            raise _told(_error_like(kind, f"process {process} of {self.count} stopped: {text}"))
        names = [answer["name"] for answer in answers]
        if len(set(names)) > 1:
            raise _Absent(f"the processes went apart, each is at another place: {', '.join(names)}")
        return [answer["value"] for answer in answers]

    def meet(self, name: str) -> None:
        """Go on when all processes are here. Raises ProcessError."""
        self.gather(name, None)

    def decide(self, name: str, work: Callable[[], T]) -> T:
        """What the first process finds or does; its answer, or its error, in every process.

        Args:
            work: run by the first process alone; gives what JSON can hold.

        Raises:
            JaxtuneError: of the first process's work.
        """
        if not self.several:
            return work()
        answer: Any = None
        with self._tells(name):
            answer = work() if self.first else None
        return self.gather(name, answer)[0]

    @contextmanager
    def together(self, name: str) -> Iterator[None]:
        """Work that all processes do: where it fails in one, all raise.

        The process that failed raises its own error. The others raise one of the same kind that names it, at
        the end or at the next question they ask on the way.
        """
        if not self.several:
            yield
            return
        with self._tells(name):
            yield
        self.gather(name, None)

    @contextmanager
    def _tells(self, name: str) -> Iterator[None]:
        """Tell an error to the others, once, as the answer to whatever question they are at."""
        try:
            yield
        except _Absent:
            raise  # nobody is left to be told
        except Exception as error:
            if not _is_told(error):
                self._ask(name, {"failed": [type(error).__name__, str(error)]})
                _told(error)
            raise

    def _ask(self, name: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
        """The answers of all to the next question."""
        store, place = self._next()
        if self.first:
            answers = [answer]
            for other in range(1, self.count):
                answers.append(json.loads(self._get(f"{place}/{other}", name, other)))
            store.key_value_set(f"{place}/all", json.dumps(answers))
            return answers
        store.key_value_set(f"{place}/{self.index}", json.dumps(answer))
        return json.loads(self._get(f"{place}/all", name, 0))

    def compare(self, what: str, facts: Mapping[str, str]) -> None:
        """Check that all processes have the same facts.

        Raises:
            ConfigError: they do not; names what differs, both values and both processes.
        """
        if not self.several:
            return
        shown = {name: value if len(value) <= 200 else _digest(value) for name, value in facts.items()}
        expected = self.decide(what, lambda: shown)
        names = [*expected, *(name for name in shown if name not in expected)]
        absent = "(nothing)"
        mine = [
            f"{name}: {expected.get(name, absent)} in process 0, {shown.get(name, absent)} in process {self.index}"
            for name in names
            if expected.get(name) != shown.get(name)
        ]
        lines = [line for told in self.gather(what, mine[: _SHOWN + 1]) for line in told]
        if lines:
            more = ["…"] if len(lines) > _SHOWN else []
            raise ConfigError(
                f"the {self.count} processes of this run do not have the same {what}:\n  "
                + "\n  ".join(lines[:_SHOWN] + more)
                + "\nStart all of them with the same command, configuration, data and versions."
            )

    def check_shared(self, folder: str) -> None:
        """Check that a folder is one and the same for all processes.

        The first process leaves a token in it, which the others look for.

        Raises:
            RunError: names the processes, with their hosts, that do not see it.
        """
        if not self.several:
            return
        # Named as the temporary file of a write, which a run directory knows for no file of its own.
        made = f".shared.{int(time.time())}-{_digest(f'{socket.gethostname()} {time.time_ns()}')[:8]}.tmp"
        token = self.decide("shared folder", lambda: made)
        path = files.join(folder, token)
        try:
            self.decide("shared folder", lambda: files.write_text(path, "May be removed.\n"))
            blind = None if _appears(path) else socket.gethostname()
            hosts = self.gather("shared folder", blind)
        finally:
            if self.first:
                files.remove(path)
        unshared = [f"process {p} on {host}" for p, host in enumerate(hosts) if host is not None]
        if unshared:
            raise RunError(
                f"{files.absolute(folder)} of process 0 on {self.decide('host', socket.gethostname)} is not the folder "
                f"that {', '.join(unshared)} would write to; all processes need the same one. Give an --output on a "
                "file system that they share, or a remote one (gs://…)."
            )

    def _next(self) -> tuple[Store, str]:
        assert self._store is not None
        self._asked += 1
        if self.first and self._asked > 2:
            # Whoever answers a question has read the answers of the one before it.
            self._store.key_value_delete(f"{_PREFIX}/{self._asked - 2}")
        return self._store, f"{_PREFIX}/{self._asked}"

    def _get(self, key: str, name: str, whose: int) -> str:
        assert self._store is not None
        try:
            return self._store.blocking_key_value_get(key, int(self._wait * 1000))
        except Exception as error:
            raise _Absent(
                f"process {self.index} of {self.count} waited for process {whose} at {name!r} in vain "
                f"(at most {self._wait:,.0f} s): {_first_line(error)}. The log of process {whose} says where it is."
            ) from error


def code_facts(versions: Mapping[str, str | None]) -> dict[str, str]:
    """What decides what a process computes: versions of packages, and the text of our own code.

    Args:
        versions: by package; None for one that is not installed.
    """
    return {
        "python": platform.python_version(),
        **{f"version of {name}": str(version) for name, version in versions.items()},
        "code of jaxtune": _code_digest(),
    }


def flat_facts(section: str, tree: Mapping[str, Any]) -> dict[str, str]:
    """``{"train": {"steps": 3}}`` as ``{"train.steps": "3"}``, each name below ``section`` if there is one."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        path = f"{section}.{name}" if section else name
        found |= flat_facts(path, value) if isinstance(value, Mapping) else {path: repr(value)}
    return found


@cache
def _of_client(index: int, count: int, client: Any) -> Processes:
    """One per connection: questions are numbered, so two beside each other would ask the same ones."""
    return Processes(index, count, client)


@cache
def _code_digest() -> str:
    package = Path(errors.__file__).parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _appears(path: str) -> bool:
    """Whether a file is there, or comes within the time a network file system may need to show it."""
    deadline = time.monotonic() + _SHARED_SECONDS
    while True:
        files.list_dir(files.parent(path))  # makes a network file system look again
        if files.exists(path):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def _error_like(kind: str, message: str) -> Exception:
    """An error of the user's in its own class, anything else as an error of that process."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, JaxtuneError):
        return found(message)
    return ProcessError(f"{message} ({kind}; its own log has the details)")


def _told(error: E) -> E:
    error.__dict__["_jaxtune_told"] = True
    return error


def _is_told(error: BaseException | None) -> bool:
    """Whether the others know of it, or of what it was raised from."""
    while error is not None:
        if "_jaxtune_told" in error.__dict__:
            return True
        error = error.__cause__
    return False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
