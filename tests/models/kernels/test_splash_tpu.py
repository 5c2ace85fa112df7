"""Splash attention compiled by the TPU compiler, which runs on a machine without one."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jaxtune.models.attention import ATTENTION_OUTPUT, AttentionSpec
from jaxtune.models.kernels.splash import make_splash

topology, cases = sys.argv[1], json.loads(sys.argv[2])
axes = ("replica", "data", "fsdp", "tensor", "sequence")
devices = topologies.get_topology_desc(topology, "tpu").devices
for case in cases:
    shape = tuple(case["mesh"].get(axis, 1) for axis in axes)
    here = np.array(devices[: int(np.prod(shape))]).reshape(shape)
    mesh = Mesh(here, axes, axis_types=(AxisType.Auto,) * len(axes))
    rows, length, heads, kv_heads, size = case["shape"]
    lies = NamedSharding(mesh, P(axes[:3], "sequence"))
    q = jax.ShapeDtypeStruct((rows, length, heads, size), case["dtype"], sharding=lies)
    k = jax.ShapeDtypeStruct((rows, length, kv_heads, size), case["dtype"], sharding=lies)
    ids = jax.ShapeDtypeStruct((rows, length), "int32", sharding=lies)
    splash = make_splash(mesh)
    policy = jax.checkpoint_policies.save_only_these_names(*[ATTENTION_OUTPUT] * case["kept"])

    @partial(jax.checkpoint, policy=policy)
    def layer(q, k, v, ids):
        return jnp.sin(splash(jnp.sin(q), k, v, AttentionSpec(ids, ids, **case["spec"])))

    def loss(q, k, v, ids):
        return layer(q, k, v, ids).astype("float32").sum()

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(q, k, k, ids).compile()
    print("kernels", compiled.as_text().count('custom_call_target="tpu_custom_call"'))
"""

ALONE, OVER_ALL = {}, {"data": 2, "tensor": 2, "sequence": 2}
WINDOW = {"causal": True, "window": 300, "soft_cap": 30.0, "scale": 0.1}


def case(mesh, shape, spec, dtype="bfloat16", kept=True):
    return {"mesh": mesh, "shape": shape, "spec": spec, "dtype": dtype, "kept": kept}


CASES = [
    (case(ALONE, [2, 512, 12, 12, 64], {}), 3),
    (case(ALONE, [2, 512, 12, 12, 64], {}, kept=False), 4),
    (case(ALONE, [1, 600, 4, 1, 256], WINDOW, "float32"), 3),
    (case(OVER_ALL, [8, 512, 12, 12, 64], {}), 3),
    (case(OVER_ALL, [4, 2048, 32, 8, 128], {"causal": True}), 3),
    (case(OVER_ALL, [2, 1000, 8, 1, 80], WINDOW), 3),
    (case({"fsdp": 8}, [8, 8192, 32, 8, 128], {"causal": True}), 3),
]
"""With the kernels of a forward and a backward pass: one and two, and the first once more if nothing is kept."""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)
@pytest.mark.parametrize(("topology", "cases"), [("v5e:2x4", CASES), ("v5p:2x2x2", CASES[3:5])])
def test_forward_and_backward_compile_for_tpu(topology, cases):
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    asked = json.dumps([case for case, _ in cases])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, topology, asked], env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("kernels")]
    assert found == [kernels for _, kernels in cases]
