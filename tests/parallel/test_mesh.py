"""Meshes over fake devices."""

import jax
import numpy as np
import pytest

from jaxtune.config import MeshConfig
from jaxtune.errors import ConfigError
from jaxtune.parallel.mesh import batch_sharding, check_rows, make_mesh, put_batch


def test_a_batch_is_split_over_the_devices_and_whole_in_sum():
    mesh = make_mesh(MeshConfig(data=4))
    rows = np.arange(24).reshape(8, 3)
    placed = put_batch({"tokens": rows}, batch_sharding(mesh))["tokens"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(np.asarray(placed), rows)


def test_all_devices_by_default():
    assert make_mesh(MeshConfig()).size == len(jax.devices()) == 8


def test_too_many_devices_are_refused():
    with pytest.raises(ConfigError, match=r"`mesh.data` is 9, but 8 cpu device"):
        make_mesh(MeshConfig(data=9))


def test_rows_that_do_not_divide_name_the_nearest_that_do():
    mesh = make_mesh(MeshConfig(data=4))
    check_rows(32, mesh, 4)
    with pytest.raises(ConfigError, match="use 16 or 32 rows"):
        check_rows(20, mesh, 4)
