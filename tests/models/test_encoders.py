"""Encoders against themselves: scanned, rematerialised, packed, with dropout, in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models import layers
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.layers import Policy, dropout_key
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import FAMILIES, family_of, family_of_config
from tests.models.family_cases_encoders import (
    DEBERTA_V2,
    DEBERTA_V3,
    DISTILBERT,
    ELECTRA,
    MODERNBERT,
    ROBERTA,
)

FLOAT32 = Policy(matmul_precision="highest")
OWN_KEYS = {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2}
CONFIGS = {
    name: family_of(raw["model_type"]).config_class.from_hf(raw)
    for name, raw in {
        "roberta": ROBERTA,
        "xlm-roberta": {**ROBERTA, "model_type": "xlm-roberta"},
        "distilbert": DISTILBERT,
        "electra": ELECTRA,
        "deberta-v2": DEBERTA_V3,
        "deberta-v2 with keys of its own": {**DEBERTA_V3, **OWN_KEYS},
        "deberta-v2 with a convolution": {**DEBERTA_V2, "conv_groups": 2},
        "modernbert": MODERNBERT,
    }.items()
}
DROPOUTS = {
    "roberta": 1 + 2 * 3 + 2,
    "xlm-roberta": 1 + 2 * 3 + 2,
    "distilbert": 1 + 2 * 3 + 1,
    "electra": 1 + 2 * 3 + 2,
    "deberta-v2": 1 + 2 * 4 + 2,
    "deberta-v2 with keys of its own": 1 + 2 * 4 + 2,
    "deberta-v2 with a convolution": 1 + 2 * 4 + 1 + 2,
    "modernbert": 1 + 3 * 3 + 1,
}
"""Dropouts torch has under a classifier: embeddings, layers, head."""
TOKENS = np.random.default_rng(0).integers(0, 101, (2, 9))
ONES = np.ones_like(TOKENS)


def built(config, head="classification", labels=3, **options):
    model = build_model(config, head, labels, FLOAT32, **options)
    shapes = jax.eval_shape(
        lambda key: init_params(build_model(config, head, labels), key), jax.random.key(0)
    )
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(center + rng.uniform(-0.5, 0.5, leaf.shape), jnp.float32)

    return model, jax.tree_util.tree_map_with_path(drawn, shapes)


def test_every_encoder_is_here():
    here = {family_of_config(config).model_type for config in CONFIGS.values()}
    baselines = {"bilstm", "textcnn"}
    assert here == {n for n, family in FAMILIES.items() if family.kind == "encoder"} - {"bert"} - baselines


@pytest.mark.parametrize("name", CONFIGS)
def test_scanned_or_rematerialised_layers_are_the_same_function(name):
    config = CONFIGS[name].with_dropout(0.1)

    def run(scan, remat):
        model, params = built(config, scan_layers=scan, remat=remat)
        params = stack_layers(params) if scan else params

        def total(params):
            logits = model.apply({"params": params}, TOKENS, ONES, dropout_key=dropout_key(0, 1))
            return jnp.square(logits).sum(), logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        return logits, gradient

    logits, gradient = run(scan=False, remat="none")
    assert np.abs(logits).max() > 0.1
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient)), "a parameter without an effect"
    if family_of_config(config).scannable(config):
        again, gradient_again = run(scan=True, remat="full")
        gradient = stack_layers(gradient)
    else:
        assert name in ("modernbert", "deberta-v2 with a convolution")
        again, gradient_again = run(scan=False, remat="dots")
        with pytest.raises(ValueError, match="scan_layers: the layers of this"):
            built(config, scan_layers=True)
    np.testing.assert_allclose(again, logits, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4), gradient_again, gradient
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_texts_do_not_see_each_other(name):
    model, params = built(CONFIGS[name], None)
    apply = jax.jit(model.apply)
    alone = apply({"params": params}, TOKENS, np.array([[1] * 4 + [0] * 5, [1] * 9]))
    tokens = np.concatenate([TOKENS[:1, :4], TOKENS[1:], np.full((1, 2), 7)], axis=1)
    segments = np.repeat([1, 2, 0], [4, 9, 2])[None]
    positions = np.concatenate([np.arange(4), np.arange(9), np.zeros(2, int)])[None]
    packed = apply({"params": params}, tokens, segments, positions)
    np.testing.assert_allclose(packed[0, :4], alone[0, :4], atol=2e-5)
    np.testing.assert_allclose(packed[0, 4:13], alone[1], atol=2e-5)
    assert np.isfinite(packed).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_dropout_is_there_and_has_bits_of_its_own(name, monkeypatch):
    sites = []
    bits = layers.dropout_bits

    def recorded(shape, key, site):
        sites.append(int(site))
        return bits(shape, key, site)

    monkeypatch.setattr(layers, "dropout_bits", recorded)
    key = dropout_key(0, 0)
    for rate, count in ((0.5, DROPOUTS[name]), (0.0, 0)):
        sites.clear()
        model, params = built(CONFIGS[name].with_dropout(rate))
        jax.eval_shape(
            lambda params, model=model: model.apply({"params": params}, TOKENS, ONES, dropout_key=key), params
        )
        assert len(sites) == len(set(sites)) == count


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_is_close_and_leaves_float32_logits(name):
    config = CONFIGS[name]
    model, params = built(config)
    fast = build_model(config, "classification", 3, Policy(compute_dtype=jnp.bfloat16))
    exact, logits = (jax.jit(m.apply)({"params": params}, TOKENS, ONES) for m in (model, fast))
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_of_every_head_has_a_name(name):
    config = CONFIGS[name]
    family = family_of_config(config)
    backbone = {f"backbone/{entry.path}" for entry in family.weight_map(config)}
    for head in ("mlm", "classification", "regression", "token_classification", "span"):
        model = build_model(config, head, 3)
        shapes = jax.eval_shape(lambda key, model=model: init_params(model, key), jax.random.key(0))
        paths = {
            "/".join(key.key for key in path) for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]
        }
        named = backbone | {f"head/{entry.path}" for entry in family.heads[head].weight_map(config)}
        assert paths <= named
        assert {path for path in named if path.startswith("head/")} <= paths
