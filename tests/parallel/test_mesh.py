"""Meshes over fake devices."""

import numpy as np
import pytest

from jaxtune.config import MeshConfig
from jaxtune.errors import ConfigError
from jaxtune.parallel.mesh import (
    axis_sizes,
    batch_sharding,
    check_length,
    check_rows,
    local_rows,
    make_mesh,
    put_batch,
)


def test_a_batch_is_split_over_the_devices_and_whole_in_sum():
    mesh = make_mesh(MeshConfig(devices=4))
    rows = np.arange(24).reshape(8, 3)
    placed = put_batch({"tokens": rows}, batch_sharding(mesh))["tokens"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(np.asarray(placed), rows)


def test_all_devices_by_default():
    assert dict(make_mesh(MeshConfig()).shape) == {
        "replica": 1,
        "data": 8,
        "fsdp": 1,
        "tensor": 1,
        "sequence": 1,
    }


def test_what_is_left_goes_to_the_axis_that_is_auto():
    assert axis_sizes(MeshConfig(fsdp=2, tensor=2), 8)["data"] == 2
    assert axis_sizes(MeshConfig(data=1, fsdp="auto", tensor=2), 8)["fsdp"] == 4
    assert axis_sizes(MeshConfig(data=None), 8)["data"] == 8  # as older files have it


def test_some_of_the_devices():
    assert make_mesh(MeshConfig(devices=2)).size == 2
    with pytest.raises(ConfigError, match=r"`mesh.devices` is 9, but 8 cpu device"):
        make_mesh(MeshConfig(devices=9))


def test_sizes_that_do_not_multiply_to_the_devices_name_those_that_do():
    with pytest.raises(
        ConfigError,
        match=r"data 3 × fsdp 4 needs 12 devices, and 8 are here; sizes that fit: data 2 × fsdp 4;",
    ):
        axis_sizes(MeshConfig(data=3, fsdp=4), 8)
    with pytest.raises(ConfigError, match=r"the mesh data 4 needs 4 devices, and 8 are here"):
        axis_sizes(MeshConfig(data=4), 8)
    with pytest.raises(
        ConfigError, match=r"tensor 3 needs 3 devices or a multiple, and 8 are here; sizes that fit: "
    ):
        axis_sizes(MeshConfig(tensor=3), 8)
    with pytest.raises(ConfigError, match=r"`mesh.data` and `mesh.fsdp` are both auto"):
        axis_sizes(MeshConfig(fsdp="auto"), 8)


def test_only_replica_crosses_slices():
    assert axis_sizes(MeshConfig(), 8, slices=2) == {
        "replica": 2,
        "data": 4,
        "fsdp": 1,
        "tensor": 1,
        "sequence": 1,
    }
    with pytest.raises(ConfigError, match=r"`mesh.replica` is 1, but the devices are 2 slices"):
        axis_sizes(MeshConfig(replica=1), 8, slices=2)


def test_pmap_knows_data_alone():
    with pytest.raises(ConfigError, match=r"`mesh.mode` is pmap, and the mesh is data 4 × fsdp 2"):
        make_mesh(MeshConfig(mode="pmap", fsdp=2))


def test_rows_that_do_not_divide_name_the_nearest_that_do():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    check_rows(32, mesh, 4)
    with pytest.raises(ConfigError, match=r"data 2 × fsdp 2.*use 16 or 32 rows"):
        check_rows(20, mesh, 4)


def test_tokens_that_do_not_divide_name_the_next_length_that_does():
    mesh = make_mesh(MeshConfig(data=2, sequence=4))
    check_length(128, mesh)
    with pytest.raises(ConfigError, match=r"126 tokens.*`mesh.sequence` 4; use .* 128"):
        check_length(126, mesh)


def test_local_rows_are_all_of_them_in_one_process():
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    np.testing.assert_array_equal(local_rows(batch_sharding(mesh), 6), np.arange(6))
