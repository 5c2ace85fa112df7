"""ModernBERT: who sees whom, old and new config.json, pooling of packed rows, refused options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.families.modernbert import GLOBAL, LOCAL, ModernBertConfig
from jaxtune.models.model import build_model, init_params
from jaxtune.models.rotary import Rotary
from jaxtune.models.rows import mean_tokens
from tests.models.family_cases_encoders import MODERNBERT

TODAY = {
    **{name: value for name, value in MODERNBERT.items() if "rope" not in name and "global" not in name},
    "layer_types": [GLOBAL, LOCAL, LOCAL],
    "rope_parameters": {
        GLOBAL: {"rope_type": "default", "rope_theta": 160000.0},
        LOCAL: {"rope_type": "default", "rope_theta": 10000.0},
    },
}


def test_old_and_new_settings_are_the_same_network():
    old, new = ModernBertConfig.from_hf(MODERNBERT), ModernBertConfig.from_hf(TODAY)
    assert old == new
    assert hash(old) == hash(new)
    assert ModernBertConfig.from_hf({}) == ModernBertConfig()


def test_each_type_of_layer_has_its_own_angles():
    config = ModernBertConfig.from_hf({**MODERNBERT, "global_rope_theta": 500.0, "local_rope_theta": 20.0})
    assert (config.global_rotary, config.local_rotary) == (Rotary(500.0), Rotary(20.0))
    null = ModernBertConfig.from_hf({**MODERNBERT, "global_rope_theta": 500.0, "local_rope_theta": None})
    assert null.local_rotary == Rotary(500.0)
    scaled = {**TODAY["rope_parameters"][GLOBAL], "rope_type": "linear", "factor": 4.0}
    new = ModernBertConfig.from_hf({**TODAY, "rope_parameters": {GLOBAL: scaled, LOCAL: None}})
    assert (new.global_rotary.kind, new.global_rotary.factor) == ("linear", 4.0)
    assert new.local_rotary == Rotary(10000.0)


@pytest.mark.parametrize(("local_attention", "reach"), [(6, 3), (7, 3), (2, 1)])
def test_a_local_layer_sees_half_of_the_window_on_each_side(local_attention, reach):
    changes = {"num_hidden_layers": 1, "layer_types": [LOCAL], "local_attention": local_attention}
    model = build_model(ModernBertConfig.from_hf({**MODERNBERT, **changes}), None)
    params = init_params(model, jax.random.key(0))
    run = jax.jit(lambda tokens: model.apply({"params": params}, tokens, jnp.ones_like(tokens)))
    tokens = jnp.arange(11)[None]
    changed = np.abs(run(tokens.at[0, 5].set(77)) - run(tokens))[0].max(axis=-1) > 0
    assert changed.nonzero()[0].tolist() == list(range(5 - reach, 5 + reach + 1))


def test_the_mean_is_that_of_each_example():
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.bfloat16)
    segments = jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]])
    starts = jnp.array([[0, 2], [0, 0]])
    packed = mean_tokens(hidden, segments, starts)
    assert packed.dtype == jnp.bfloat16
    exact = np.asarray(hidden, np.float32)
    np.testing.assert_allclose(packed[0], [exact[0, :2].mean(0), exact[0, 2:5].mean(0)], atol=0.01)
    np.testing.assert_allclose(packed[1, 0], exact[1, :4].mean(0), atol=0.01)
    np.testing.assert_array_equal(mean_tokens(hidden[1:], segments[1:], None)[0, 0], packed[1, 0])


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("classifier_pooling", "max", "classifier_pooling='max' is not supported; use one of 'cls', 'mean'"),
        ("hidden_activation", "mish", "hidden_activation='mish' is not supported"),
        ("classifier_activation", "mish", "classifier_activation='mish' is not supported"),
        ("tie_word_embeddings", False, "tie_word_embeddings=False is not supported"),
        ("position_embedding_type", "rope", "position_embedding_type='rope' is not supported"),
        ("layer_types", [GLOBAL, "chunked_attention", LOCAL], "layer_types='chunked_attention' is not supp"),
        ("layer_types", [GLOBAL, LOCAL], "layer_types names 2 layers, num_hidden_layers=3"),
        ("num_attention_heads", 5, "hidden_size=32 is not divisible by num_attention_heads=5"),
        ("rope_parameters", {GLOBAL: {"rope_type": "dynamic"}}, "rope_type='dynamic' is not supported"),
    ],
)
def test_options_that_change_the_network_are_refused_by_name(option, value, said):
    with pytest.raises(ValueError, match=said):
        ModernBertConfig.from_hf({**MODERNBERT, option: value})
