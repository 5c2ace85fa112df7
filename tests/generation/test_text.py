"""From prompts to texts: order, stop strings, streaming, chat, and bad input."""

import dataclasses

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast

from jaxtune.errors import ConfigError, DataError
from jaxtune.generation import text as text_module
from jaxtune.generation.reading import Decoder, Reader
from jaxtune.generation.settings import GenerationSettings, settings_for
from jaxtune.generation.text import generate_texts
from jaxtune.models.families.bert import BertConfig
from jaxtune.models.model import build_model
from tests.generation.tiny_models import (
    CONFIG,
    END,
    TEMPLATE,
    byte_tokenizer,
    model_of_case,
    tiny_gpt2,
)

PROMPTS = ["Once upon a time", "A", "", "The capital of France is", "ü€𝄞", "A"]


@pytest.fixture(scope="module")
def tiny():
    return tiny_gpt2()


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def chosen(tokenizer, **overrides):
    return settings_for({"model_type": "gpt2"}, None, tokenizer, **{"max_new_tokens": 16, **overrides})


@pytest.fixture(scope="module")
def write(tiny, tokenizer):
    """``generate_texts`` of the tiny model; settings and options as keywords."""
    fields = {f.name for f in dataclasses.fields(GenerationSettings)}

    def call(prompts, **given):
        settings = chosen(tokenizer, **{k: v for k, v in given.items() if k in fields})
        options = {k: v for k, v in given.items() if k not in fields}
        return generate_texts(*tiny, tokenizer, prompts, settings, **options)

    return call


# What comes back


def test_texts_come_in_the_order_of_the_prompts(write):
    at_once = write(PROMPTS)
    assert [type(t) for t in at_once] == [str] * len(PROMPTS)
    assert at_once[1] == at_once[5]
    assert write(PROMPTS, batch_size=2) == at_once
    assert [write([prompt])[0] for prompt in PROMPTS] == at_once


def test_tokens_and_details(write, tokenizer):
    details = write(PROMPTS, details=True)
    assert write(PROMPTS, return_tokens=True) == [list(d.tokens) for d in details]
    assert all((d.ended, d.score, len(d.tokens)) == ("length", None, 16) for d in details)
    end = details[0].tokens[3]
    short = write(PROMPTS[:1], details=True, eos_token_ids=end)[0]
    length = details[0].tokens.index(end) + 1
    assert (short.ended, short.tokens) == ("eos", details[0].tokens[:length])
    assert short.text == tokenizer.decode(short.tokens[:-1])


def test_several_texts_a_prompt(write):
    samples = write(PROMPTS, temperature=1.0, num_return_sequences=3, batch_size=4)
    assert [len(set(group)) for group in samples] == [3] * len(PROMPTS)
    assert write(PROMPTS, temperature=1.0, num_return_sequences=3) == samples
    beams = write(PROMPTS, num_beams=3, num_return_sequences=2, details=True)
    assert all(group[0].score >= group[1].score for group in beams)
    assert write(PROMPTS, num_beams=3) == [group[0].text for group in beams]


def test_prompts_of_token_ids_need_no_tokenizer(tiny, tokenizer):
    settings = chosen(tokenizer)
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS if prompt]
    by_ids = generate_texts(*tiny, None, ids, settings, return_tokens=True)
    texts = [prompt for prompt in PROMPTS if prompt]
    assert by_ids == generate_texts(*tiny, tokenizer, texts, settings, return_tokens=True)
    assert by_ids == generate_texts(*tiny, None, [np.array(i) for i in ids], settings, return_tokens=True)
    with pytest.raises(DataError, match="there is no tokenizer to make texts"):
        generate_texts(*tiny, None, ids, settings)


def test_no_new_tokens_and_no_prompts(write, monkeypatch):
    monkeypatch.setattr(text_module, "decode_batch", None)  # it would be an error to call it
    assert write(PROMPTS, max_new_tokens=0) == [""] * len(PROMPTS)
    assert write(PROMPTS[:1], max_new_tokens=0, temperature=1.0, num_return_sequences=2) == [["", ""]]
    assert write([]) == []


def test_scanned_layers_make_no_difference(tiny, tokenizer, write):
    from jaxtune.models.layer_stack import stack_layers

    model, params = tiny
    scanned = model.clone(scan_layers=True)
    found = generate_texts(scanned, stack_layers(params), tokenizer, PROMPTS, chosen(tokenizer))
    assert found == write(PROMPTS)


def test_an_empty_prompt_begins_with_the_start_token(write):
    assert write([""]) == write([[END]])


