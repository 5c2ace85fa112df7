"""The launcher, with children that are plain Python: logs, signals, failures, restarts. No JAX anywhere."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtune.parallel.distributed import COORDINATOR, PROCESS, PROCESSES
from jaxtune.parallel.launch import environment_of, main

LAUNCH = [sys.executable, "-m", "jaxtune.parallel.launch"]
CHILD = """
import os, signal, sys, time
p = int(os.environ["JAXTUNE_PROCESS"])
def ready():
    print("ready", flush=True)
"""


def launch(code: str, *options: str, count: int = 3) -> subprocess.Popen[str]:
    command = [*LAUNCH, "--processes", str(count), *options, "--", sys.executable, "-c", CHILD + code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], line: str, times: int) -> str:
    """What it prints until a line has come so often."""
    assert process.stdout is not None
    read = ""
    while read.count(line) < times:
        read += (got := process.stdout.readline())
        assert got, read
    return read


def finish(code: str, *options: str, count: int = 3) -> tuple[int, str, str]:
    process = launch(code, *options, count=count)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_every_process_knows_its_number_and_its_lines_carry_it():
    code = "print('number', p, 'of', os.environ['JAXTUNE_PROCESSES']); print('half', end='', file=sys.stderr)"
    status, out, err = finish(code)
    assert status == 0
    assert sorted(out.splitlines()) == [f"[{p}] number {p} of 3" for p in range(3)]
    assert sorted(err.splitlines()) == [f"[{p}] half" for p in range(3)]


def test_one_coordinator_and_devices_for_each():
    made = [
        environment_of(
            {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_a=b"}, p, 2, "127.0.0.1:5", 2
        )
        for p in range(2)
    ]
    assert [(e[COORDINATOR], e[PROCESSES], e[PROCESS]) for e in made] == [
        ("127.0.0.1:5", "2", "0"),
        ("127.0.0.1:5", "2", "1"),
    ]
    assert made[0]["XLA_FLAGS"].split() == ["--xla_a=b", "--xla_force_host_platform_device_count=2"]
    assert made[0]["JAX_PLATFORMS"] == "cpu"
    assert environment_of({"JAX_PLATFORMS": "cuda"}, 0, 2, "h:1", None)["JAX_PLATFORMS"] == "cuda"


def test_it_needs_neither_jax_nor_numpy():
    code = "import sys, jaxtune.parallel.launch; print({'jax', 'numpy', 'jaxlib', 'flax'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


def test_one_that_fails_stops_the_others_and_gives_the_exit_status():
    code = "ready()\nif p == 1:\n    sys.exit(7)\ntime.sleep(60)"
    start = time.monotonic()
    status, _, err = finish(code)
    assert status == 7
    assert "[launch] process 1 ended with exit status 7" in err
    assert time.monotonic() - start < 30


def test_a_killed_process_is_named_with_its_signal():
    process = launch("print('pid', p, os.getpid(), flush=True)\ntime.sleep(60)")
    lines = wait_for(process, "pid", 3).splitlines()
    victim = next(int(line.split()[-1]) for line in lines if line.startswith("[2]"))
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "[launch] process 2 was ended by SIGKILL" in err
    assert "process 0" not in err  # it did not fail, it was stopped


def test_one_that_ignores_sigterm_is_killed_after_the_grace():
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN) if p == 0 else None\nready()\nif p == 2:\n    time.sleep(0.5); sys.exit(3)\ntime.sleep(60)"
    status, _, err = finish(code, "--grace", "0.5")
    assert status == 3
    assert "process 0 did not end within 0.5 s of SIGTERM; killed" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_all_and_preempted_is_75(number):
    code = f"signal.signal({int(number)}, lambda *_: sys.exit(75))\nready()\ntime.sleep(60)"
    process = launch(code, "--restarts", "3")
    wait_for(process, "ready", 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"[launch] {number.name}: passed on to all processes" in err
    assert "restart" not in err  # who stops the launcher does not want it to go on
    assert out == ""


def test_preempted_processes_are_started_again_until_they_are_done(tmp_path):
    code = f"""
mark = {str(tmp_path)!r} + f"/{{p}}-"
seen = len([name for name in os.listdir({str(tmp_path)!r}) if name.startswith(f"{{p}}-")])
open(mark + str(seen), "w").close()
sys.exit(75 if seen < 2 else 0)
"""
    status, _, err = finish(code, "--restarts", "5", count=2)
    assert status == 0
    assert err.count("[launch] ended with exit status 75; restart") == 2
    assert len(list(Path(tmp_path).iterdir())) == 2 * 3


def test_restarts_are_counted_and_other_failures_are_no_reason():
    status, _, err = finish("sys.exit(75)", "--restarts", "1", count=2)
    assert (status, err.count("restart 1 of 1")) == (75, 1)
    status, _, err = finish("sys.exit(2)", "--restarts", "1", count=2)
    assert (status, "restart" in err) == (2, False)
    status, _, err = finish("sys.exit(76)", "--restarts", "1", "--restart-on", "75", "76", count=2)
    assert (status, err.count("restart 1 of 1")) == (76, 1)


def test_those_that_do_not_follow_a_preempted_one_are_stopped():
    code = "ready()\nif p == 0:\n    sys.exit(75)\ntime.sleep(60)"
    status, _, err = finish(code, "--grace", "0.5")
    assert status == 75
    assert "process 0 ended with exit status 75: it was asked to stop and saved" in err
    assert "the others have not followed within 0.5 s and are stopped" in err


def test_a_command_that_is_not_there_and_one_that_is_not_given(capsys):
    assert main(["--processes", "2", "--", "/nowhere/command"]) == 127
    assert "process 0 could not be started: /nowhere/command" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["--processes", "2"])
    assert left.value.code == 2
    assert "put it after --" in capsys.readouterr().err
