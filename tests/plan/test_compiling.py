"""Workers: results, time limits, and processes that die."""

import dataclasses
import time

import pytest

from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, TrainConfig
from jaxtune.errors import ConfigError
from jaxtune.plan.compiled import Compiled, Memory
from jaxtune.plan.compiling import compile_all, default_workers
from jaxtune.plan.jobs import Job
from jaxtune.plan.topologies import environment, parse_topology
from tests.parallel.curves import KINDS, WIDTH

EIGHT = parse_topology("cpu:8")


def job_of(tmp_path, **changes):
    experiment = Experiment(
        model=ModelConfig(precision="float32"),
        data=DataConfig(max_length=16, batching="padded"),
        train=TrainConfig(batch_size=8),
        mesh=MeshConfig(fsdp=8),
    )
    raw = {"model_type": "bert", **WIDTH, **KINDS["bert"][1]}
    job = Job(experiment, raw, EIGHT, str(tmp_path / "plans"))
    return dataclasses.replace(job, **changes)


def run(jobs, limit=300.0, **more):
    done = []
    found = compile_all(
        jobs,
        {**environment(EIGHT), **more},
        workers=2,
        limit=limit,
        done=lambda place, result: done.append((place, result)),
    )
    assert sorted(place for place, _ in done) == list(range(len(jobs)))
    assert all(found[place] == result for place, result in done)
    return found


def test_result_of_a_worker_and_its_cache(tmp_path):
    (first,) = run([job_of(tmp_path)])
    assert first.fits
    assert first.mesh == {"fsdp": 8}
    assert first.tokens == 8 * 16
    assert first.compiled_flops == pytest.approx(first.model_flops / 8, rel=0.02)
    assert {c.kind for c in first.collectives} & {"all-gather", "reduce-scatter", "all-reduce"}
    assert all(c.axes == ("fsdp",) for c in first.collectives)
    assert first.host_memory > 2**27
    assert len(list((tmp_path / "plans").iterdir())) == 1
    (again,) = run([job_of(tmp_path)])
    assert again == first  # the seconds, too: it was not compiled anew


def test_state_that_is_larger_than_the_memory_is_not_compiled(tmp_path):
    (found,) = run([job_of(tmp_path, capacity=1000)])
    assert not found.fits
    assert found.error is None
    assert found.available == 1000
    assert found.needed > 1000


def test_worker_that_takes_too_long(tmp_path):
    start = time.monotonic()
    (found,) = run([job_of(tmp_path)], limit=0.2)
    assert "not compiled within 0 s" in found.error
    assert found.mesh == {"fsdp": 8}
    assert time.monotonic() - start < 30


def test_worker_that_is_killed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    (found,) = run([job_of(tmp_path)], PYTHONPATH=str(tmp_path))
    assert "SIGKILL" in found.error
    assert not found.fits


def test_worker_that_fails_says_why(tmp_path):
    (found,) = run([job_of(tmp_path)], JAX_PLATFORMS="nowhere")
    assert "nowhere" in found.error


def test_users_mistakes_stop_the_plan_where_no_mesh_is_left(tmp_path):
    job = job_of(tmp_path)
    wrong = dataclasses.replace(job.experiment, mesh=MeshConfig(data=2, tensor=3))
    with pytest.raises(ConfigError, match="sizes that fit"):
        run([dataclasses.replace(job, experiment=wrong)])
    # In a sweep it is one mesh that is not possible.
    _, other = run([job, dataclasses.replace(job, experiment=wrong)])
    assert "sizes that fit" in other.error


def test_json_keeps_everything(tmp_path):
    job = job_of(tmp_path, steps=3)
    assert Job.from_json(job.to_json()) == job
    found = Compiled({"data": 2}, Memory(1, 2, 3, 10, 7), attention=("plain",))
    assert Compiled.from_json(found.to_json()) == found
    assert found.memory.activations == 4


def test_there_is_always_a_worker():
    assert default_workers() >= 1
