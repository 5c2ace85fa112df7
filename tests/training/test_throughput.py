"""FLOPs against a count by hand, and where peaks come from."""

import jax
import numpy as np
import pytest

from jaxtune.models.bert import BertConfig
from jaxtune.models.heads import build_model, init_params
from jaxtune.training.throughput import matrix_parameters, peak_flops, training_flops

CONFIG = BertConfig(
    vocab_size=50, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=20
)


def test_matrix_parameters_are_those_of_the_layers():
    params = jax.eval_shape(lambda: init_params(build_model(CONFIG, "classification", 2), jax.random.key(0)))
    assert matrix_parameters(params) == 3 * (4 * 8 * 8 + 2 * 8 * 20)


def test_flops_by_hand():
    # Two examples of 3 and 5 tokens: 6 per parameter and token, 12·L·D per pair of tokens.
    assert training_flops(1000, 3, 8, np.array([3, 5])) == 6 * 1000 * 8 + 12 * 3 * 8 * (9 + 25)


def test_a_cpus_peak_is_measured_and_does_not_grow_with_fake_devices():
    peak, origin = peak_flops(8, "float32")
    assert origin.startswith("measured")
    assert 1e8 < peak < 1e14


@pytest.mark.parametrize(
    ("kind", "peak"), [("TPU v5 lite", 197e12), ("NVIDIA H100 80GB HBM3", 989e12), ("Some new chip", None)]
)
def test_accelerators_are_looked_up(monkeypatch, kind, peak):
    device = type("Device", (), {"platform": "gpu", "device_kind": kind})()
    monkeypatch.setattr(jax, "devices", lambda: [device])
    found, origin = peak_flops(4, "bfloat16")
    assert found == (None if peak is None else 4 * peak)
    assert kind.split()[0] in origin
