"""T5's config.json in its many forms, its output table, and a real FLAN-T5."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtune
from jaxtune.models.families.t5 import MT5Config, T5Config
from jaxtune.models.model import build_model, init_params
from tests.models.family_cases import inputs
from tests.models.family_cases_all import CASES
from tests.models.family_golden import FamilyGolden

FLAN = Path(__file__).parents[2].parent / "shared" / "models" / "flan-t5-small-titler"


@pytest.mark.parametrize(
    ("raw", "tied", "scaled"),
    [
        ({}, True, True),
        ({"tie_word_embeddings": True}, True, True),
        ({"tie_word_embeddings": False}, False, False),
        # As transformers 5 saves them.
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, True, True),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False, False),
    ],
)
def test_the_output_follows_from_two_settings(raw, tied, scaled):
    config = T5Config.from_hf({"d_model": 64, **raw})
    assert config.tie_word_embeddings is tied
    assert config.logits_scale == (0.125 if scaled else 1.0)
    other = MT5Config.from_hf({"d_model": 64, **raw})
    assert (other.tie_word_embeddings, other.logits_scale) == (False, 1.0)


@pytest.mark.parametrize(
    ("raw", "act", "gated"),
    [
        ({}, "relu", False),
        ({"feed_forward_proj": "gated-gelu"}, "gelu_new", True),
        (
            {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True},
            "gelu_new",
            True,
        ),
        ({"feed_forward_proj": "gated-silu"}, "silu", True),
        ({"feed_forward_proj": "gelu"}, "gelu", False),
    ],
)
def test_the_feed_forward_follows_from_its_name(raw, act, gated):
    config = T5Config.from_hf(raw)
    assert (config.hidden_act, config.gated) == (act, gated)


def test_defaults_are_those_of_transformers():
    t5, mt5 = T5Config.from_hf({}), MT5Config.from_hf({})
    assert (t5.vocab_size, t5.hidden_size, t5.head_dim, t5.intermediate_size) == (32128, 512, 64, 2048)
    assert t5.side(decoder=True).layers == t5.num_hidden_layers == 6
    assert (mt5.vocab_size, mt5.num_hidden_layers, mt5.num_attention_heads) == (250112, 8, 6)
    assert (mt5.hidden_act, mt5.gated, mt5.intermediate_size) == ("gelu_new", True, 1024)
    assert t5.max_position_embeddings is None
    assert (t5.dropout, t5.attention_dropout, t5.activation_dropout) == (0.1, 0.1, 0.1)


def test_fresh_weights_are_spread_as_t5s():
    config = T5Config.from_hf({"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 1, "vocab_size": 1024})
    backbone = init_params(build_model(config, "seq2seq_lm"), jax.random.key(0))["backbone"]
    layer = backbone["decoder"]["layers"]["0"]
    for leaf, spread in (
        (backbone["word"]["embedding"], 1.0),
        (layer["attention"]["query"]["kernel"], (64 * 16) ** -0.5),
        (layer["cross_attention"]["key"]["kernel"], 64**-0.5),
        (layer["mlp_up"]["kernel"], 64**-0.5),
        (layer["mlp_down"]["kernel"], 256**-0.5),
    ):
        assert float(leaf.std()) == pytest.approx(spread, rel=0.05)


def test_an_untied_table_that_the_file_lacks_begins_as_the_inputs(tmp_path):
    golden = FamilyGolden(CASES["t5_flan"])
    shapes = {name: shape for name, shape in golden.shapes.items() if name != "lm_head.weight"}
    golden.z = dict(golden.z) | {"shapes": json.dumps(shapes)}
    golden.write(tmp_path / "read")
    lm = jaxtune.load_pretrained(tmp_path / "read", "seq2seq_lm")
    assert not lm.report.missing
    table = lm.params["backbone"]["word"]["embedding"]
    np.testing.assert_array_equal(lm.params["head"]["lm_head"]["embedding"], table)
    # Trained, it is a tensor of its own, and the input's stays what it was.
    lm.params["head"]["lm_head"]["embedding"] = 2 * table
    jaxtune.save_pretrained(tmp_path / "written", lm)
    again = jaxtune.load_pretrained(tmp_path / "written", "seq2seq_lm")
    np.testing.assert_array_equal(again.params["head"]["lm_head"]["embedding"], 2 * table)
    np.testing.assert_array_equal(again.params["backbone"]["word"]["embedding"], table)


def test_a_checkpoint_of_transformers_5_is_untied_though_it_says_it_is_not(tmp_path):
    golden = FamilyGolden(CASES["t5_flan"])
    golden.write(tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text()) | {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    path.write_text(json.dumps(raw))
    lm = jaxtune.load_pretrained(tmp_path, "seq2seq_lm", matmul_precision="highest")
    given = inputs(golden.case)
    lengths = (np.arange(8) < np.array([[4], [8], [6]])).nonzero()
    np.testing.assert_allclose(np.asarray(lm(**given))[lengths], golden["out"], atol=2e-5, rtol=0)


@pytest.fixture(scope="module")
def flan():
    if not FLAN.is_dir():
        pytest.skip(f"no FLAN-T5 at {FLAN}")
    return jaxtune.load_pretrained(FLAN, "seq2seq_lm", matmul_precision="highest")


SENTENCE = "translate English to German: The house is wonderful."


def greedy(lm, ids, mask, steps):
    """Tokens after the start token, one at a time through the cache, and the logits they were taken from."""

    @jax.jit
    def extend(params, tokens, cache):
        return lm.model.apply({"params": params}, tokens, jnp.ones_like(tokens), cache, method="extend")

    cache = lm.model.apply({"params": lm.params}, ids, mask, steps, method="start")
    token, tokens, seen = jnp.zeros((len(ids), 1), jnp.int32), [], []
    for _ in range(steps):
        logits, cache = extend(lm.params, token, cache)
        token = logits[:, -1:].argmax(-1).astype(jnp.int32)
        tokens.append(token)
        seen.append(logits)
    return np.concatenate(tokens, 1), np.concatenate(seen, 1)


@pytest.mark.real
def test_flan_translates(flan):
    encoded = flan.tokenizer([SENTENCE], return_tensors="np")
    tokens, logits = greedy(flan, encoded["input_ids"], encoded["attention_mask"], 10)
    end = list(tokens[0]).index(1)
    assert flan.tokenizer.decode(tokens[0, :end]) == "Das Haus ist wunderbar."
    target = np.concatenate([[[0]], tokens[:, :-1]], axis=1)
    full = np.asarray(flan(encoded["input_ids"], encoded["attention_mask"], target))
    cached = logits[..., : full.shape[-1]]
    np.testing.assert_allclose(cached, full, atol=1e-5 * max(1, np.abs(full).max()), rtol=0)


@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_flan_equals_torch(flan):
    import torch
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        FLAN, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert not torch.equal(model.lm_head.weight, model.shared.weight), "torch has tied the tables"
    texts = [SENTENCE, "summarize: A storm hit the coast on Monday. Schools were closed for the day."]
    encoded = dict(flan.tokenizer(texts, padding=True, return_tensors="np"))
    target = np.array([[0, 644, 4598, 229, 27387], [0, 71, 5536, 1560, 8]])
    arguments = {**encoded, "decoder_input_ids": target}
    with torch.no_grad():
        expected = model(
            **{name: torch.from_numpy(array) for name, array in arguments.items()}
        ).logits.numpy()
    out = np.asarray(flan(encoded["input_ids"], encoded["attention_mask"], target))
    np.testing.assert_allclose(out[..., :32128], expected, atol=2e-6 * np.abs(expected).max(), rtol=0)
