"""RoBERTa: where its positions begin, and what its config.json may say."""

import jax
import numpy as np
import pytest

from jaxtune.models.families.roberta import RobertaConfig, XLMRobertaConfig
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of
from tests.models.family_cases_encoders import ROBERTA

TOKENS = np.random.default_rng(0).integers(3, 101, (1, 9))
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0, 0]])
POSITIONS = np.array([[0, 1, 2, 0, 1, 2, 3, 0, 0]])


def test_the_first_token_of_every_example_has_the_position_after_padding():
    model = build_model(RobertaConfig.from_hf({**ROBERTA, "pad_token_id": 4}), None)
    params = init_params(model, jax.random.key(0))
    run = jax.jit(lambda params: model.apply({"params": params}, TOKENS, SEGMENTS, POSITIONS))
    hidden = run(params)

    def without(row):
        changed = jax.tree.map(lambda leaf: leaf, params)
        position = changed["backbone"]["embeddings"]["position"]
        position["embedding"] = position["embedding"].at[row].set(0.0)
        return np.abs(run(changed) - hidden)[0].max(axis=-1)

    for row in (*range(5), *range(9, 40)):
        assert (without(row)[:7] == 0.0).all(), "a row that no token has"
    assert (without(5)[:7] > 0).all(), "both first tokens have it, and all others see them"
    last = without(8)
    assert (last[:3] == 0.0).all()
    assert (last[3:7] > 0).all(), "only the second example has a fourth token"


def test_fewer_tokens_than_rows_of_the_position_table():
    config = RobertaConfig.from_hf({"max_position_embeddings": 514, "pad_token_id": 1})
    assert (config.max_position_embeddings, config.position_offset) == (512, 2)
    assert RobertaConfig.from_hf({}) == RobertaConfig()
    with pytest.raises(ValueError, match="max_position_embeddings=4 leaves no positions above pad_token_id"):
        RobertaConfig.from_hf({"max_position_embeddings": 4, "pad_token_id": 3})


def test_each_model_type_has_its_defaults_and_classes():
    assert RobertaConfig.from_hf({}).vocab_size == 50265
    assert XLMRobertaConfig.from_hf({}).vocab_size == 30522
    heads = family_of("xlm-roberta").heads
    assert heads["mlm"].architecture == "XLMRobertaForMaskedLM"
    assert heads["span"].architecture == "XLMRobertaForQuestionAnswering"
    assert family_of("roberta").heads["classification"].architecture == "RobertaForSequenceClassification"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("hidden_act", "mish"),
    ],
)
def test_options_that_change_the_network_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r} is not supported"):
        RobertaConfig.from_hf({option: value})
