"""Google Cloud, as far as the scripts in tpu/ see it: programs put on PATH that record calls and answer from a state.

``gcloud`` keeps one queued resource, runs what is sent over ssh in a folder per worker, and copies files there.
``systemctl``, ``journalctl``, ``sudo`` and ``uv`` do on those workers what the real ones would, without doing it.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TPU = Path(__file__).parents[2] / "tpu"

SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-central1-a",
    "NAME": "job",
    "ACCELERATOR_TYPE": "v5litepod-16",
    "RUNTIME_VERSION": "v2-alpha-tpuv5-lite",
    "PROVISIONING": "spot",
    "BUCKET": "gs://my-bucket/jaxtune",
    "JAXTUNE_SOURCE": "jaxtune==0.1.0",
    "COMMAND": "jaxtune train --name run",
}

GCLOUD = r"""
import json, os, sys
from pathlib import Path

HERE = Path(__file__).parent.parent
STATE = HERE / "state.json"
state = json.loads(STATE.read_text())
words = sys.argv[1:]
with (HERE / "calls.jsonl").open("a") as file:
    file.write(json.dumps(["gcloud", *words]) + "\n")
flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
plain = [word for word in words if not word.startswith("--")]


def keep():
    STATE.write_text(json.dumps(state))


def chosen(flag, count):
    return range(count) if flags[flag] == "all" else [int(flags[flag])]


def workers():
    nodes = chosen("node", state["slices"])
    return [HERE / f"worker-{node}-{worker}" for node in nodes for worker in chosen("worker", state["hosts"])]


def local(text, worker):
    return text.replace("/opt/jaxtune", str(worker / "opt/jaxtune"))


if state["broken"]:
    sys.exit("ERROR: (gcloud) There was a problem refreshing your current auth tokens")
if plain[:2] == ["storage", "rsync"] or plain[0] == "auth":
    sys.exit(0)
if plain[:4] == ["compute", "tpus", "tpu-vm", "list"]:
    names = ["job"] if state["slices"] == 1 else [f"job-{i}" for i in range(state["slices"])]
    for name in names if state["state"] == "ACTIVE" else []:
        print(name, state["node_states"].get(name, "READY"), "HEALTHY", sep="\t")
    sys.exit(0)
assert plain[:3] == ["compute", "tpus", "queued-resources"], plain
verb = plain[3]
if verb == "list":
    if state["then"]:
        state["state"] = state["then"].pop(0)
        keep()
    if state["state"]:
        print(state["state"])
elif verb == "create":
    assert not state["state"], "409: it is there already"
    state.update(state="ACTIVE", then=state["after_create"], node_states={}, slices=int(flags.get("node-count", 1)))
    if any(HERE.glob("worker-*")):
        import shutil
        for worker in HERE.glob("worker-*"):
            shutil.rmtree(worker)
    keep()
elif verb == "delete":
    assert state["state"], "404: there is none"
    state["state"] = ""
    keep()
elif verb == "ssh":
    import subprocess
    codes = []
    for worker in workers():
        (worker / "units").mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HOME": str(worker), "JAXTUNE_UNIT_FOLDER": str(worker / "units")}
        codes.append(subprocess.run(["bash", "-c", local(flags["command"], worker)], cwd=worker, env=environment).returncode)
    sys.exit(next((code for code in codes if code), 0))
elif verb == "scp":
    import shutil
    *sources, target = plain[4:]
    for worker in workers():
        if target.startswith("job:"):
            for source in sources:
                shutil.copy(source, worker / target.removeprefix("job:"))
        else:
            for source in sources:
                path = Path(local(source.removeprefix("job:"), worker))
                shutil.copytree(path, Path(target) / path.name, dirs_exist_ok=True)
else:
    sys.exit(f"no such verb: {verb}")
