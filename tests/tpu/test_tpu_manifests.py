"""Dockerfile, JobSet and SkyPilot task: exit code 75, time to save, commands that jaxtune knows."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from tests.tpu.cloud_stand_in import TPU

SAVED = 75
GRACE_SECONDS = 25


@pytest.fixture(scope="module")
def jobset() -> dict[str, Any]:
    return yaml.safe_load((TPU / "jobset.yaml").read_text())


@pytest.fixture(scope="module")
def job(jobset) -> dict[str, Any]:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


@pytest.fixture(scope="module")
def skypilot() -> dict[str, Any]:
    return yaml.safe_load((TPU / "skypilot.yaml").read_text())


def parses_as_training(words: list[str]) -> None:
    """Ends the test unless `jaxtune train` takes these words."""
    import tyro

    from jaxtune.config import Experiment

    assert words[0].endswith("jaxtune")
    assert words[1] == "train"
    experiment = tyro.cli(Experiment, args=words[2:])
    assert experiment.output.startswith("gs://")


def test_the_jobset_starts_again_after_75_without_counting_it(jobset, job):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    policy = jobset["spec"]["failurePolicy"]
    assert policy["rules"] == [
        {
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
        }
    ]
    assert policy["maxRestarts"] > 0
    by_code, by_condition = job["podFailurePolicy"]["rules"]
    assert by_code["action"] == by_condition["action"] == "FailJob"
    assert by_code["onExitCodes"] == {"containerName": "jaxtune", "operator": "In", "values": [SAVED]}
    assert by_condition["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert job["backoffLimit"] == 0
    # The API server takes a podFailurePolicy with restartPolicy Never alone.
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_the_jobset_gives_time_to_save(job):
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] > GRACE_SECONDS


def test_the_jobset_asks_for_whole_slices(job):
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = 1
    for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    per_host = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert job["parallelism"] == job["completions"] == chips // per_host


def test_the_jobset_runs_jaxtune_without_a_shell(job):
    (container,) = job["template"]["spec"]["containers"]
    parses_as_training(container["command"])
    assert re.search(r":tpu-", container["image"])
    assert {"name": "JAX_PLATFORMS", "value": "tpu,cpu"} in container["env"]


def test_the_skypilot_task_is_recovered_after_75(skypilot):
    recovery = skypilot["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [SAVED]
    assert recovery["max_restarts_on_errors"] > 0
    assert skypilot["resources"]["use_spot"] is True


def test_the_skypilot_task_runs_jaxtune_in_place_of_its_shell(skypilot):
    lines = skypilot["run"].replace("\\\n", " ").splitlines()
    last = shlex.split(lines[-1].replace("$BUCKET", skypilot["envs"]["BUCKET"]))
    assert last[0] == "exec"
    parses_as_training(last[1:])


def test_skypilot_and_settings_agree_on_the_generation(skypilot):
    example = (TPU / "settings.env.example").read_text()
    assert f"RUNTIME_VERSION={skypilot['resources']['accelerator_args']['runtime_version']}\n" in example


def test_the_command_of_the_example_is_one_of_jaxtune():
    example = (TPU / "settings.env.example").read_text()
    command = re.search(r"^COMMAND=(.*)$", example, re.MULTILINE)
    assert command is not None
    parses_as_training(shlex.split(command[1].replace("$BUCKET", "gs://my-bucket")))


@pytest.fixture(scope="module")
def stages() -> dict[str, str]:
    """The instructions of every target of the Dockerfile."""
    text = (TPU / "docker/Dockerfile").read_text()
    found = re.findall(r"^FROM (\S+) AS (\w+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: f"FROM {parent}\n{body}" for parent, name, body in found}


def test_the_dockerfile_has_a_target_per_platform(stages):
    assert set(stages) == {"base", "cpu", "tpu", "cuda"}
    for name, extras in {"cpu": "[gcs]", "tpu": "[tpu,gcs]", "cuda": "[${CUDA},gcs]"}.items():
        assert stages[name].startswith("FROM base\n")
        assert f'uv pip install ".{extras}"' in stages[name]
    assert "ARG CUDA=cuda12" in stages["cuda"]
    assert "JAX_PLATFORMS=tpu,cpu" in stages["tpu"]


def test_images_start_programs_directly(stages):
    for body in stages.values():
        assert "ENTRYPOINT" not in body
        for command in re.findall(r"^CMD (.*)$", body, re.MULTILINE):
            assert command.startswith("["), "the shell form would keep SIGTERM from Python"


def test_what_the_dockerfile_copies_is_there_and_sent_to_the_builder(stages):
    allowed = (TPU / "docker/Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        path
        for line in re.findall(r"^COPY (.*)$", stages["base"], re.MULTILINE)
        for path in line.split()[:-1]
    ]
    assert "jaxtune" in copied
    for path in copied:
        assert (TPU.parent / path).exists()
        assert f"!{path}" in allowed


def test_the_extras_of_the_images_exist():
    import tomllib

    project = tomllib.loads((TPU.parent / "pyproject.toml").read_text())["project"]
    assert {"tpu", "gcs", "cuda12", "cuda13"} <= set(project["optional-dependencies"])


def test_push_builds_and_pushes_each_target(cloud):
    cloud.write_settings(IMAGE="us-docker.pkg.dev/my-project/jaxtune/jaxtune")
    options = ["--target", "cpu", "--target", "tpu", "--tag", "v1"]
    dry = cloud.script("docker/push.sh", *options, "--dry-run").stdout.splitlines()
    image = "us-docker.pkg.dev/my-project/jaxtune/jaxtune"
    assert dry == [
        "gcloud auth configure-docker us-docker.pkg.dev --quiet",
        f"docker build --target cpu --tag {image}:cpu-v1 --file {TPU}/docker/Dockerfile {TPU.parent}",
        f"docker push {image}:cpu-v1",
        f"docker build --target tpu --tag {image}:tpu-v1 --file {TPU}/docker/Dockerfile {TPU.parent}",
        f"docker push {image}:tpu-v1",
    ]
    assert cloud.calls() == []
    done = cloud.script("docker/push.sh", *options)
    assert [shlex.join(call) for call in cloud.calls()] == dry[:1]
    assert done.stdout.splitlines() == dry[1:]  # the stand-in for docker prints how it was called


def test_push_without_an_address_says_which_setting(cloud):
    assert "IMAGE is empty; set the address" in cloud.script("docker/push.sh", code=1).stderr
