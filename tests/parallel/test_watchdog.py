"""The watchdog bites what hangs, and nothing else."""

import subprocess
import sys
import time

from jaxtune.parallel.distributed import LOST_EXIT_CODE
from jaxtune.parallel.watchdog import Watchdog


def wait_until(bites: list[str], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not bites and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_step_that_does_not_finish_is_named_by_the_one_before():
    bites: list[str] = []
    with Watchdog(0.2, bite=bites.append) as dog:
        dog.step_done(7)
        wait_until(bites)
    assert len(bites) == 1
    assert "a step has not finished" in bites[0]
    assert "step 7" in bites[0]


def test_steps_that_finish_keep_it_quiet():
    bites: list[str] = []
    with Watchdog(2.0, bite=bites.append) as dog:
        start = time.monotonic()
        while time.monotonic() - start < 3.0:  # longer than the limit
            dog.step_done(1)
            time.sleep(0.05)
    assert bites == []


def test_what_is_no_step_has_a_longer_limit_of_its_own():
    bites: list[str] = []
    with Watchdog(0.1, bite=bites.append, long_seconds=60) as dog, dog.busy("the evaluation"):
        time.sleep(0.5)
        assert bites == []
    with Watchdog(0.1, bite=bites.append, long_seconds=0.3) as dog, dog.busy("the evaluation"):
        wait_until(bites)
    assert "the evaluation has not finished" in bites[0]


def test_after_it_the_limit_of_a_step_holds_again():
    bites: list[str] = []
    with Watchdog(0.2, bite=bites.append, long_seconds=60) as dog:
        with dog.busy("compiling"):
            pass
        wait_until(bites)
    assert "a step has not finished" in bites[0]


def test_without_a_limit_there_is_no_thread():
    with Watchdog(None) as dog, dog.busy("saving"):
        dog.step_done(1)
        assert dog._thread is None


HANGS = """
import threading
from jaxtune.parallel.watchdog import Watchdog
def where_it_hangs():
    threading.Event().wait()
with Watchdog(0.2):
    where_it_hangs()
"""


def test_a_process_that_hangs_shows_its_stacks_and_ends_with_its_status():
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60)
    assert done.returncode == LOST_EXIT_CODE == 76
    assert "watchdog: a step has not finished" in done.stderr
    assert "where_it_hangs" in done.stderr
