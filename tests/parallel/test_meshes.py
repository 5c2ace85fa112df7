"""On any mesh twenty steps are those of one device: loss curve within 1e-5, final parameters within 1e-4."""

import itertools
from functools import cache

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec as P

from jaxtune.config import MeshConfig
from jaxtune.persistence.checkpoints import Checkpoints
from tests.parallel.curves import KINDS, LEARNING_RATE, STEPS, prepare, run

MESHES = {
    "data 8": {"data": 8},
    "fsdp 8": {"data": 1, "fsdp": 8},
    "data 2 fsdp 4": {"data": 2, "fsdp": 4},
    "fsdp 2 tensor 4": {"data": 1, "fsdp": 2, "tensor": 4},
    "data 2 fsdp 2 sequence 2": {"data": 2, "fsdp": 2, "sequence": 2},
    "pmap": {"mode": "pmap"},
}


@cache
def alone(kind, batching, dropout=0.0):
    return run(*prepare(kind, MeshConfig(devices=1), batching=batching, dropout=dropout))


def same_parameters(found, expected):
    """Within 1e-4; but key biases, whose gradient is zero by softmax's invariance and whose rounding Adam
    normalises, within what so many steps of any sign can be apart."""
    found, expected = flatten_dict(found, sep="/"), flatten_dict(expected, sep="/")
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        bound = 2 * STEPS * LEARNING_RATE if path.endswith("attention/key/bias") else 1e-4
        np.testing.assert_allclose(found[path], value, atol=bound, rtol=0, err_msg=path)


FAST = {("bert", "fsdp 2 tensor 4", "packed"), ("t5", "data 2 fsdp 2 sequence 2", "bucketed")}
CASES = [
    pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow)
    for case in itertools.product(KINDS, MESHES, ("packed", "bucketed"))
]


@pytest.mark.parametrize(("kind", "mesh", "batching"), CASES)
def test_same_curve_and_parameters_as_on_one_device(kind, mesh, batching):
    expected = alone(kind, batching)
    found = run(*prepare(kind, MeshConfig(**MESHES[mesh]), batching=batching))
    assert expected.losses[0] - expected.losses[-1] > 0.02, "it must learn, or equality says little"
    np.testing.assert_allclose(found.losses, expected.losses, atol=1e-5, rtol=0)
    same_parameters(found.params, expected.params)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mesh", [name for name in MESHES if name != "pmap"])
def test_dropout_does_not_depend_on_the_mesh(kind, mesh):
    expected = alone(kind, "packed", dropout=0.1)
    found = run(*prepare(kind, MeshConfig(**MESHES[mesh]), dropout=0.1))
    assert abs(expected.losses - alone(kind, "packed").losses).max() > 1e-3, "there is dropout"
    np.testing.assert_allclose(found.losses, expected.losses, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", [{"scan_layers": True}, {"scan_layers": True, "remat": "full"}, {"remat": "dots"}], ids=str
)
@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_scanned_and_rematerialised_layers_are_sharded_too(kind, form):
    expected = alone(kind, "packed")
    prepared, examples = prepare(kind, MeshConfig(data=1, fsdp=2, tensor=4), **form)
    found = run(prepared, examples)
    np.testing.assert_allclose(found.losses, expected.losses, atol=1e-5, rtol=0)
    same_parameters(found.params, expected.params)


def test_parameters_and_optimizer_lie_where_the_rules_say():
    prepared, _ = prepare("bert", MeshConfig(data=1, fsdp=2, tensor=4))
    state = prepared.initial_state(prepared.network.fresh_params(0))
    path = "backbone/layers/1/mlp_up/kernel"
    for tree in (state.trainable, state.opt_state[1].mu):
        kernel = flatten_dict(tree, sep="/")[path]
        assert kernel.sharding.spec == P("fsdp", "tensor")
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(64, 64)}
    assert state.step.sharding.is_fully_replicated


@pytest.mark.slow
@pytest.mark.parametrize(
    "after",
    [
        ({"data": 2, "tensor": 4}, {}),
        ({"devices": 1}, {}),
        ({"data": 1, "fsdp": 4, "devices": 4}, {"scan_layers": True}),
    ],
    ids=lambda value: ", ".join(f"{k} {v}" for part in value for k, v in part.items()),
)
def test_a_checkpoint_goes_on_on_another_mesh(tmp_path, after):
    """Saved on fsdp 8: the same batches, and the same curve to its end."""
    mesh, form = after
    expected = alone("gpt2", "packed")
    with Checkpoints(str(tmp_path)) as checkpoints:
        first = run(*prepare("gpt2", MeshConfig(data=1, fsdp=8)), save=checkpoints, until=8)
        then = run(*prepare("gpt2", MeshConfig(**mesh), **form), resume=checkpoints)
    losses = np.concatenate([first.losses, then.losses])
    np.testing.assert_allclose(losses, expected.losses, atol=1e-5, rtol=0)
    same_parameters(then.params, expected.params)
