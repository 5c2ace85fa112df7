"""tpu/remote/host.sh: what is installed on a TPU host, and how the job's process stands under systemd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.tpu.cloud_stand_in import TPU


def unit_of(cloud) -> dict[str, list[str]]:
    """Values of every key of the unit file."""
    found: dict[str, list[str]] = {}
    for line in (cloud.worker() / "units/jaxtune.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def job_words(cloud, command: str) -> list[str]:
    """The arguments that a program gets through COMMAND, the settings file and job.sh."""
    shown = cloud.folder / "show.py"
    shown.write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    cloud.write_settings(COMMAND=f"{sys.executable} -IS {shown} {command}")
    cloud.script("setup.sh")
    job = cloud.worker() / "opt/jaxtune/job.sh"
    done = subprocess.run(
        ["bash", job], capture_output=True, text=True, env={**os.environ, "BUCKET": "gs://b"}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_command_with_blanks_quotes_and_variables_arrives_as_written(active):
    command = (
        """--name "two words" --text 'it is $BUCKET; "so"' --note it\\'s --output $BUCKET/runs --glob '*'"""
    )
    assert job_words(active, command) == [
        "--name",
        "two words",
        "--text",
        'it is $BUCKET; "so"',
        "--note",
        "it's",
        "--output",
        "gs://b/runs",
        "--glob",
        "*",
    ]


def test_a_command_may_begin_with_variables(active):
    active.write_settings(COMMAND="GREETING='good day' printenv GREETING")
    active.script("setup.sh")
    done = subprocess.run(["bash", active.worker() / "opt/jaxtune/job.sh"], capture_output=True, text=True)
    assert done.stdout == "good day\n"


def test_sigterm_reaches_the_command_itself_and_its_exit_code_comes_back(active):
    program = active.folder / "saves.py"
    program.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    active.write_settings(COMMAND=f"{sys.executable} -IS {program}")
    active.script("setup.sh")
    job = subprocess.Popen(
        ["bash", active.worker() / "opt/jaxtune/job.sh"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGTERM)  # to the main process alone, as KillMode=mixed does
        assert job.wait(timeout=30) == 75
    finally:
        job.kill()


def test_the_unit_gives_time_to_save_and_restarts_on_75(active):
    active.write_settings(STOP_TIMEOUT="45", MAX_RESTARTS="7", PROFILER_PORT="9999")
    active.script("setup.sh")
    unit = unit_of(active)
    prefix = active.worker() / "opt/jaxtune"
    assert unit["ExecStart"] == [f"/bin/bash {prefix}/job.sh"]
    assert unit["TimeoutStopSec"] == ["45"]
    assert (unit["KillMode"], unit["KillSignal"]) == (["mixed"], ["SIGTERM"])
    assert unit["Restart"] == ["on-failure"]  # not on 0
    assert unit["RestartForceExitStatus"] == ["75"]
    assert unit["StartLimitBurst"] == ["7"]
    assert unit["LimitMEMLOCK"] == ["infinity"]
    assert unit["WantedBy"] == ["multi-user.target"]  # after a reboot of the host
    environment = dict(entry.split("=", 1) for entry in unit["Environment"])
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "gs://my-bucket/jaxtune/jax-cache"
    assert environment["JAX_PLATFORMS"] == "tpu,cpu"
    assert environment["BUCKET"] == "gs://my-bucket/jaxtune"
    assert environment["JAXTUNE_PROFILER_PORT"] == "9999"
    assert environment["PATH"].startswith(f"{prefix}/venv/bin:")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(ready):
    unit = ready.worker() / "units/jaxtune.service"
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "jaxtune.service" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("source", "requirement"),
    [
        ("jaxtune", "jaxtune[tpu,gcs]"),
        ("jaxtune==0.1.0", "jaxtune[tpu,gcs]==0.1.0"),
        (
            "https://github.com/jaxtune/jaxtune.git",
            "jaxtune[tpu,gcs] @ git+https://github.com/jaxtune/jaxtune.git",
        ),
        (
            "git+https://github.com/jaxtune/jaxtune@v1",
            "jaxtune[tpu,gcs] @ git+https://github.com/jaxtune/jaxtune@v1",
        ),
    ],
)
def test_every_kind_of_source_is_installed_with_the_extras_of_a_tpu(active, source, requirement):
    active.write_settings(JAXTUNE_SOURCE=source)
    active.script("setup.sh")
    installs = [
        line
        for line in (active.worker() / "uv.log").read_text().splitlines()
        if line.startswith("pip install")
    ]
    assert installs == [f"pip install --quiet --python {active.worker()}/opt/jaxtune/venv/bin/python"
                        f" --reinstall-package jaxtune {requirement}"]  # fmt: skip


