"""Parameters onto devices: the same numbers whatever the sharding, and each device reads only its part."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jaxtune.hub.placing import placer
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.tensor_files.leaves import Leaf, all_finite
from jaxtune.hub.tensor_files.tensors import ArrayTensor
from tests.hub.families import ALL, BERT_MLM, GPT2, LLAMA, rewrite, tensors_of, write_family


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))


def everything_split(mesh):
    """Every axis that can be is split, the first over "a", the second over "b"."""

    def sharding(path, shape):
        names = [n if size % mesh.shape[n] == 0 else None for n, size in zip(("a", "b"), shape)]
        return NamedSharding(mesh, P(*names))

    return sharding


def assert_same(one, other):
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree_util.tree_leaves_with_path(other), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=str(path))


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("family", ALL)
def test_the_same_numbers_under_any_sharding(tmp_path, mesh, family, scan_layers):
    folder = write_family(tmp_path / "in", ALL[family])
    plain = load_pretrained(folder, "auto", scan_layers=scan_layers)
    seen = {}

    def sharding(path, shape):
        seen[path] = shape
        return everything_split(mesh)(path, shape)

    split = load_pretrained(folder, "auto", scan_layers=scan_layers, sharding=sharding)
    assert_same(plain.params, split.params)
    paths = {
        "/".join(k.key for k in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(split.params)
    }
    assert seen == {path: leaf.shape for path, leaf in paths.items()}
    for path, leaf in paths.items():
        assert leaf.sharding == everything_split(mesh)(path, leaf.shape)
    assert any(len({str(s.index) for s in leaf.addressable_shards}) == 8 for leaf in paths.values())


@pytest.mark.parametrize("scan_layers", [False, True])
def test_what_is_newly_initialised_goes_where_it_should(make_checkpoint, make_tensors, mesh, scan_layers):
    """A missing head, and a missing bias of one layer, so that layers cannot be read stacked."""
    tensors = make_tensors()
    del tensors["encoder.layer.1.output.dense.bias"]
    folder = make_checkpoint(tensors=tensors)
    given = {"labels": ("a", "b"), "scan_layers": scan_layers}
    plain = load_pretrained(folder, "classification", **given)
    split = load_pretrained(folder, "classification", sharding=everything_split(mesh), **given)
    assert_same(plain.params, split.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(split.params):
        assert leaf.sharding == everything_split(mesh)(path, leaf.shape)


@pytest.mark.parametrize(
    ("stored", "param_dtype", "want"),
    [
        (np.float16, "float32", "float32"),
        (ml_dtypes.bfloat16, "float32", "float32"),
        (ml_dtypes.bfloat16, "auto", "bfloat16"),
        (np.float16, "auto", "float32"),
        (np.float32, "auto", "float32"),
        (np.float32, "bfloat16", "bfloat16"),
    ],
)
def test_types_of_parameters(tmp_path, stored, param_dtype, want):
    folder = write_family(tmp_path / "in", BERT_MLM)
    tensors = {name: tensor.astype(stored) for name, tensor in tensors_of(folder).items()}
    model = load_pretrained(rewrite(folder, tensors), "auto", param_dtype=param_dtype)
    leaves = jax.tree.leaves(model.params)
    assert {leaf.dtype.name for leaf in leaves} == {want}
    bias = np.asarray(model.params["backbone"]["layers"]["0"]["mlp_up"]["bias"])
    np.testing.assert_array_equal(
        bias, tensors["bert.encoder.layer.0.intermediate.dense.bias"].astype(bias.dtype)
    )
    assert model([[1, 2, 3]]).dtype == np.float32


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="unknown param_dtype 'int8'; expected one of float32, bfloat16, auto"
    ):
        load_pretrained(tmp_path, param_dtype="int8")


class Counting(ArrayTensor):
    """Remembers which rows were asked for."""

    def __init__(self, array):
        super().__init__(array)
        self.asked = []

    def rows(self, start, stop):
        self.asked.append((start, stop))
        return super().rows(start, stop)


def test_each_part_is_read_once_however_many_devices_hold_it(mesh):
    array = np.arange(64 * 6, dtype=np.float32).reshape(64, 6)
    stored = Counting(array)
    rows = NamedSharding(mesh, P("a"))
    placed = placer("float32", lambda path, shape: rows)("x", Leaf("x", stored, (64, 6)))
    np.testing.assert_array_equal(placed, array)
    assert sorted(stored.asked) == [(0, 16), (16, 32), (32, 48), (48, 64)]
    stored.asked.clear()
    turned = placer("float32", lambda path, shape: rows)(
        "x", Leaf("x", Counting(array.T.copy()), (64, 6), turned=True)
    )
    np.testing.assert_array_equal(turned, array)


def test_only_the_devices_of_the_sharding_are_used():
    device = jax.devices()[5]
    placed = placer("float32", lambda path, shape: SingleDeviceSharding(device))(
        "x", Leaf("x", ArrayTensor(np.ones((3, 2), np.float32)), (3, 2))
    )
    assert placed.devices() == {device}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (130, 70), (64, 3), (0, 4)])
def test_any_block_of_a_leaf_is_that_block_of_the_whole(shape, turned):
    rng = np.random.default_rng(0)
    array = rng.normal(size=shape).astype(np.float32)
    leaf = Leaf("x", ArrayTensor(array.T.copy() if turned else array), shape, turned=turned)
    for _ in range(20):
        index = tuple(slice(*sorted(rng.integers(0, n + 1, 2).tolist())) for n in shape)
        np.testing.assert_array_equal(leaf.block(index, np.float32), array[index])


def test_padding_is_zero_in_any_block():
    """Sixty words in a table of 128 rows: blocks before, across and beyond the end of the file's."""
    array = np.ones((60, 4), np.float32)
    leaf = Leaf("x", ArrayTensor(array), (128, 4))
    whole = np.concatenate([array, np.zeros((68, 4), np.float32)])
    for start, stop in ((0, 128), (0, 32), (32, 64), (64, 96), (96, 128)):
        np.testing.assert_array_equal(
            leaf.block((slice(start, stop), slice(1, 3)), np.float32), whole[start:stop, 1:3]
        )


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_all_finite(dtype):
    array = np.random.default_rng(0).normal(size=100).astype(dtype)
    largest = ml_dtypes.finfo(dtype).max
    assert all_finite(array)
    assert all_finite(np.array([0.0, -0.0, largest, -largest], dtype))
    assert all_finite(-np.abs(array))
    assert all_finite(array[:0])
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        for index in (0, 50, 99):
            broken = -np.abs(array)
            broken[index] = bad
            assert not all_finite(broken)
            assert all_finite(np.delete(broken, index))


def test_a_fused_tensor_may_be_sharded_too(tmp_path, mesh):
    folder = write_family(tmp_path / "in", GPT2)
    split = load_pretrained(folder, "auto", sharding=everything_split(mesh))
    fused = tensors_of(folder)["transformer.h.0.attn.c_attn.weight"]
    value = split.params["backbone"]["layers"]["0"]["attention"]["value"]["kernel"]
    np.testing.assert_array_equal(value, fused[:, 32:])
    assert value.addressable_shards[0].data.shape == (4, 8)


def test_the_default_device_is_used_without_a_sharding(tmp_path):
    model = load_pretrained(write_family(tmp_path / "in", LLAMA), "auto")
    assert {d for leaf in jax.tree.leaves(model.params) for d in leaf.devices()} == {jax.devices()[0]}
