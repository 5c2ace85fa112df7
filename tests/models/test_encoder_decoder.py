"""Encoder-decoders against themselves: cached, scanned, packed, with dropout; and what their config.json may say."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.encoder_decoder import sinusoids
from jaxtune.models.families.bart import BartConfig, MBartConfig
from jaxtune.models.families.marian import MarianConfig, PegasusConfig
from jaxtune.models.families.t5 import MT5Config, T5Config
from jaxtune.models.families.transformer import TransformerConfig
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.layers import Policy, dropout_key
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import FAMILIES

VOCAB = 60
T5 = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 1,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
}
BART = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 32,
    "init_std": 0.3,
    "pad_token_id": 1,
}
CONFIGS = {
    "t5": T5Config.from_hf(T5),
    "mt5": MT5Config.from_hf(T5),
    "bart": BartConfig.from_hf(BART),
    "mbart": MBartConfig.from_hf({**BART, "scale_embedding": True}),
    "marian": MarianConfig.from_hf({**BART, "share_encoder_decoder_embeddings": False}),
    "pegasus": PegasusConfig.from_hf(BART),
    "transformer": TransformerConfig.from_hf({**BART, "normalize_before": True}),
}
rng = np.random.default_rng(0)
SOURCE, TARGET = rng.integers(2, VOCAB, (2, 9)), rng.integers(2, VOCAB, (2, 7))
SOURCE_MASK = (np.arange(9) < [[9], [6]]).astype(np.int32)


@functools.cache
def drawn(config):
    """Parameters that are all random, so that no bias and no scale is without effect."""
    model = build_model(config, "seq2seq_lm")
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    numbers = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        spread = 0.6 if name == "embedding" else 0.3
        center = 1.0 if name == "scale" else 0.0
        return (center + spread * numbers.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def built(config, **options):
    return build_model(config, "seq2seq_lm", 0, Policy(matmul_precision="highest"), **options), drawn(
        config.with_dropout(0.0)
    )


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, source=SOURCE, mask=SOURCE_MASK, target=TARGET, target_mask=None, **arguments):
    target_mask = jnp.ones_like(target) if target_mask is None else target_mask
    return model.apply({"params": params}, source, mask, target, target_mask, **arguments)[..., :VOCAB]


def test_every_encoder_decoder_is_here():
    assert set(CONFIGS) == {name for name, family in FAMILIES.items() if family.kind == "encoder_decoder"}


@pytest.mark.parametrize("name", ["t5", "marian"])
def test_cached_decoding_under_scan_is_full_recomputation(name):
    config = CONFIGS[name]
    model, params = built(config, scan_layers=True)
    full = np.asarray(forward(*built(config)))
    params = stack_layers(params)

    @jax.jit
    def extend(tokens, cache):
        return model.apply({"params": params}, tokens, jnp.ones_like(tokens), cache, method="extend")

    start = jax.jit(lambda ids: model.apply({"params": params}, ids, SOURCE_MASK, 11, method="start"))
    cache = start(SOURCE)
    assert len(cache.cross) == len(cache.layers) == 2
    assert cache.cross[0].keys.shape[:2] == (2, 9)
    pieces = []
    for start, stop in ((0, 3), (3, 4), (4, 5), (5, 7)):
        logits, cache = extend(TARGET[:, start:stop], cache)
        pieces.append(logits[..., :VOCAB])
    assert int(cache.index) == 7
    np.testing.assert_allclose(
        np.concatenate(pieces, 1), full, atol=1e-5 * max(1, np.abs(full).max()), rtol=0
    )


@pytest.mark.parametrize(("name", "scan", "remat"), [("mt5", True, "full"), ("marian", False, "dots")])
def test_scanned_and_rematerialised_forms_are_the_same_function(name, scan, remat):
    config = dataclasses.replace(
        CONFIGS[name].with_dropout(0.2), encoder_layerdrop=0.3, decoder_layerdrop=0.3
    )

    def run(scan, remat):
        model, params = built(config, scan_layers=scan, remat=remat)

        def total(params):
            logits = forward(model, params, dropout_key=dropout_key(0, 1))
            return jnp.square(logits).mean(), logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(
            stack_layers(params) if scan else params
        )
        return logits, gradient if scan else stack_layers(gradient)

    logits, gradient = run(scan=False, remat="none")
    again, gradient_again = run(scan, remat)
    np.testing.assert_allclose(again, logits, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), gradient_again, gradient
    )


@pytest.mark.parametrize("name", ["marian", "transformer"])
def test_packed_pairs_see_only_their_own_source(name):
    model, params = built(CONFIGS[name])
    apart = forward(model, params)
    source = np.concatenate([SOURCE[:1], SOURCE[1:, :6]], axis=1)
    segments, positions = [], []
    for sizes in ((9, 6), (7, 4)):
        segments.append(np.repeat([1, 2], sizes)[None])
        positions.append(np.concatenate([np.arange(n) for n in sizes])[None])
    packed = forward(
        model,
        params,
        source,
        segments[0],
        np.concatenate([TARGET[:1], TARGET[1:, :4]], axis=1),
        segments[1],
        positions=positions[0],
        decoder_positions=positions[1],
    )
    np.testing.assert_allclose(packed[0, :7], apart[0], atol=1e-5)
    np.testing.assert_allclose(packed[0, 7:], apart[1, :4], atol=1e-5)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_decoder_sees_nothing_ahead_and_no_padding(name):
    model, params = built(CONFIGS[name])
    plain = forward(model, params)
    ahead = np.array(TARGET)
    ahead[:, 4:] = 2 + (ahead[:, 4:] + 5) % (VOCAB - 2)
    changed = forward(model, params, target=ahead)
    np.testing.assert_array_equal(changed[:, :4], plain[:, :4])
    assert np.abs(changed[:, 4:] - plain[:, 4:]).max() > 1e-3
    hidden = np.where(SOURCE_MASK == 1, SOURCE, 7)
    np.testing.assert_array_equal(forward(model, params, hidden), plain)


@pytest.mark.parametrize("name", ["t5", "mbart"])
def test_dropout_hits_every_place(name):
    quiet = CONFIGS[name].with_dropout(0.0)
    model, params = built(quiet)
    plain = forward(model, params)
    np.testing.assert_array_equal(forward(model, params, dropout_key=dropout_key(0, 0)), plain)
    rates = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
    for rate in rates:
        model, _ = built(dataclasses.replace(quiet, **{rate: 0.5}))
        assert np.abs(forward(model, params, dropout_key=dropout_key(0, 0)) - plain).max() > 1e-3, rate
        np.testing.assert_array_equal(forward(model, params), plain)


def test_a_layer_that_is_left_out_changes_nothing():
    config = dataclasses.replace(CONFIGS["mbart"].with_dropout(0.0), encoder_layerdrop=1 - 1e-7)
    model, params = built(config)
    empty = jax.tree.map(lambda leaf: 0 * leaf, params["backbone"]["encoder"]["layers"])
    without = {**params["backbone"], "encoder": {**params["backbone"]["encoder"], "layers": empty}}
    dropped = forward(model, params, dropout_key=dropout_key(0, 0))
    # A pre-norm layer of zeros adds nothing to its input.
    np.testing.assert_allclose(dropped, forward(model, {**params, "backbone": without}), atol=1e-6)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_bfloat16_is_close_and_leaves_float32_logits(name):
    _, params = built(CONFIGS[name])
    model = build_model(CONFIGS[name], "seq2seq_lm", 0, Policy(compute_dtype=jnp.bfloat16))
    plain, logits = forward(built(CONFIGS[name])[0], params), forward(model, params)
    assert logits.dtype == jnp.float32
    assert np.abs(logits - plain).mean() < 0.03 * np.abs(plain).mean() + 0.02


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_has_a_name_and_the_other_way_round(name):
    config, family = CONFIGS[name], FAMILIES[name]
    params = drawn(config)
    for part, entries in (
        ("backbone", family.weight_map(config)),
        ("head", family.heads["seq2seq_lm"].weight_map(config)),
    ):
        there = {
            "/".join(key.key for key in path)
            for path, _ in jax.tree_util.tree_flatten_with_path(params.get(part, {}))[0]
        }
        assert there == {entry.path for entry in entries}
        names = [name for entry in entries for name in (entry.hf, *entry.aliases)]
        assert len(names) == len(set(names))


def test_sinusoids_are_sines_then_cosines():
    table = sinusoids(50, 6)
    for position in (0, 1, 7, 49):
        angles = [position / 10000 ** (2 * i / 6) for i in range(3)]
        np.testing.assert_allclose(table[position], [*np.sin(angles), *np.cos(angles)], atol=1e-7)


@pytest.mark.parametrize(
    ("model_type", "option", "value"),
    [
        ("t5", "feed_forward_proj", "gated-mish"),
        ("t5", "feed_forward_proj", "double-gelu"),
        ("t5", "dense_act_fn", "mish"),
        ("t5", "is_encoder_decoder", False),
        ("mt5", "is_decoder", True),
        ("mt5", "relative_attention_num_buckets", 3),
        ("bart", "activation_function", "mish"),
        ("bart", "normalize_before", True),
        ("bart", "tie_word_embeddings", False),
        ("bart", "static_position_embeddings", True),
        ("mbart", "add_final_layer_norm", False),
        ("mbart", "normalize_embedding", False),
        ("marian", "normalize_embedding", True),
        ("marian", "static_position_embeddings", False),
        ("marian", "decoder_vocab_size", 30),
        ("pegasus", "normalize_before", False),
        ("transformer", "normalize_embedding", True),
    ],
)
def test_options_that_change_the_network_are_refused_by_name(model_type, option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r} is not supported; use"):
        FAMILIES[model_type].config_class.from_hf({option: value})


@pytest.mark.parametrize(
    ("model_type", "side", "ours"),
    [("bart", "encoder", "num_attention_heads"), ("transformer", "decoder", "decoder_attention_heads")],
)
def test_heads_must_divide_the_width(model_type, side, ours):
    with pytest.raises(ValueError, match=f"hidden_size=16 is not divisible by {ours}=3"):
        FAMILIES[model_type].config_class.from_hf({**BART, f"{side}_attention_heads": 3})
