"""Settings: what is refused, and what comes from a checkpoint."""

import logging

import pytest

from jaxtune.errors import ConfigError
from jaxtune.generation.settings import GenerationSettings, settings_for

BART = {
    "model_type": "bart",
    "is_encoder_decoder": True,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}


class Tokens:
    eos_token_id, pad_token_id, bos_token_id = 7, None, 6


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_new_tokens", -1, "`max_new_tokens` is -1; expected a whole number, 0 or more"),
        ("max_new_tokens", 2.5, "`max_new_tokens` is 2.5"),
        ("max_new_tokens", True, "`max_new_tokens` is True"),
        ("temperature", -0.1, "`temperature` is -0.1; expected 0 or more"),
        ("temperature", float("nan"), "`temperature` is nan"),
        ("temperature", "hot", "`temperature` is 'hot'"),
        ("top_k", 0, "`top_k` is 0; expected a whole number, 1 or more"),
        ("top_p", 0.0, "`top_p` is 0.0; expected a share above 0"),
        ("top_p", 1.5, "`top_p` is 1.5"),
        ("min_p", 1.5, "`min_p` is 1.5"),
        ("repetition_penalty", 0, "`repetition_penalty` is 0; expected above 0"),
        ("repetition_penalty", None, "`repetition_penalty` is None"),
        ("num_beams", 0, "`num_beams` is 0"),
        ("early_stopping", "always", "`early_stopping` is 'always'; expected true, false or 'never'"),
        ("length_penalty", float("inf"), "`length_penalty` is inf; expected a finite number"),
        ("stop", ("",), "`stop` is ['']; expected strings that are not empty"),
        ("stop", (3,), "`stop` is [3]"),
        ("eos_token_ids", (-1,), "`eos_token_ids` is (-1,)"),
        ("seed", 2**32, "expected a number below 2^32"),
        ("num_return_sequences", 2, "there is one most likely text; set a temperature, or num_beams"),
        ("min_new_tokens", 65, "`min_new_tokens` is 65, above `max_new_tokens`, 64"),
        ("num_beam_groups", 2, "`num_beam_groups` is 2, which does not divide 1 beams"),
        ("diversity_penalty", 1.0, "diverse beam search needs more than one group"),
    ],
)
def test_values_out_of_range_are_named(field, value, said):
    with pytest.raises(ConfigError) as caught:
        GenerationSettings(**{field: value})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 4, "temperature": 0.5}, "a beam search draws none"),
        ({"num_beams": 2, "num_return_sequences": 3}, "2 beams give 2 at most"),
        ({"num_beams": 4, "num_beam_groups": 2}, "and a penalty above 0"),
        ({"do_sample": True, "temperature": 0}, "choose one"),
        ({"do_sample": False, "top_p": 0.9}, "choose one"),
    ],
)
def test_contradictions_are_named(given, said):
    with pytest.raises(ConfigError, match=said):
        GenerationSettings(**given)


@pytest.mark.parametrize(
    ("given", "sample"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": 0}, False),
        ({"temperature": 0, "top_p": 0.9}, False),
        ({"top_k": 5}, True),
        ({"min_p": 0.1}, True),
        ({"do_sample": True}, True),
        ({"do_sample": False}, False),
    ],
)
def test_when_tokens_are_drawn(given, sample):
    assert GenerationSettings(**given).sample is sample


def test_special_tokens_come_from_the_checkpoint():
    s = settings_for(BART, {"eos_token_id": [2, 5], "num_beams": 6, "temperature": 0.3, "do_sample": True})
    assert (s.eos_token_ids, s.pad_token_id, s.bos_token_id) == ((2, 5), 1, 0)
    assert (s.decoder_start_token_id, s.forced_eos_token_id, s.forced_bos_token_id) == (2, 2, None)
    # How to search is the caller's choice.
    assert (s.num_beams, s.sample, s.max_new_tokens) == (1, False, 64)


def test_a_decoder_has_no_forced_tokens():
    raw = {"model_type": "gpt2", "eos_token_id": 3, "decoder_start_token_id": 2, "forced_bos_token_id": 1}
    s = settings_for(raw)
    assert (s.decoder_start_token_id, s.forced_bos_token_id) == (None, None)
    assert (s.eos_token_ids, s.pad_token_id) == ((3,), 3)


def test_the_tokenizer_is_asked_last():
    assert settings_for({"model_type": "gpt2", "eos_token_id": None}, {}, Tokens()).eos_token_ids == (7,)
    s = settings_for({"model_type": "gpt2"}, {"eos_token_id": 4}, Tokens())
    assert (s.eos_token_ids, s.bos_token_id) == ((4,), 6)


def test_minus_one_is_no_token():
    s = settings_for({"model_type": "llama", "eos_token_id": [2], "pad_token_id": -1, "bos_token_id": -1})
    assert (s.eos_token_ids, s.pad_token_id, s.bos_token_id) == ((2,), 2, None)


def test_overrides_go_first_and_none_stands_for_the_checkpoint():
    s = settings_for(BART, None, None, max_new_tokens=3, eos_token_ids=9, stop="x", forced_bos_token_id=None)
    assert (s.max_new_tokens, s.eos_token_ids, s.stop) == (3, (9,), ("x",))


def test_what_the_author_chose_is_taken_when_asked_for():
    own = {
        "num_beams": 4,
        "length_penalty": 2.0,
        "max_length": 142,
        "min_length": 56,
        "no_repeat_ngram_size": 3,
    }
    s = settings_for(BART, own, checkpoint_settings=True)
    assert (s.num_beams, s.length_penalty, s.no_repeat_ngram_size) == (4, 2.0, 3)
    assert (s.max_new_tokens, s.min_new_tokens) == (141, 55)
    chat = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 0}
    s = settings_for({"model_type": "gpt2"}, chat, checkpoint_settings=True, temperature=0.2)
    assert (s.sample, s.temperature, s.top_p, s.top_k) == (True, 0.2, 0.9, None)
    # A temperature beside do_sample false is there in many files, and means nothing.
    s = settings_for({"model_type": "gpt2"}, {"temperature": 0.6}, checkpoint_settings=True)
    assert not s.sample


def test_banned_tokens_come_along_and_banned_phrases_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        s = settings_for(BART, {"bad_words_ids": [[58], [3, 4]], "suppress_tokens": [1, -1]})
    assert s.suppress_token_ids == (1, 58)
    assert "bad_words_ids of more than one token are not supported" in caplog.text


def test_an_unknown_setting_gets_a_hint():
    with pytest.raises(ConfigError, match=r"no setting `max_new_token`; did you mean `max_new_tokens`\?"):
        settings_for(BART, max_new_token=3)
    with pytest.raises(ConfigError, match="there is no setting `zzz`; expected one of bos_token_id, "):
        settings_for(BART, zzz=3)
