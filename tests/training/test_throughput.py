"""FLOPs against a count by hand, and where peaks come from."""

import jax
import numpy as np
import pytest

from jaxtune.models.families.bert import BertConfig
from jaxtune.models.families.bilstm import BiLSTMConfig
from jaxtune.models.families.llama import LlamaConfig
from jaxtune.models.families.textcnn import TextCNNConfig
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of
from jaxtune.training.throughput import attention_width, matrix_parameters, peak_flops, training_flops
from tests.models.family_cases_all import CASES

CONFIG = BertConfig(
    vocab_size=50, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=20
)


@pytest.mark.parametrize(
    ("config", "matrices", "attention"),
    [
        (CONFIG, 3 * (4 * 8 * 8 + 2 * 8 * 20), 3 * 8),
        # Heads of 6 features: more in all than the width of the model; keys and values have one head.
        (
            LlamaConfig(
                vocab_size=50,
                hidden_size=8,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=6,
                intermediate_size=20,
            ),
            2 * (8 * 12 + 2 * 8 * 6 + 12 * 8 + 3 * 8 * 20),
            2 * 12,
        ),
        # Input and recurrent matrices of four gates, both ways; layers of different width; no attention.
        (
            BiLSTMConfig(vocab_size=50, embedding_size=5, hidden_size=6, num_hidden_layers=2),
            2 * (5 * 12 + 3 * 12) + 2 * (6 * 12 + 3 * 12),
            0,
        ),
        (TextCNNConfig(vocab_size=50, embedding_size=5, num_filters=7), (3 + 4 + 5) * 5 * 7, 0),
    ],
    ids=["bert", "llama", "bilstm", "textcnn"],
)
def test_work_is_counted_as_each_family_does_it(config, matrices, attention):
    params = jax.eval_shape(lambda: init_params(build_model(config, "classification", 2), jax.random.key(0)))
    assert matrix_parameters(params) == matrices
    assert attention_width(params) == attention


@pytest.mark.parametrize(
    "case",
    {case.model_type: case for case in CASES.values() if not case.seq2seq}.values(),
    ids=lambda case: case.model_type,
)
def test_the_attention_of_every_family_is_found(case):
    config = family_of(case.model_type).config_class.from_hf(case.config)
    params = jax.eval_shape(lambda: init_params(build_model(config, None), jax.random.key(0)))
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert attention_width(params) == config.num_hidden_layers * config.num_attention_heads * size


def test_flops_by_hand():
    # Two examples of 3 and 5 tokens: 6 per parameter and token, 12 per query feature and pair of tokens.
    assert training_flops(1000, 24, np.array([3, 5])) == 6 * 1000 * 8 + 12 * 24 * (9 + 25)
    # A third of it is the forward pass, which is all that a frozen backbone does.
    assert training_flops(1000, 24, np.array([3, 5]), frozen=True) == 2 * 1000 * 8 + 4 * 24 * (9 + 25)


def test_a_cpus_peak_is_measured_and_does_not_grow_with_fake_devices():
    peak, origin = peak_flops(8, "float32")
    assert origin.startswith("measured")
    assert 1e8 < peak < 1e14


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v3", 123e12 / 2),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("Some new chip", None),
    ],
)
def test_accelerators_are_looked_up(monkeypatch, kind, peak):
    device = type("Device", (), {"platform": "gpu", "device_kind": kind})()
    monkeypatch.setattr(jax, "devices", lambda: [device])
    found, origin = peak_flops(4, "bfloat16")
    assert found == (None if peak is None else 4 * peak)
    assert kind.split()[0] in origin
