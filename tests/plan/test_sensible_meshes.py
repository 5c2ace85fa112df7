"""Which meshes a sweep looks at."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.config import MeshConfig
from jaxtune.errors import ConfigError
from jaxtune.plan.meshes import Limits, sensible_meshes
from jaxtune.plan.planning import fixed_mesh, limits_of, meshes_for
from jaxtune.plan.reading import raw_config_of, read_experiment
from jaxtune.plan.shapes import SHAPES

BERT = Limits(heads=12, kv_heads=12, rows=512, length=128)


def sizes(mesh):
    return (mesh.replica, mesh.data, mesh.fsdp, mesh.tensor, mesh.sequence)


@given(
    chips=st.sampled_from([1, 2, 4, 8, 16, 32, 64, 256]),
    slices=st.sampled_from([1, 2]),
    heads=st.sampled_from([8, 12, 16, 32]),
    rows=st.sampled_from([8, 64, 96, 512]),
    length=st.sampled_from([128, 2048, 8192]),
)
def test_all_of_them_fit(chips, slices, heads, rows, length):
    chips *= slices
    found = sensible_meshes(MeshConfig(), chips, slices, Limits(heads, heads // 4, rows, length))
    assert len({sizes(mesh) for mesh in found}) == len(found)
    for mesh in found:
        assert math.prod(sizes(mesh)) == chips
        assert mesh.replica == slices
        assert rows % (mesh.replica * mesh.data * mesh.fsdp) == 0
        assert (heads // 4) % mesh.tensor == 0
        assert length % mesh.sequence == 0
        assert mesh.tensor == 1 or mesh.sequence == 1


def test_simplest_first():
    found = [sizes(mesh)[1:] for mesh in sensible_meshes(MeshConfig(), 16, 1, BERT)]
    assert found[:2] == [(1, 16, 1, 1), (16, 1, 1, 1)]
    assert len(found) == 12
    assert all(sequence == 1 for *_, sequence in found)


def test_long_rows_may_be_split():
    found = sensible_meshes(MeshConfig(), 8, 1, Limits(12, 12, 8, 4096))
    assert max(mesh.sequence for mesh in found) == 8


def test_no_mesh_for_the_rows_says_which_would_do():
    experiment = read_experiment("bert-base")
    experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, batch_size=7))
    with pytest.raises(ConfigError, match=r"7 rows.*multiple of 16"):
        meshes_for(experiment, raw_config_of(experiment), 16, 1, 9)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_has_meshes(name):
    experiment = read_experiment(name)
    limits = limits_of(experiment, raw_config_of(experiment))
    assert limits.rows == SHAPES[name].rows
    assert limits.length == SHAPES[name].length
    assert meshes_for(experiment, raw_config_of(experiment), 16, 1, 4)


def test_auto_is_worked_out():
    mesh = fixed_mesh(MeshConfig(fsdp=4), 32, 2)
    assert sizes(mesh) == (2, 4, 4, 1, 1)
    with pytest.raises(ConfigError, match="sizes that fit"):
        fixed_mesh(MeshConfig(fsdp=3), 16, 1)
