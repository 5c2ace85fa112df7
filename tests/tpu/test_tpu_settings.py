"""The settings file: what is missing, unknown or wrong is named with the file, the line and what to do."""

from __future__ import annotations

import subprocess

import pytest

from tests.tpu.cloud_stand_in import SETTINGS, TPU

REQUIRED = list(SETTINGS)


def refused(cloud) -> str:
    message = cloud.script("create.sh", code=1).stderr
    assert cloud.calls() == []
    assert message.startswith(f"error: {cloud.settings}")
    return message


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_setting_is_named(cloud, name):
    cloud.write_settings(**{name: None})
    assert f"no value for {name}; set it there" in refused(cloud)


def test_all_missing_settings_are_named_at_once(cloud):
    cloud.write_settings(ZONE="", BUCKET=None)
    assert "no value for ZONE BUCKET; set it there" in refused(cloud)


def test_a_missing_file_says_where_to_begin(cloud):
    cloud.settings.unlink()
    message = cloud.script("create.sh", code=1).stderr
    assert f"no settings file {cloud.settings}" in message
    assert "settings.env.example" in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ZONES=us-central1-a", "unknown setting ZONES; remove it, or use one of: PROJECT ZONE"),
        ("ZONE=europe-west4-b", "ZONE is set a second time, first in line 2"),
        ("just words", "expected NAME=value"),
    ],
)
def test_a_bad_line_is_named_with_its_number(cloud, line, words):
    cloud.settings.write_text(cloud.settings.read_text() + f"# a comment\n\n{line}\n")
    assert f"settings.env:{len(REQUIRED) + 3}: {words}" in cloud.script("create.sh", code=1).stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PROJECT", "My Project", "a project id"),
        ("ZONE", "us-central1", "a zone, as us-central1-a"),
        ("NAME", "Job_1", "lower-case letters"),
        ("ACCELERATOR_TYPE", "v5e-16", "as v5litepod-16"),
        ("PROVISIONING", "preemptible", "one of on-demand, spot, reserved"),
        ("SLICES", "0", "at least 1"),
        ("SLICES", "", "SLICES is empty"),
        ("SERVICE_ACCOUNT", "me", "the e-mail address of a service account"),
        ("IAP", "true", "yes or no"),
        ("BUCKET", "my-bucket", "as gs://my-bucket/jaxtune"),
        ("BUCKET", "gs://my-bucket/", "no slash at the end"),
        ("STOP_TIMEOUT", "1 minute", "a whole number of seconds"),
        ("IMAGE", "us-docker.pkg.dev/p/r/i:tag", "without a tag"),
        ("COMMAND", "cd x; jaxtune train", "COMMAND has a bare ;"),
        ("COMMAND", "jaxtune train | tee log", "COMMAND has a bare |"),
        ("COMMAND", "jaxtune train --name 'a b", "COMMAND has an opening ' that is not closed"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(cloud, name, value, words):
    cloud.write_settings(**{name: value})
    message = refused(cloud)
    assert words in message
    assert name in message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("job", "job"),
        ("  job  ", "job"),
        ('"job"', "job"),
        ("'job'", "job"),
        ("job\r", "job"),
    ],
)
def test_blanks_quotes_and_line_ends_around_a_value_do_not_count(cloud, written, meant):
    cloud.write_settings(NAME=written)
    assert f"create {meant} " in cloud.script("create.sh", "--dry-run").stdout


def test_nothing_in_the_file_is_executed(cloud):
    cloud.write_settings(COMMAND='jaxtune train --name "$(touch made)"')
    cloud.script("create.sh", "--dry-run")
    assert not (cloud.folder / "made").exists()


def test_the_example_is_complete_and_valid(cloud):
    example = (TPU / "settings.env.example").read_text()
    names = [line.partition("=")[0] for line in example.splitlines() if line and not line.startswith("#")]
    source = (TPU / "settings.sh").read_text()
    known = {
        word
        for line in source.splitlines()
        if line.startswith(("REQUIRED_SETTINGS=", "OPTIONAL_SETTINGS="))
        for word in line.partition("(")[2].rstrip(")").split()
    }
    assert sorted(names) == sorted(known)
    cloud.settings.write_text(example)
    assert "create jaxtune-1 " in cloud.script("create.sh", "--dry-run").stdout


def test_settings_are_looked_for_beside_the_scripts_from_any_folder(cloud):
    done = subprocess.run(
        ["bash", TPU / "create.sh", "--dry-run"], cwd=cloud.folder, capture_output=True, text=True
    )
    if (TPU / "settings.env").exists():  # a developer's own
        assert done.returncode in (0, 1)
    else:
        assert done.returncode == 1
        assert f"no settings file {TPU}/settings.env" in done.stderr