def test_a_conversation_goes_through_the_template(tiny, write):
    turns = [{"role": "user", "content": "Hello"}]
    with pytest.raises(DataError, match=r"prompts\[1\] is a conversation, but .* no chat template"):
        write(["x", turns])
    talking = byte_tokenizer(chat_template=TEMPLATE)
    assert generate_texts(*tiny, talking, [turns], chosen(talking)) == write(["user: Hello\nassistant: "])
    with pytest.raises(
        DataError, match=r'prompts\[0\]: a turn has \[\'text\'\]; expected "role" and "content"'
    ):
        generate_texts(*tiny, talking, [[{"text": "Hello"}]], chosen(talking))
    refusing = byte_tokenizer(chat_template="{{ raise_exception('system first') }}")
    with pytest.raises(DataError, match=r"prompts\[0\]: the chat template refuses .* system first"):
        generate_texts(*tiny, refusing, [turns], chosen(refusing))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoders_answer(name, tokenizer):
    model, params = model_of_case(name)
    ids = [[5, 6, 7, 8, 9], [4], [9, 8, 7]]
    settings = GenerationSettings(
        max_new_tokens=6,
        eos_token_ids=(1,),
        decoder_start_token_id=0,
        forced_bos_token_id=3,
        forced_eos_token_id=1,
    )
    found = generate_texts(model, params, None, ids, settings, return_tokens=True)
    assert found == [generate_texts(model, params, None, [i], settings, return_tokens=True)[0] for i in ids]
    assert all(tokens[0] == 3 and tokens[-1] == 1 for tokens in found)
    assert generate_texts(model, params, None, [[]], settings, return_tokens=True) == generate_texts(
        model, params, None, [[1]], settings, return_tokens=True
    )
    no_end = dataclasses.replace(settings, eos_token_ids=())
    with pytest.raises(DataError, match=r"prompts\[0\] is empty, and the checkpoint names no end token"):
        generate_texts(model, params, None, [[]], no_end, return_tokens=True)
    no_start = dataclasses.replace(settings, decoder_start_token_id=None)
    with pytest.raises(ConfigError, match="names no `decoder_start_token_id`"):
        generate_texts(model, params, None, ids, no_start, return_tokens=True)


# Stop strings


def test_a_stop_string_ends_the_text_where_it_begins(write, tokenizer):
    free = write(PROMPTS, details=True)
    stop = free[0].text[5:8]  # of several tokens
    found = write(PROMPTS, details=True, stop=[stop, "never said"])
    for before, after in zip(free, found):
        at = before.text.find(stop)
        assert after.text == (before.text[:at] if at >= 0 else before.text)
        assert after.ended == ("stop" if at >= 0 else "length")
    # As few tokens as complete it.
    assert stop in tokenizer.decode(found[0].tokens)
    assert stop not in tokenizer.decode(found[0].tokens[:-1])
    assert write(PROMPTS, num_beams=2, stop=stop) == [
        text.split(stop)[0] for text in write(PROMPTS, num_beams=2)
    ]


def test_the_loop_ends_when_all_texts_have(write, monkeypatch):
    steps = []
    original = text_module.decode_batch

    def counted(*args):
        out = original(*args)
        steps.append(out.shape[1])
        return out

    monkeypatch.setattr(text_module, "decode_batch", counted)
    stop = write(["A"], max_new_tokens=100)[0][:2]
    assert write(["A"], max_new_tokens=100, stop=stop) == [""]
    assert steps[0] == 100
    assert steps[1] <= 2 * text_module._STOP_CHECK


# Streaming


@pytest.mark.parametrize("how", ["greedy", "sampled", "by three", "stopped"])
def test_pieces_joined_are_the_text(write, how):
    given = {"sampled": {"temperature": 1.5}, "stopped": {"stop": write(PROMPTS)[0][5:8]}}.get(how, {})
    pieces = {}

    def on_text(index, piece):
        assert piece
        pieces.setdefault(index, []).append(piece)

    texts = write(PROMPTS, on_text=on_text, every=3 if how == "by three" else 1, **given)
    assert texts == write(PROMPTS, **given)
    assert ["".join(pieces.get(i, [])) for i in range(len(PROMPTS))] == texts
    assert max(map(len, pieces.values())) > 2


def read_one_by_one(tokenizer, text, stop=()):
    tokens, pieces = tokenizer(text)["input_ids"], []
    reader = Reader(Decoder(tokenizer, []), [END], stop, len(tokens), pieces.append)
    for count in range(1, len(tokens) + 1):
        reader.read(tokens[:count])
    return pieces, reader


