"""The scripts of tpu/ against a stand-in gcloud: what they call, when they call nothing, and what they refuse."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from tests.tpu.cloud_stand_in import TPU, Cloud

SCRIPTS = [
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


def printed(cloud: Cloud, name: str, *options: str) -> list[list[str]]:
    """The gcloud commands that a dry run prints, read as a shell would."""
    lines = cloud.script(name, "--dry-run", *options).stdout.splitlines()
    words = [shlex.split(line) for line in lines if not line.startswith("#")]
    return [command for command in words if command[0] == "gcloud"]


def flags(call: list[str]) -> dict[str, str]:
    return dict(word[2:].partition("=")[::2] for word in call if word.startswith("--"))


@pytest.mark.parametrize("name", [*SCRIPTS, "docker/push"])
def test_help_needs_no_settings_and_names_every_option(name):
    done = subprocess.run(["bash", TPU / f"{name}.sh", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: tpu/{name}.sh")
    for option in ("--settings", "--dry-run", "--help"):
        assert option in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_dry_run_calls_nothing_and_prints_what_a_run_calls(cloud, name):
    cloud.write_settings(PROFILER_PORT="1")  # no job listens there
    before = sorted(cloud.folder.rglob("*"))
    expected = printed(cloud, f"{name}.sh")
    assert expected
    assert cloud.calls() == []
    assert sorted(cloud.folder.rglob("*")) == before
    # The state that a dry run says it assumes.
    if name == "resume":
        cloud.set_state(state="SUSPENDED")
    elif name != "create":
        cloud.set_state(state="ACTIVE")
    if name in ("launch", "stop", "logs", "status", "profile"):
        cloud.script("setup.sh")
    cloud.forget()
    options = ["--yes"] if name == "delete" else []
    cloud.script(f"{name}.sh", *options, code=1 if name == "profile" else 0)
    assert cloud.calls() == (expected[:1] if name == "profile" else expected)


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_option_is_named(cloud, name):
    done = cloud.script(f"{name}.sh", "--sport", code=2)
    assert f"{name}.sh has no option --sport" in done.stderr
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("create.sh", ["--wait"], "--wait needs a value"),
        ("create.sh", ["--wait", "soon"], "expected a whole number of minutes"),
        ("logs.sh", ["--worker", "first"], "a number from 0 on, or all"),
        ("profile.sh", ["--seconds", "3600"], "1 to 99"),
        ("resume.sh", ["--assume", "BROKEN"], "SUSPENDED"),
    ],
)
def test_a_bad_value_of_an_option_is_named(cloud, script, options, words):
    done = cloud.script(script, *options, code=2)
    assert words in done.stderr
    assert cloud.calls() == []


def test_create_twice_creates_once(cloud):
    cloud.script("create.sh")
    again = cloud.script("create.sh")
    assert cloud.verbs() == ["create"]
    assert "there already, ACTIVE" in again.stderr


@pytest.mark.parametrize("state", ["ACCEPTED", "WAITING_FOR_RESOURCES", "CREATING", "PROVISIONING", "ACTIVE"])
def test_create_leaves_what_is_on_its_way(cloud, state):
    cloud.set_state(state=state)
    cloud.script("create.sh")
    assert cloud.verbs() == []


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_create_says_how_to_go_on_after_a_preemption(cloud, state):
    cloud.set_state(state=state)
    assert "tpu/resume.sh" in cloud.script("create.sh", code=1).stderr
    assert cloud.verbs() == []


@pytest.mark.parametrize(
    ("provisioning", "given", "left_out"),
    [
        ("on-demand", set(), {"spot", "reserved"}),
        ("spot", {"spot"}, {"reserved"}),
        ("reserved", {"reserved"}, {"spot"}),
    ],
)
def test_provisioning(cloud, provisioning, given, left_out):
    cloud.write_settings(PROVISIONING=provisioning)
    cloud.script("create.sh")
    found = flags(cloud.calls()[-1])
    assert given <= set(found)
    assert not left_out & set(found)
    assert found["accelerator-type"] == "v5litepod-16"
    assert found["runtime-version"] == "v2-alpha-tpuv5-lite"
    assert (found["project"], found["zone"]) == ("my-project", "us-central1-a")


def test_one_slice_is_a_node_and_several_are_a_count(cloud):
    cloud.script("create.sh")
    single = flags(cloud.calls()[-1])
    assert single["node-id"] == "job"
    assert "node-count" not in single
    cloud.set_state(state="")
    cloud.write_settings(SLICES="3")
    cloud.script("create.sh")
    several = flags(cloud.calls()[-1])
    assert (several["node-count"], several["node-prefix"]) == ("3", "job")
    assert "node-id" not in several


def test_optional_settings_become_flags_only_when_set(cloud):
    cloud.script("create.sh")
    assert not {"service-account", "network", "subnetwork", "internal-ips"} & set(flags(cloud.calls()[-1]))
    cloud.set_state(state="")
    cloud.write_settings(SERVICE_ACCOUNT="a@b.com", NETWORK="net", SUBNETWORK="sub", IAP="yes")
    cloud.script("create.sh")
    found = flags(cloud.calls()[-1])
    assert (found["service-account"], found["network"], found["subnetwork"]) == ("a@b.com", "net", "sub")
    assert "internal-ips" in found


def test_create_waits_until_all_nodes_are_ready(cloud):
    cloud.set_state(after_create=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    done = cloud.script("create.sh", "--wait", "1")
    assert [word for word in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE") if word in done.stderr] == [
        "WAITING_FOR_RESOURCES",
        "PROVISIONING",
        "ACTIVE",
    ]
    assert cloud.state() == "ACTIVE"


def test_waiting_ends_when_the_request_is_refused(cloud):
    cloud.set_state(after_create=["WAITING_FOR_RESOURCES", "FAILED"])
    done = cloud.script("create.sh", "--wait", "1", code=1)
    assert "job is FAILED" in done.stderr
    assert "queued-resources describe job" in done.stderr


@pytest.mark.parametrize("name", ["setup", "launch", "stop"])
def test_nothing_is_sent_to_a_tpu_that_is_not_whole(cloud, name):
    assert "create it with tpu/create.sh" in cloud.script(f"{name}.sh", code=1).stderr
    cloud.set_state(state="SUSPENDED")
    assert "tpu/resume.sh" in cloud.script(f"{name}.sh", code=1).stderr
    cloud.set_state(state="PROVISIONING")
    assert "not yet ACTIVE" in cloud.script(f"{name}.sh", code=1).stderr
    cloud.set_state(state="ACTIVE", slices=2, node_states={"job-1": "PREEMPTED"})
    cloud.write_settings(SLICES="2")
    done = cloud.script(f"{name}.sh", code=1)
    assert "1 of 2 TPU VMs are READY, job-1 is PREEMPTED" in done.stderr
    assert cloud.verbs() == []


def test_setup_reaches_all_workers_of_all_slices_and_can_be_repeated(active):
    active.set_state(slices=2, hosts=2)
    active.write_settings(SLICES="2")
    for _ in range(2):
        active.script("setup.sh")
    for node in (0, 1):
        for worker in (0, 1):
            assert (active.worker(node, worker) / "opt/jaxtune/job.sh").is_file()
            assert (active.worker(node, worker) / "units/jaxtune.service").is_file()


def test_setup_packs_a_local_folder_without_what_does_not_belong(active):
    source = active.folder / "checkout"
    for path in (
        "pyproject.toml",
        "jaxtune/__init__.py",
        ".git/config",
        ".venv/bin/python",
        "runs/a",
        "tpu/settings.env",
    ):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text("")
    active.write_settings(JAXTUNE_SOURCE="./checkout")
    active.script("setup.sh")
    unpacked = active.worker() / "opt/jaxtune/source"
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert found == {"pyproject.toml", "jaxtune/__init__.py"}


def test_setup_brings_secrets_that_nobody_else_reads_and_nothing_prints(active):
    (active.folder / "secrets.env").write_text("HF_TOKEN=very-secret\n")
    active.write_settings(SECRETS="secrets.env")
    done = active.script("setup.sh")
    installed = active.worker() / "opt/jaxtune/secrets.env"
    assert installed.read_text() == "HF_TOKEN=very-secret\n"
    assert installed.stat().st_mode & 0o777 == 0o600
    assert not (active.worker() / "jaxtune-tpu/secrets.env").exists()
    assert "very-secret" not in done.stdout + done.stderr + str(active.calls())
    active.write_settings(SECRETS="nowhere.env")
    assert "SECRETS=nowhere.env: there is no file" in active.script("setup.sh", code=1).stderr


def test_setup_names_a_local_folder_that_is_no_checkout(active):
    active.write_settings(JAXTUNE_SOURCE="./nowhere")
    done = active.script("setup.sh", code=1)
    assert "JAXTUNE_SOURCE=./nowhere" in done.stderr
    assert "nowhere/pyproject.toml" in done.stderr
    assert active.verbs() == []


def test_setup_is_refused_while_the_job_runs(ready):
    ready.set_unit(ActiveState="active")
    assert "tpu/stop.sh ends it" in ready.script("setup.sh", code=1).stderr


def test_launch_starts_everywhere_and_survives_a_reboot(active):
    active.set_state(hosts=2)
    active.script("setup.sh")
    active.script("launch.sh")
    for worker in (0, 1):
        calls = (active.worker(0, worker) / "systemctl.log").read_text().splitlines()
        assert "start jaxtune.service" in calls
        assert "enable --quiet jaxtune.service" in calls


@pytest.mark.parametrize("state", ["active", "activating", "deactivating"])
def test_launch_is_refused_while_a_job_runs_on_any_host(active, state):
    active.set_state(hosts=2)
    active.script("setup.sh")
    active.forget()
    (active.worker(0, 1) / "unit").write_text(f"ActiveState={state}\n")
    done = active.script("launch.sh", code=1)
    assert "a job runs on job" in done.stderr
    assert active.verbs() == ["ssh"]  # asked, not started


def test_launch_before_setup_says_so(active):
    done = active.script("launch.sh", code=1)
    assert "run tpu/setup.sh first" in done.stderr


@pytest.mark.parametrize(
    "unit",
    [
        {"ActiveState": "failed", "Result": "start-limit-hit"},
        {"ExecMainCode": "1", "ExecMainStatus": "75", "ExecMainStartTimestamp": "Mon"},
        {"ExecMainCode": "1", "ExecMainStatus": "0", "ExecMainStartTimestamp": "Mon"},
    ],
    ids=["failed", "stopped", "finished"],
)
def test_launch_starts_what_stands_still(ready, unit):
    ready.set_unit(**unit)
    ready.script("launch.sh")
    assert ready.verbs() == ["ssh", "ssh"]


def test_stop_ends_the_job_and_keeps_it_from_starting_at_boot(ready):
    ready.script("launch.sh")
    done = ready.script("stop.sh")
    assert "exit code 75" in done.stdout
    assert "disable --quiet jaxtune.service" in (ready.worker() / "systemctl.log").read_text()
    ready.script("stop.sh")  # again: nothing to end


def test_logs_of_one_worker_or_of_all(active):
    active.set_state(hosts=2)
    active.script("setup.sh")
    ready = active
    one = ready.script("logs.sh", "--lines", "7")
    assert one.stdout == "journalctl --unit=jaxtune.service --no-pager --lines=100 --lines=7\n"
    everyone = ready.script("logs.sh", "--worker", "all", "--slice", "all", "--follow")
    assert everyone.stdout.count("--follow") == 2
    found = flags(ready.calls()[-1])
    assert (found["node"], found["worker"]) == ("all", "all")


def test_status_in_each_state(cloud):
    assert "queued resource job: none" in cloud.script("status.sh").stdout
    cloud.set_state(state="SUSPENDED")
    done = cloud.script("status.sh")
    assert "queued resource job: SUSPENDED" in done.stdout
    assert "tpu/resume.sh" in done.stderr
    cloud.set_state(state="ACTIVE", node_states={"job": "PREEMPTED"})
    assert "TPU VM job: PREEMPTED, health HEALTHY" in cloud.script("status.sh").stdout
    cloud.set_state(node_states={})
    cloud.script("setup.sh")
    cloud.set_unit(ActiveState="failed", SubState="failed", Result="exit-code", ExecMainStatus="1")
    done = cloud.script("status.sh")
    assert "jaxtune.service failed (failed), result exit-code, exit code 1" in done.stdout


def test_profile_says_when_nothing_listens(active):
    active.write_settings(PROFILER_PORT="1")
    active.script("setup.sh")
    ready = active
    done = ready.script("profile.sh", "--seconds", "2", code=1)
    assert "nothing listens on port 1;" in done.stderr


def test_profile_without_a_port_is_refused_before_anything_is_called(ready):
    ready.write_settings(PROFILER_PORT="")
    assert "PROFILER_PORT is empty" in ready.script("profile.sh", code=1).stderr
    assert ready.calls() == []


def test_results_are_copied_without_checkpoints_unless_asked(cloud):
    cloud.script("copy_results.sh", "--run", "reviews", "--to", "here")
    call = cloud.calls()[-1]
    assert call[1:5] == ["storage", "rsync", "gs://my-bucket/jaxtune/runs/reviews", "here/reviews"]
    assert flags(call)["exclude"] == "(^|.*/)checkpoints/.*"
    assert (cloud.folder / "here/reviews").is_dir()
    cloud.script("copy_results.sh", "--checkpoints")
    assert "exclude" not in flags(cloud.calls()[-1])


def test_delete_without_yes_refuses_and_asks_nothing(active):
    done = active.script("delete.sh", code=1)
    assert "add --yes" in done.stderr
    assert active.calls() == []


def test_delete_twice_deletes_once(active):
    active.script("delete.sh", "--yes")
    again = active.script("delete.sh", "--yes")
    assert active.verbs() == ["delete"]
    assert "nothing to delete" in again.stderr


@pytest.mark.parametrize("name", ["create", "launch", "resume", "status"])
def test_a_question_that_fails_is_not_taken_for_an_answer(cloud, name):
    cloud.set_state(broken=True)
    done = cloud.script(f"{name}.sh", code=1)
    assert "refreshing your current auth tokens" in done.stderr
    assert "gcloud auth list" in done.stderr
    assert cloud.verbs() == []


def test_iap_goes_through_the_tunnel_everywhere(active):
    active.write_settings(IAP="yes")
    active.script("setup.sh")
    sent = [call for call in active.calls() if call[4] in ("ssh", "scp")]
    assert len(sent) == 3
    assert all("--tunnel-through-iap" in call for call in sent)
