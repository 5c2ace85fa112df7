"""BERT against torch's numbers, and against itself in its other forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.families.bert import BertConfig
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.layers import Policy, dropout_key
from jaxtune.models.model import build_model, init_params
from tests.models.golden import FLOAT32, Golden, check_gradients, loss_and_gradient, to_torch

CLOSE = 2e-5


@pytest.fixture(scope="module")
def golden():
    return Golden("bert_tiny")


def hidden_at_real_tokens(golden, config, params, **options):
    hidden = build_model(config, None, policy=FLOAT32, **options).apply(
        {"params": {"backbone": params["backbone"]}}, *golden.inputs
    )
    return np.asarray(hidden)[golden["attention_mask"] == 1]


def test_hidden_pooled_and_logits_equal_torch(golden):
    config, params = golden.tiny()
    model = build_model(config, "classification", 3, FLOAT32)
    np.testing.assert_allclose(hidden_at_real_tokens(golden, config, params), golden["hidden"], atol=CLOSE)
    pooled = model.apply({"params": params}, *golden.inputs, method="pooled")[:, 0]
    np.testing.assert_allclose(pooled, golden["pooled"], atol=CLOSE)
    logits = model.apply({"params": params}, *golden.inputs)[:, 0]
    np.testing.assert_allclose(logits, golden["logits"], atol=CLOSE)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_the_activation_comes_from_the_config(golden, activation):
    config, params = golden.tiny(hidden_act=activation)
    ours = hidden_at_real_tokens(golden, config, params)
    np.testing.assert_allclose(ours, golden[f"{activation}/hidden"], atol=CLOSE)
    assert np.abs(ours - golden["hidden"]).max() > CLOSE, "the activations must be told apart"


def test_gradients_equal_torch(golden):
    config, params = golden.tiny()
    loss, gradient = loss_and_gradient(params, config, golden.inputs, golden["labels"])
    assert float(loss) == pytest.approx(float(golden["loss"]), abs=1e-5)
    check_gradients(golden, to_torch(gradient, config))


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize("scan", [False, True])
def test_scanned_and_rematerialised_forms_are_the_same_function(golden, scan, remat):
    config, params = golden.tiny()
    key = dropout_key(3, 4)
    config = config.with_dropout(0.1)
    inputs = tuple(None if x is None else jnp.asarray(x) for x in golden.inputs)

    def logits_and_gradient(params, **options):
        model = build_model(config, "classification", 3, FLOAT32, **options)

        def total(params):
            logits = model.apply({"params": params}, *inputs, dropout_key=key)
            return jnp.square(logits).sum(), logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        return logits, gradient

    expected = logits_and_gradient(params)
    form = stack_layers if scan else lambda tree: tree
    logits, gradient = logits_and_gradient(form(params), scan_layers=scan, remat=remat)
    np.testing.assert_allclose(logits, expected[0], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, form(expected[1]))


def test_packed_examples_do_not_see_each_other(golden):
    config, params = golden.tiny()
    model = build_model(config, "classification", 3, FLOAT32)
    ids, mask, types = (golden[k] for k in ("input_ids", "attention_mask", "token_type_ids"))
    lengths = mask.sum(1)
    total = int(lengths.sum()) + 5
    tokens, segments, positions, token_types = (np.zeros((1, total), np.int32) for _ in range(4))
    starts, at = np.zeros((1, len(ids)), np.int32), 0
    for n, length in enumerate(lengths):
        span = slice(at, at + length)
        tokens[0, span], token_types[0, span] = ids[n, :length], types[n, :length]
        segments[0, span], positions[0, span], starts[0, n] = n + 1, np.arange(length), at
        at += length
    packed = model.apply({"params": params}, tokens, segments, positions, token_types, starts)
    np.testing.assert_allclose(packed[0], golden["logits"], atol=CLOSE)


def test_what_lies_in_padding_changes_nothing(golden):
    config, params = golden.tiny()
    model = build_model(config, "classification", 3, FLOAT32)
    ids, mask, positions, types = golden.inputs
    noise = np.where(mask == 1, ids, 7)
    a, b = (model.apply({"params": params}, x, mask, positions, types) for x in (ids, noise))
    np.testing.assert_array_equal(a, b)


def test_dropout_hits_every_place_bert_has_it(golden):
    config, params = golden.tiny()
    key = dropout_key(0, 0)
    assert not any((config.with_dropout(0.0).head_dropout, config.with_dropout(0.0).hidden_dropout_prob))

    def logits(**rates):
        changed = BertConfig(**{**vars(config.with_dropout(0.0)), **rates})
        model = build_model(changed, "classification", 3, FLOAT32)
        return np.asarray(model.apply({"params": params}, *golden.inputs, dropout_key=key))

    plain = logits()
    np.testing.assert_allclose(plain[:, 0], golden["logits"], atol=CLOSE)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        assert np.abs(logits(**{name: 0.5}) - plain).max() > 1e-4, name


def test_bfloat16_is_close_and_leaves_float32_logits(golden):
    config, params = golden.tiny()
    model = build_model(config, "classification", 3, Policy(compute_dtype=jnp.bfloat16))
    logits = model.apply({"params": params}, *golden.inputs)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[:, 0], golden["logits"], atol=0.02)


@pytest.mark.parametrize(
    ("option", "value"),
    [("position_embedding_type", "relative_key"), ("is_decoder", True), ("hidden_act", "mish")],
)
def test_options_that_change_the_network_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r} is not supported"):
        BertConfig.from_hf({option: value})


def test_heads_are_checked():
    with pytest.raises(
        ValueError, match="unknown head 'poetry' for bert; expected one of classification, regression"
    ):
        build_model(BertConfig(), "poetry", 2)
    with pytest.raises(ValueError, match="at least one output"):
        build_model(BertConfig(), "classification", 0)


def test_the_head_starts_with_the_checkpoints_initializer_range():
    config = BertConfig(
        vocab_size=64, hidden_size=512, num_hidden_layers=1, num_attention_heads=8, initializer_range=0.5
    )
    params = init_params(build_model(config, "classification", 64), jax.random.key(0))
    assert float(params["head"]["classifier"]["kernel"].std()) == pytest.approx(0.5, rel=0.05)
    assert not params["head"]["classifier"]["bias"].any()
