"""Names of machines, their devices by the TPU compiler, and what is said where a name is wrong."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jaxtune.errors import ConfigError
from jaxtune.plan import topologies
from jaxtune.plan.topologies import SHAPES, Topology, devices, environment, parse_topology, topology_here

ALL = [f"{chip}:{shape}" for chip, shapes in SHAPES.items() for shape in shapes]
SLICES = ["2xv5e:4x4", "2xv4:2x2x2", "4xv6e:1x1", "2xv5p:4x4x4"]


@pytest.mark.parametrize(
    ("text", "expected", "chips"),
    [
        ("v5e:4x4", Topology("v5e", (4, 4)), 16),
        (" V5P:4x4x4", Topology("v5p", (4, 4, 4)), 64),
        ("2xv5e:16x16", Topology("v5e", (16, 16), 2), 512),
        ("2*v4:2x2x1", Topology("v4", (2, 2, 1), 2), 8),
        ("cpu:8", Topology("cpu", (8,)), 8),
    ],
)
def test_a_name_is_read(text, expected, chips):
    found = parse_topology(text)
    assert found == expected
    assert found.chips == chips
    assert parse_topology(found.name) == found
    assert (
        Topology(**json.loads(json.dumps({"chip": found.chip, "shape": found.shape, "slices": found.slices})))
        == found
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("16 chips", "expected a chip and a shape as v5e:4x4"),
        ("v5e", "Known: v4:2x2x1, "),
        ("v9:4x4", r"the chip v9 is not known; known: v4:2x2x1, .*v6e:1x1, .*cpu:N"),
        ("h100:8", "a GPU, for which nothing compiles ahead of time"),
        ("v5e:5x5", r"v5e has no shape 5x5; known: 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
        ("v3:4x4", "JAX shows a chip of v3 as two devices"),
        ("tpu7x:2x2x1", "as two devices"),
        ("0xv5e:4x4", "has no slice"),
        ("cpu:0", "cpu:1 to cpu:512"),
        ("2xcpu:4", "in one slice"),
    ],
)
def test_a_wrong_name_lists_what_there_is(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_topology(text)


@pytest.mark.parametrize(
    ("name", "wraps"),
    [
        ("v5e:8x16", (False, True)),
        ("v6e:16x16", (True, True)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),
    ],
)
def test_dimensions_that_are_rings(name, wraps):
    assert parse_topology(name).wraps == wraps


def test_a_missing_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'jaxtune\[plan\]'"):
        devices(parse_topology("v5e:4x4"))


def test_what_the_compiler_says_is_passed_on(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("INVALID_ARGUMENT: no such chip\nand more")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(topologies.topologies, "get_topology_desc", refuse)
    with pytest.raises(ConfigError, match=r"refuses v5e:4x4: INVALID_ARGUMENT: no such chip\. Known"):
        devices(parse_topology("v5e:4x4"))


def test_fake_devices_are_those_of_this_process():
    assert len(devices(Topology("cpu", (1,)))) == 1
    with pytest.raises(ConfigError, match="cpu:512 needs 512 fake devices"):
        devices(Topology("cpu", (512,)))


def test_environment_of_a_worker(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_some_flag=1")
    assert environment(parse_topology("cpu:8")) == {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_some_flag=1 --xla_force_host_platform_device_count=8",
    }
    assert environment(parse_topology("v5e:4x4"))["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "true"


def test_devices_that_are_here_are_a_topology():
    tpus = [
        SimpleNamespace(platform="tpu", device_kind="TPU v5 lite", coords=[x, y, 0], slice_index=s)
        for s in (0, 1)
        for y in (4, 5)  # a slice need not begin at the corner of its pod
        for x in (0, 1)
    ]
    assert topology_here(tpus) == Topology("v5e", (2, 2), 2)
    gpus = [SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")] * 4
    assert topology_here(gpus) == Topology("h100", (4,))
    cpus = [SimpleNamespace(platform="cpu", device_kind="cpu")] * 3
    assert topology_here(cpus) == Topology("cpu", (3,))


PROGRAM = """
import sys
from jaxtune.plan.topologies import devices, parse_topology, topology_here
for name in sys.argv[1:]:
    topology = parse_topology(name)
    found = devices(topology)
    same = topology_here(found) == topology
    print("found", name, len(found) == topology.chips, same, len({getattr(d, "slice_index", 0) for d in found}))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)
def test_the_compiler_knows_every_name():
    env = {
        **os.environ,
        **environment(parse_topology("v5e:4x4")),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *ALL, *SLICES], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("found")]
    expected = [[name, "True", "True", name[0] if name in SLICES else "1"] for name in (*ALL, *SLICES)]
    assert lines == expected