def test_a_source_that_is_none_is_named(active):
    active.write_settings(JAXTUNE_SOURCE="another-package")
    assert "JAXTUNE_SOURCE=another-package is neither" in active.script("setup.sh", code=1).stderr


def test_python_is_installed_only_where_the_image_has_none_from_3_11_on(active):
    active.script("setup.sh")
    assert "python install" not in (active.worker() / "uv.log").read_text()
    shutil.rmtree(active.worker() / "opt")
    active.script("setup.sh", STAND_IN_OLD_PYTHON="yes")
    log = (active.worker() / "uv.log").read_text()
    assert "python install 3.12" in log
    assert f"venv --quiet --python 3.12 {active.worker()}/opt/jaxtune/venv" in log


def test_a_second_setup_keeps_the_environment_and_takes_the_new_command(ready):
    marker = ready.worker() / "opt/jaxtune/venv/kept"
    marker.touch()
    ready.write_settings(COMMAND="jaxtune train --name another")
    ready.script("setup.sh")
    assert marker.exists()
    assert "--name another" in (ready.worker() / "opt/jaxtune/job.sh").read_text()


def test_without_a_known_command_the_host_script_says_what_it_knows(ready):
    host = ready.worker() / "opt/jaxtune/host.sh"
    done = subprocess.run(["bash", host, "fly"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "host.sh setup" in done.stderr


@pytest.mark.slow
def test_a_real_python_is_found_and_a_real_environment_made(tmp_path):
    """With the real uv and a package of four lines in jaxtune's place, in a folder of its own, without systemd."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed; with pip: pip install uv")
    source = tmp_path / "source"
    (source / "jaxtune").mkdir(parents=True)
    (source / "jaxtune/__init__.py").write_text("")
    (source / "pyproject.toml").write_text(
        '[project]\nname = "jaxtune"\nversion = "9.9"\n[project.optional-dependencies]\ntpu = []\ngcs = []\n'
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    )
    for name in ("jax", "jaxlib"):  # whose versions are printed
        (source / f"{name}-0.dist-info").mkdir()
        (source / f"{name}-0.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n"
        )
    upload = tmp_path / "upload"
    upload.mkdir()
    subprocess.run(["tar", "-czf", upload / "source.tar.gz", "-C", source, "."], check=True)
    for path in (TPU / "settings.sh", TPU / "remote/host.sh", TPU / "remote/capture_profile.py"):
        shutil.copy(path, upload)
    (upload / "settings.env").write_text(
        "PROJECT=my-project\nZONE=us-central1-a\nNAME=job\nACCELERATOR_TYPE=v5litepod-8\nRUNTIME_VERSION=v2\n"
        "PROVISIONING=spot\nBUCKET=gs://b\nJAXTUNE_SOURCE=.\nCOMMAND=python -c 'import jaxtune'\n"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text('#!/bin/sh\n[ "$1" != show ] || echo ActiveState=inactive\n')
    (programs / "systemctl").chmod(0o755)
    (tmp_path / "units").mkdir()
    environment = {**os.environ, "JAXTUNE_UNIT_FOLDER": str(tmp_path / "units"), "PYTHONPATH": str(source)}
    environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    prefix = tmp_path / "opt"
    for _ in range(2):
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", upload / "host.sh", "setup", "--prefix", prefix, "--settings", upload / "settings.env",
             "--archive", upload / "source.tar.gz"],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if "ConnectionError" in done.stderr or "error sending request" in done.stderr:
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, done.stderr
        assert "jaxtune 9.9" in done.stdout, time.monotonic() - begun
    ran = subprocess.run(
        ["bash", prefix / "job.sh"], env={**environment, "PATH": f"{prefix}/venv/bin:{environment['PATH']}"}
    )
    assert ran.returncode == 0
