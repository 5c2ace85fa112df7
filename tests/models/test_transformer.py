"""The Transformer from scratch: its sizes, its forms, and that it is a Marian or a Pegasus."""

import functools
import importlib.util
import json

import jax
import numpy as np
import pytest

import jaxtune
from jaxtune.models.families.transformer import TransformerConfig
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import FAMILIES

SMALL = {
    "vocab_size": 60,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 32,
}
FORMS = {
    "post_norm": {},
    "post_norm_two_tables": {"share_encoder_decoder_embeddings": False},
    "pre_norm": {"normalize_before": True},
    "pre_norm_two_tables": {"normalize_before": True, "share_encoder_decoder_embeddings": False},
}
rng = np.random.default_rng(0)
SOURCE, TARGET = rng.integers(2, 60, (2, 9)), rng.integers(2, 60, (2, 7))


def fresh(config, head="seq2seq_lm"):
    model = build_model(config, head)
    return model, init_params(model, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def run(model, params):
    return model.apply({"params": params}, SOURCE, np.ones_like(SOURCE), TARGET, np.ones_like(TARGET))[
        ..., :60
    ]


@pytest.mark.parametrize(("size", "millions"), [("base", 63), ("big", 214)])
def test_the_sizes_of_the_paper(size, millions):
    # 65 and 213 million in the paper, whose vocabulary has about 37,000 words.
    config = TransformerConfig.of_size(size, 37000)
    model = build_model(config, "seq2seq_lm")
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6) == millions
    assert config.dropout == {"base": 0.1, "big": 0.3}[size]


def test_an_unknown_size_is_refused():
    with pytest.raises(
        ValueError, match="unknown size 'huge' of a transformer; expected one of base, small, big"
    ):
        TransformerConfig.of_size("huge", 100)


def test_a_size_may_be_changed():
    config = TransformerConfig.of_size("base", 100, pre_norm=True, num_hidden_layers=2)
    assert config == TransformerConfig.from_hf(
        {"vocab_size": 100, "normalize_before": True, "encoder_layers": 2}
    )
    assert config.final_norm
    assert config.side(decoder=True).layers == 2


def test_fresh_weights_give_even_chances():
    """Logits of a fresh model are near those of chance, whatever its form: training can begin."""
    for changes in FORMS.values():
        logits = run(*fresh(TransformerConfig.from_hf({**SMALL, **changes})))
        assert np.isfinite(logits).all()
        assert 0.2 < float(logits.std()) < 2


@pytest.mark.parametrize("form", FORMS)
def test_its_config_json_is_read_again_as_the_same_network(form):
    config = TransformerConfig.from_hf({**SMALL, **FORMS[form]})
    raw = config.to_hf()
    kind = {"post_norm": "marian", "post_norm_two_tables": "marian", "pre_norm": "pegasus"}
    assert raw["model_type"] == kind.get(form, "transformer")
    again = FAMILIES[raw["model_type"]].config_class.from_hf(json.loads(json.dumps(raw)))
    model, params = fresh(config)
    other, other_params = fresh(again)
    joined = {**other_params, "backbone": params["backbone"]}
    assert jax.tree.structure(joined["backbone"]) == jax.tree.structure(other_params["backbone"])
    np.testing.assert_array_equal(run(other, joined), run(model, params))
    same = FAMILIES["transformer"], FAMILIES[raw["model_type"]]
    assert same[0].weight_map(config) == same[1].weight_map(again)


@pytest.mark.parametrize("form", ["post_norm", "post_norm_two_tables", "pre_norm"])
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_transformers_reads_it(form, tmp_path):
    import torch
    import transformers

    config = TransformerConfig.from_hf({**SMALL, **FORMS[form]})
    raw = {**config.to_hf(), "decoder_start_token_id": 0, "eos_token_id": 1}
    again = FAMILIES[raw["model_type"]].config_class.from_hf(raw)
    model, params = fresh(again)
    params = {**params, "backbone": fresh(config)[1]["backbone"]}
    jaxtune.save_pretrained(tmp_path / "it", jaxtune.Pretrained(model, params, raw_config=raw))
    peer, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "it", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    with torch.no_grad():
        expected = peer.eval()(
            input_ids=torch.from_numpy(SOURCE), decoder_input_ids=torch.from_numpy(TARGET)
        ).logits
    np.testing.assert_allclose(run(model, params), expected.numpy(), atol=2e-5, rtol=0)