def test_no_piece_ends_within_a_character(tokenizer):
    pieces, reader = read_one_by_one(tokenizer, "aü€𝄞b")
    assert pieces == ["a", "ü", "€", "𝄞", "b"]
    assert (reader.text, reader.ended) == ("aü€𝄞b", "length")


def test_what_may_become_a_stop_string_is_held_back(tokenizer):
    pieces, reader = read_one_by_one(tokenizer, "one\n\ntwo\n\nUser: x", ["\n\nUser:"])
    assert "".join(pieces) == "one\n\ntwo"
    assert (reader.text, reader.ended) == ("one\n\ntwo", "stop")
    assert pieces[3] == "\n\nt"
    pieces, reader = read_one_by_one(tokenizer, "one\n\nUse", ["\n\nUser:"])
    assert ("".join(pieces), reader.ended) == ("one\n\nUse", "length")


def test_the_space_before_the_first_word_is_kept():
    """Tokenizers of the SentencePiece kind drop the space of the first word they decode."""
    inner = Tokenizer(
        token_models.WordLevel({"▁France": 0, "▁is": 1, "▁Paris": 2, "<s>": 3}, unk_token="<s>")
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    assert Decoder(tokenizer, [3, 0, 1]).text([2]) == " Paris"
    assert Decoder(tokenizer, []).text([2]) == "Paris"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 2}, "`on_text` with `num_beams` above 1"),
        ({"temperature": 1.0, "num_return_sequences": 2}, "`on_text` with `num_return_sequences` above 1"),
        ({"every": 0}, "`every` is 0"),
        ({"batch_size": 0}, "`batch_size` is 0"),
    ],
)
def test_streams_that_make_no_sense(write, given, said):
    with pytest.raises(ConfigError, match=said):
        write(["x"], on_text=print, **given)


# Bad input


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("one text", "prompts is a str; expected a list of texts"),
        (7, "prompts is a int; expected a list of texts"),
        (["x", 3], r"prompts\[1\] is a int; expected a text"),
        (["x", None], r"prompts\[1\] is a NoneType"),
        ([[1.5]], r"prompts\[0\] is a list; expected a text"),
        (["x", [3, 9999]], r"prompts\[1\] has the token 9999; the model knows 0 to 256"),
        ([[-1]], r"prompts\[0\] has the token -1"),
        (["x", "y" * 128], r"prompts\[1\] has 128 tokens; the model reads 128 at most, new ones included"),
        (
            ["x", "y" * 120],
            r"prompts\[1\] has 120 tokens, which with `max_new_tokens` 16 is 136; the model's limit is 128: "
            "lower `max_new_tokens` to 8, or shorten the prompt",
        ),
    ],
)
def test_prompts_that_cannot_be_read_are_named(write, prompts, said):
    with pytest.raises(ValueError, match=said):
        write(prompts)


def test_the_last_place_of_the_context_can_be_used(write):
    assert len(write(["y" * 112], return_tokens=True)[0]) == 16


def test_an_empty_prompt_without_a_start_token(tiny):
    tokenizer = byte_tokenizer(bos_token=None)
    with pytest.raises(DataError, match=r"prompts\[0\] is empty, and the checkpoint has no start token"):
        generate_texts(*tiny, tokenizer, [""], chosen(tokenizer))


def test_the_tokenizer_of_another_model(tiny):
    larger = byte_tokenizer()
    larger.add_tokens(["new-word"])
    with pytest.raises(
        DataError, match=r"tokenizer has 258 tokens, the model embeddings for 257 \('new-word'"
    ):
        generate_texts(*tiny, larger, ["x"], chosen(larger))
    special = byte_tokenizer()
    special.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert generate_texts(*tiny, special, ["x"], chosen(special))
    with pytest.raises(DataError, match=r"prompts\[0\] has the token 257"):
        generate_texts(*tiny, special, ["<image>"], chosen(special))


def test_models_that_write_nothing(tokenizer):
    settings = chosen(tokenizer)
    with pytest.raises(ConfigError, match="bert is an encoder, which generates no text"):
        generate_texts(build_model(BertConfig(), None), {}, tokenizer, ["x"], settings)
    with pytest.raises(ConfigError, match="has the head None; load it with head='causal_lm'"):
        generate_texts(build_model(CONFIG, None), {}, tokenizer, ["x"], settings)
    forced = dataclasses.replace(settings, forced_bos_token_id=300)
    with pytest.raises(
        ConfigError, match="`forced_bos_token_id` is 300; the model knows the tokens 0 to 256"
    ):
        generate_texts(build_model(CONFIG, "causal_lm"), {}, tokenizer, ["x"], forced)
