"""DistilBERT: its names for BERT's settings."""

import pytest

from jaxtune.models.families.distilbert import DistilBertConfig
from jaxtune.models.heads import SequenceHead, TokenHead
from jaxtune.models.layers import Policy
from jaxtune.models.registry import family_of
from tests.models.family_cases_encoders import DISTILBERT


def test_settings_are_read_under_their_own_names():
    config = DistilBertConfig.from_hf(
        {**DISTILBERT, "dropout": 0.3, "attention_dropout": 0.4, "activation": "relu", "layer_norm_eps": 1.0}
    )
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 4)
    assert (config.intermediate_size, config.hidden_act) == (48, "relu")
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.3, 0.4)
    # No such settings: DistilBERT has one epsilon, and no token types.
    assert (config.layer_norm_eps, config.type_vocab_size) == (1e-12, 0)
    assert DistilBertConfig.from_hf({}) == DistilBertConfig()


def test_each_head_has_its_own_dropout():
    config = DistilBertConfig(hidden_dropout_prob=0.3, seq_classif_dropout=0.4, qa_dropout=0.5)

    def head(name):
        return family_of("distilbert").heads[name].build(config, 3, Policy(), name="head")

    sequence = head("classification")
    assert isinstance(sequence, SequenceHead)
    assert (sequence.dropout_rate, sequence.dense_dropout, sequence.hidden_act) == (0.4, 0.0, "relu")
    assert isinstance(head("span"), TokenHead)
    assert (head("token_classification").dropout_rate, head("span").dropout_rate) == (0.3, 0.5)
    same = vars(config.with_dropout(0.25))
    assert {same[name] for name in ("hidden_dropout_prob", "seq_classif_dropout", "qa_dropout")} == {0.25}


@pytest.mark.parametrize(("option", "value"), [("activation", "mish"), ("tie_word_embeddings", False)])
def test_options_that_change_the_network_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r} is not supported"):
        DistilBertConfig.from_hf({option: value})


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="hidden_size=30 is not divisible by num_attention_heads=4"):
        DistilBertConfig.from_hf({"dim": 30, "n_heads": 4})
