"""tpu/resume.sh from every state that a preemption leaves."""

from __future__ import annotations

import shutil

import pytest

RECREATED = ["delete", "create", "ssh", "scp", "ssh", "ssh", "ssh"]


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_what_was_taken_away_is_made_anew(cloud, state):
    cloud.set_state(state=state, after_create=["WAITING_FOR_RESOURCES", "ACTIVE"])
    done = cloud.script("resume.sh")
    assert cloud.verbs() == RECREATED
    assert done.stdout.splitlines()[-1] == "job: launched"
    assert cloud.state() == "ACTIVE"


def test_what_is_gone_is_created(cloud):
    cloud.script("resume.sh")
    assert cloud.verbs() == RECREATED[1:]


def test_a_preempted_node_of_an_active_resource_means_all_anew(cloud):
    cloud.set_state(state="ACTIVE", node_states={"job": "PREEMPTED"})
    cloud.script("resume.sh")
    assert cloud.verbs() == RECREATED


def test_a_node_in_repair_is_waited_for(ready):
    # The stand-in's node gets well when it is asked a second time.
    gcloud = ready.folder / "bin/gcloud"
    listing = 'state["node_states"].get(name, "READY")'
    assert listing in gcloud.read_text()
    gcloud.write_text(
        gcloud.read_text().replace(listing, 'state["node_states"].pop(name, "READY")') + "\nkeep()\n"
    )
    gcloud.write_text(
        gcloud.read_text().replace("    sys.exit(0)\nassert", "    keep()\n    sys.exit(0)\nassert")
    )
    ready.set_state(node_states={"job": "REPAIRING"})
    ready.script("resume.sh")
    assert ready.verbs() == ["ssh", *RECREATED[2:]]


def test_a_bare_host_among_running_ones_is_set_up_after_the_others_are_stopped(active):
    active.set_state(hosts=2)
    active.script("setup.sh")
    active.forget()
    active.set_unit(ActiveState="activating")
    shutil.rmtree(active.worker(0, 1) / "opt")
    (active.worker(0, 1) / "unit").unlink()
    systemctl = active.folder / "bin/systemctl"
    systemctl.write_text(
        systemctl.read_text()
        .replace("== active ]]", "== @(active|activating) ]]")
        .replace("!= active ]]", "!= @(active|activating) ]]")
    )
    done = active.script("resume.sh")
    assert done.stdout.splitlines()[-1] == "job: launched"
    assert active.verbs() == ["ssh", "ssh", *RECREATED[2:]]
    assert (active.worker(0, 1) / "opt/jaxtune/job.sh").is_file()


def test_nodes_that_are_going_are_waited_for(cloud):
    cloud.set_state(state="SUSPENDING", then=["SUSPENDING", "SUSPENDING", "SUSPENDED"])
    cloud.script("resume.sh")
    assert cloud.verbs() == RECREATED


def test_what_is_still_in_the_queue_is_waited_for(cloud):
    cloud.set_state(state="WAITING_FOR_RESOURCES", then=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    cloud.script("resume.sh")
    assert cloud.verbs() == RECREATED[2:]


def test_an_idle_tpu_is_set_up_and_launched(active):
    active.script("resume.sh")
    assert active.verbs() == ["ssh", *RECREATED[2:]]


@pytest.mark.parametrize(
    ("unit", "job"),
    [
        ({"ActiveState": "active"}, "running"),
        ({"ExecMainCode": "1", "ExecMainStatus": "0", "ExecMainStartTimestamp": "Mon"}, "finished"),
    ],
)
def test_a_job_that_runs_or_has_finished_is_left_alone(ready, unit, job):
    ready.set_unit(**unit)
    done = ready.script("resume.sh")
    assert done.stdout.splitlines()[-1] == f"job: {job}"
    assert ready.verbs() == ["ssh"]


def test_a_failed_job_is_launched_again_unless_kept(ready):
    ready.set_unit(ActiveState="failed")
    assert ready.script("resume.sh", "--keep-failed").stdout.splitlines()[-1] == "job: failed"
    ready.script("resume.sh")
    assert ready.verbs()[-1] == "ssh"
    assert "scp" in ready.verbs()


def test_the_watch_ends_when_the_job_has_finished(ready):
    ready.set_unit(ExecMainCode="1", ExecMainStatus="0", ExecMainStartTimestamp="Mon")
    done = ready.script("resume.sh", "--watch")
    assert done.stdout.splitlines()[-1] == "job: finished"


def test_the_watch_ends_when_the_job_failed_too_often_but_not_at_its_first_look(ready):
    # systemctl of the stand-in: start makes it active; the second look finds it failed.
    ready.set_unit(ActiveState="failed")
    systemctl = ready.folder / "bin/systemctl"
    started = "unit[ActiveState]=active unit[SubState]=running"
    assert started in systemctl.read_text()
    systemctl.write_text(systemctl.read_text().replace(started, "unit[ActiveState]=failed"))
    done = ready.script("resume.sh", "--watch", code=1)
    assert "job: launched" in done.stdout
    assert "the job failed too often" in done.stderr


def test_the_watch_outlives_looks_that_fail_but_not_ten_in_a_row(cloud):
    cloud.set_state(broken=True)
    done = cloud.script("resume.sh", "--watch", code=1)
    assert "ten looks in a row failed" in done.stderr
    assert len(cloud.calls()) == 10


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        ("SUSPENDED", RECREATED),
        ("FAILED", RECREATED),
        ("none", RECREATED[1:]),
        ("WAITING_FOR_RESOURCES", RECREATED[2:]),
        ("ACTIVE", ["ssh", *RECREATED[2:]]),
    ],
)
def test_a_dry_run_prints_the_way_from_the_assumed_state(cloud, state, verbs):
    done = cloud.script("resume.sh", "--dry-run", "--assume", state)
    found = [
        line.split()[4]
        for line in done.stdout.splitlines()
        if line.startswith("gcloud compute tpus queued-resources")
    ]
    assert [verb for verb in found if verb != "list"] == verbs
    assert cloud.calls() == []
