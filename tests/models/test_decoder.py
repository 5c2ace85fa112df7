"""Decoders against themselves: scanned, rematerialised, packed; and what their configurations refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.decoder import NO_WINDOW, alternating, layer_windows
from jaxtune.models.families.gemma2 import Gemma2Config
from jaxtune.models.families.gemma3 import Gemma3Config
from jaxtune.models.families.gpt2 import GPT2Config
from jaxtune.models.families.llama import LlamaConfig
from jaxtune.models.families.mistral import MistralConfig
from jaxtune.models.families.qwen2 import Qwen2Config
from jaxtune.models.families.qwen3 import Qwen3Config
from jaxtune.models.families.smollm3 import SmolLM3Config
from jaxtune.models.layer_stack import stack_layers
from jaxtune.models.layers import Policy, dropout_key
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import FAMILIES

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
    "sliding_window": 3,
}
CONFIGS = {
    "gpt2": GPT2Config.from_hf(
        {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
    ),
    "llama": LlamaConfig.from_hf(SMALL),
    "mistral": MistralConfig.from_hf(SMALL),
    "qwen2": Qwen2Config.from_hf({**SMALL, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": Qwen3Config.from_hf({**SMALL, "head_dim": 8}),
    "smollm3": SmolLM3Config.from_hf({**SMALL, "no_rope_layer_interval": 2}),
    "gemma2": Gemma2Config.from_hf({**SMALL, "head_dim": 8}),
    "gemma3_text": Gemma3Config.from_hf({**SMALL, "head_dim": 8, "sliding_window_pattern": 2}),
}
TOKENS = np.random.default_rng(0).integers(0, 60, (2, 9))


def built(config, head="causal_lm", labels=0, **options):
    model = build_model(config, head, labels, Policy(matmul_precision="highest"), **options)
    plain = build_model(config, head, labels)
    return model, init_params(plain, jax.random.key(1))


def test_every_decoder_is_here():
    assert set(CONFIGS) == {name for name, family in FAMILIES.items() if family.kind == "decoder"}


# One with layers of its own; windows that differ and biases; rotary embeddings that differ and norms on both sides.
@pytest.mark.parametrize("name", ["gpt2", "qwen2", "gemma3_text"])
def test_scanned_and_rematerialised_forms_are_the_same_function(name):
    config = CONFIGS[name].with_dropout(0.1)

    def run(scan, remat):
        model, params = built(config, scan_layers=scan, remat=remat)
        params = stack_layers(params) if scan else params

        def total(params):
            logits = jax.jit(model.apply)(
                {"params": params}, TOKENS, np.ones_like(TOKENS), dropout_key=dropout_key(0, 1)
            )[..., :60]
            return jnp.square(logits).sum(), logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        return logits, gradient if scan else stack_layers(gradient)

    logits, gradient = run(scan=False, remat="none")
    for scan, remat in ((True, "full"), (False, "dots")):
        again, gradient_again = run(scan, remat)
        np.testing.assert_allclose(again, logits, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4), gradient_again, gradient
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_texts_do_not_see_each_other(name):
    model, params = built(CONFIGS[name])
    a, b = TOKENS[:1, :4], TOKENS[1:]
    alone = [jax.jit(model.apply)({"params": params}, x, np.ones_like(x)) for x in (a, b)]
    tokens = np.concatenate([a, b, np.zeros((1, 2), int)], axis=1)
    segments = np.repeat([1, 2, 0], [4, 9, 2])[None]
    positions = np.concatenate([np.arange(4), np.arange(9), np.zeros(2, int)])[None]
    packed = jax.jit(model.apply)({"params": params}, tokens, segments, positions)
    np.testing.assert_allclose(packed[0, :4], alone[0][0], atol=2e-5)
    np.testing.assert_allclose(packed[0, 4:13], alone[1][0], atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_token_sees_none_after_it_and_a_window_forgets(name):
    config = CONFIGS[name]
    model, params = built(config)
    logits = jax.jit(model.apply)({"params": params}, TOKENS, np.ones_like(TOKENS))
    later, first = TOKENS.copy(), TOKENS.copy()
    later[:, -1] = (later[:, -1] + 1) % 60
    first[:, 0] = (first[:, 0] + 1) % 60
    changed = jax.jit(model.apply)({"params": params}, later, np.ones_like(TOKENS))
    np.testing.assert_array_equal(changed[:, :-1], logits[:, :-1])
    assert np.abs(changed[:, -1, :60] - logits[:, -1, :60]).max() > 1e-3
    seen = np.abs(jax.jit(model.apply)({"params": params}, first, np.ones_like(TOKENS)) - logits)[
        :, -1, :60
    ].max()
    reach = 1 + 3 * (3 - 1)  # three layers with a window of three
    assert (seen == 0.0) == (name == "mistral" and TOKENS.shape[1] > reach)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_classifier_reads_the_last_token_of_each_example(name):
    model, params = built(CONFIGS[name], "classification", 3)
    backbone = build_model(CONFIGS[name], None, policy=Policy(matmul_precision="highest"))
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1] * 9])
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 0, 0], np.arange(9)])
    starts = np.array([[0, 3], [0, 0]])
    logits = jax.jit(model.apply)({"params": params}, TOKENS, segments, positions, None, starts)
    hidden = jax.jit(backbone.apply)(
        {"params": {"backbone": params["backbone"]}}, TOKENS, segments, positions
    )
    kernel = params["head"]["classifier"]["kernel"]
    np.testing.assert_allclose(logits[0], hidden[0, [2, 6]] @ kernel, atol=1e-5)
    np.testing.assert_allclose(logits[1, 0], hidden[1, 8] @ kernel, atol=1e-5)


def test_chosen_tokens_alone_get_logits():
    model, params = built(CONFIGS["llama"])
    whole = jax.jit(model.apply)({"params": params}, TOKENS, np.ones_like(TOKENS))
    at = np.array([[1, 5], [0, 8]])
    some = jax.jit(model.apply)({"params": params}, TOKENS, np.ones_like(TOKENS), None, None, at)
    np.testing.assert_allclose(some, np.take_along_axis(whole, at[:, :, None], axis=1), atol=1e-6)


def test_words_that_only_pad_the_table_are_never_likely():
    model, params = built(CONFIGS["llama"])
    logits = jax.jit(model.apply)({"params": params}, TOKENS, np.ones_like(TOKENS))
    assert logits.shape[-1] == 128
    assert (logits[..., 60:] == np.finfo(np.float32).min).all()
    assert float(jax.nn.softmax(logits)[..., 60:].max()) == 0.0


def test_windows_follow_the_types_of_layers():
    assert layer_windows(alternating(4, 2), 5) == (5, NO_WINDOW, 5, NO_WINDOW)
    assert layer_windows(("full_attention",) * 2, 5) is None
    with pytest.raises(ValueError, match="'chunked_attention', which is not supported"):
        layer_windows(["chunked_attention"], 5)
    with pytest.raises(ValueError, match="sliding_window is not set"):
        layer_windows(["sliding_attention"], None)
    assert Qwen2Config.from_hf({**SMALL, "use_sliding_window": False}).windows is None
    assert MistralConfig.from_hf({**SMALL, "sliding_window": None}).windows is None


@pytest.mark.parametrize(
    ("config", "option", "value"),
    [
        (LlamaConfig, "hidden_act", "mish"),
        (LlamaConfig, "pretraining_tp", 2),
        (GPT2Config, "add_cross_attention", True),
        (GPT2Config, "scale_attn_by_inverse_layer_idx", True),
        (Gemma2Config, "use_bidirectional_attention", True),
        (Gemma3Config, "attn_logit_softcapping", 50.0),
        (MistralConfig, "attention_bias", True),
    ],
)
def test_options_that_change_the_network_are_refused_by_name(config, option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r} is not supported; use one of"):
        config.from_hf({option: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads=4 is not divisible by num_key_value_heads=3"),
        ({"head_dim": 5}, "head_dim=5 is odd"),
        ({"hidden_size": 0, "head_dim": 4}, "hidden_size=0 is not supported"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1 is not supported"),
        ({"vocab_size": "60"}, "vocab_size='60' is not supported; expected a whole number"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig.from_hf({**SMALL, **settings})
