"""Whole models with splash attention, interpreted on the CPU, against the same with plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import mesh_of, packed

from jaxtune.models.families.gemma2 import Gemma2Config
from jaxtune.models.kernels.choice import ChosenAttention, Place
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.model import build_model, init_params

CONFIG = Gemma2Config(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    windows=(50, 1 << 30),
    attention_soft_cap=5.0,
)
REMAT = ["none"]


@pytest.mark.slow
@pytest.mark.parametrize("remat", REMAT)
@pytest.mark.parametrize("scan", [False, True])
def test_a_decoder_with_windows_soft_cap_and_grouped_queries_on_a_mesh(scan, remat):
    ids = packed(4, 256)
    tokens = jax.random.randint(jax.random.key(1), ids.shape, 0, 48)
    canonical = init_params(build_model(CONFIG, "causal_lm"), jax.random.key(0))
    params = stack_layers(canonical) if scan else canonical

    def run(**options):
        model = build_model(CONFIG, "causal_lm", scan_layers=scan, remat=remat, **options)

        def loss(params):
            logits = model.apply({"params": params}, tokens, ids)[..., :48]
            return (jax.nn.log_softmax(logits)[..., 0] * (ids != 0)).sum() / ids.size

        return jax.jit(jax.value_and_grad(loss))(params)

    place = Place("tpu", mesh_of(data=2, tensor=2, sequence=2), CONFIG.windows, interpret=True)
    attention = ChosenAttention(place)
    loss, gradient = run(attention=attention)
    assert {choice.name for _, choice in attention.taken} == {"splash"}, attention.describe()
    expected, expected_gradient = run()
    np.testing.assert_allclose(loss, expected, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert jnp.isfinite(loss)