"""

SYSTEMCTL = r"""
echo "$*" >>"$HOME/systemctl.log"
declare -A unit=([ActiveState]=inactive [SubState]=dead [Result]=success [ExecMainCode]=0 [ExecMainStatus]=0 [NRestarts]=0)
[[ ! -f $HOME/unit ]] || while IFS== read -r name value; do unit[$name]=$value; done <"$HOME/unit"
case $1 in
    start) unit[ActiveState]=active unit[SubState]=running unit[ExecMainStartTimestamp]=Mon ;;
    stop) [[ ${unit[ActiveState]} != active ]] || unit+=([ActiveState]=inactive [SubState]=dead [ExecMainCode]=1 [ExecMainStatus]=75) ;;
esac
for name in "${!unit[@]}"; do echo "$name=${unit[$name]}"; done >"$HOME/unit"
[[ $1 != show ]] || cat "$HOME/unit"
"""

UV = r"""
echo "$*" >>"$HOME/uv.log"
case "$1 $2" in
    "python find") [[ -z ${STAND_IN_OLD_PYTHON-} ]] && echo /usr/bin/python3.11 ;;
    "venv "*)
        mkdir -p "${@: -1}/bin"
        printf '#!/bin/sh\necho stand-in for a Python\n' >"${@: -1}/bin/python"
        chmod +x "${@: -1}/bin/python"
        ;;
esac
"""

ECHO = 'echo "${0##*/} $*"'
SUDO = 'exec "$@"'


@dataclass
class Cloud:
    """A scripted Google Cloud in a folder."""

    folder: Path
    settings: Path

    def set_state(self, **changes: Any) -> None:
        path = self.folder / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def state(self) -> str:
        return json.loads((self.folder / "state.json").read_text())["state"]

    def write_settings(self, **changes: str | None) -> None:
        """The settings of the tests, with changes; None leaves one out."""
        chosen = {name: value for name, value in {**SETTINGS, **changes}.items() if value is not None}
        self.settings.write_text("".join(f"{name}={value}\n" for name, value in chosen.items()))

    def script(
        self, name: str, *options: str, code: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs tpu/NAME with the settings; it must end with `code`."""
        process = subprocess.Popen(
            ["bash", str(TPU / name), "--settings", str(self.settings), *options],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "TMPDIR": str(self.folder / "tmp"),
                "JAXTUNE_TPU_POLL_SECONDS": "0",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            done = subprocess.CompletedProcess(name, 0, *process.communicate(timeout=120))
            done.returncode = process.returncode
        finally:
            if process.poll() is None:  # with all that it started
                os.killpg(process.pid, signal.SIGKILL)
        assert done.returncode == code, (
            f"{name} ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def calls(self) -> list[list[str]]:
        """Every call of gcloud so far, oldest first."""
        return records(self.folder / "calls.jsonl")

    def verbs(self) -> list[str]:
        """The calls that change something, as "create", "delete", "ssh", "scp" …"""
        return [call[4] for call in self.calls() if call[1:3] == ["compute", "tpus"] and call[4] != "list"]

    def forget(self) -> None:
        (self.folder / "calls.jsonl").unlink(missing_ok=True)

    def worker(self, node: int = 0, worker: int = 0) -> Path:
        return self.folder / f"worker-{node}-{worker}"

    def set_unit(self, **properties: str) -> None:
        """How systemd sees the job on every worker."""
        for worker in self.folder.glob("worker-*"):
            (worker / "unit").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


def records(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def make_cloud(folder: Path) -> Cloud:
    """A cloud with nothing in it, and settings for it."""
    (folder / "bin").mkdir()
    (folder / "tmp").mkdir()
    programs = {"systemctl": SYSTEMCTL, "uv": UV, "journalctl": ECHO, "docker": ECHO, "sudo": SUDO}
    lines = {name: f"#!/usr/bin/env bash\n{source}\n" for name, source in programs.items()}
    lines["gcloud"] = f"#!{sys.executable} -IS\n{GCLOUD}"
    for name, source in lines.items():
        path = folder / "bin" / name
        path.write_text(source)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    state = {
        "state": "",
        "then": [],
        "after_create": [],
        "slices": 1,
        "hosts": 1,
        "node_states": {},
        "broken": False,
    }
    (folder / "state.json").write_text(json.dumps(state))
    cloud = Cloud(folder, folder / "settings.env")
    cloud.write_settings()
    return cloud
