"""What jaxtune asks of cuDNN's attention, computed by XLA: the same call with another implementation."""

import jax.numpy as jnp
import pytest
from attention_cases import compare, mesh_of, normal, padded

from jaxtune.models.attention import AttentionSpec
from jaxtune.models.kernels.cudnn import make_cudnn

AS_CUDNN = make_cudnn(implementation="xla")


def test_padded_causal_rows_with_a_window_and_grouped_queries():
    ids = padded(2, 48)
    spec = AttentionSpec(ids, ids, causal=True, window=7, scale=0.3)
    compare(AS_CUDNN, spec, rows=2, queries=48, heads=4, kv_heads=2, size=16)


@pytest.mark.slow
def test_padded_rows_that_see_everything():
    ids = padded(2, 48)
    compare(AS_CUDNN, AttentionSpec(ids, ids), rows=2, queries=48, size=16)


def test_queries_without_padding_see_keys_with_it():
    compare(AS_CUDNN, AttentionSpec(None, padded(2, 40)), rows=2, queries=24, keys=40, size=16)


@pytest.mark.slow
def test_rows_and_heads_on_eight_devices():
    ids = padded(4, 48)
    kernel = make_cudnn(mesh_of(data=2, fsdp=2, tensor=2), implementation="xla")
    spec = AttentionSpec(ids, ids, causal=True)
    compare(kernel, spec, rows=4, queries=48, heads=4, kv_heads=1, size=16)


def test_what_cudnn_does_not_take_is_refused():
    q = normal(0, 1, 32, 2, 16).astype(jnp.bfloat16)
    with pytest.raises(ValueError, match=r"soft-cap.*plain_attention"):
        make_cudnn()(q, q, q, AttentionSpec(soft_cap=2.0))
