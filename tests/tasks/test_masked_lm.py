"""The masked words of a text: words and pieces of several kinds of tokenizers, and models that have none."""

import dataclasses

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxtune.config import DataConfig, Experiment
from jaxtune.data.examples import Examples
from jaxtune.errors import ConfigError, DataError
from jaxtune.hub.description import Description
from jaxtune.labels import IGNORED
from jaxtune.models.registry import family_of
from jaxtune.tasks.masked_lm import MaskedLM

SPECIAL = ["<s>", "</s>", "<mask>", "<unk>", "<pad>"]


def finished(tokenizer, **changes):
    tokenizer.add_special_tokens(SPECIAL)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids
    )
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**names, **changes})


def byte_level():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "s"), ("e", "a"), ("Ġs", "ea")]
    vocabulary = {token: i for i, token in enumerate([*letters, *("".join(m) for m in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return finished(tokenizer)


def word_piece():
    pieces = [*"aehlstwy", *(f"##{c}" for c in "aehlstwy"), "sea", "##sea", "."]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return finished(tokenizer)


def sentence_piece():
    pieces = [("<unk>", 0.0), *((c, -5.0) for c in "▁aehlstwy."), ("▁sea", -2.0), ("▁the", -2.5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return finished(tokenizer)


def splitting_nothing():
    pieces = [("<unk>", 0.0), *((c, -5.0) for c in "▁aehlstwy."), ("▁sea", -2.0), ("▁the", -2.5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return finished(tokenizer)


def described(tokenizer, model_type="roberta", **settings):
    # Sizes of a small model, under the names that all families know.
    raw = {"model_type": model_type, "vocab_size": len(tokenizer), **settings}
    return Description(raw, family_of(model_type).config_class.from_hf(raw), tokenizer)


def task(**data):
    return MaskedLM.from_experiment(Experiment(task="masked_lm", data=DataConfig(**data)))


@pytest.mark.parametrize("make", [byte_level, word_piece, sentence_piece, splitting_nothing])
def test_words_are_words_whatever_the_tokenizer(make):
    tokenizer = make()
    ready = task(whole_word=True, max_length=64, mask_share=0.4).for_model(described(tokenizer))
    text = "the sea the whale saw the sea"
    ((piece,),) = ready.tokenize([{"text": text}], tokenizer, str)
    words = piece["words"]
    assert (words[0], words[-1]) == (-1, -1)
    assert len(np.unique(words[words >= 0])) == 7
    assert (np.diff(words[1:-1]) >= 0).all()
    for seed in range(20):
        made = ready.dynamic(piece, np.random.default_rng(seed))
        chosen = made["labels"] != IGNORED
        assert chosen.any()
        for word in range(words.max() + 1):
            of = chosen[words == word]
            assert of.all() or not of.any()


def test_a_long_text_is_in_pieces_and_nothing_is_lost():
    tokenizer = word_piece()
    ready = task(max_length=12).for_model(described(tokenizer))
    text = " ".join(["the sea saw the whale ."] * 9)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    (pieces,) = ready.tokenize([{"text": text}], tokenizer, str)
    lengths = [len(piece["tokens"]) for piece in pieces]
    assert max(lengths) <= 12
    assert max(lengths) - min(lengths) <= 1, "no piece is left with a word or two"
    assert len(pieces) == -(-len(whole) // 10)
    for piece in pieces:
        assert tokenizer.convert_ids_to_tokens([piece["tokens"][0], piece["tokens"][-1]]) == ["<s>", "</s>"]
    assert np.concatenate([piece["tokens"][1:-1] for piece in pieces]).tolist() == whole


def test_special_tokens_that_a_text_spells_out_are_not_masked():
    tokenizer = word_piece()
    ready = task(max_length=32, mask_share=0.9).for_model(described(tokenizer))
    ((piece,),) = ready.tokenize([{"text": "the sea </s> <mask> the sea"}], tokenizer, str)
    mask, ends = tokenizer.mask_token_id, tokenizer.eos_token_id
    for seed in range(10):
        told = ready.dynamic(piece, np.random.default_rng(seed))["labels"]
        assert not np.isin([mask, ends], told).any()
    (error,) = ready.tokenize([{"text": "<mask> </s>"}], tokenizer, str)
    assert isinstance(error, DataError)
    assert "holds nothing but special tokens" in str(error)


def test_bad_rows_are_named():
    tokenizer = word_piece()
    ready = task().for_model(described(tokenizer))
    errors = ready.tokenize([{"text": " "}, {"text": 5}, {"body": "x"}], tokenizer, lambda i: f"f:{i + 1}")
    assert [str(error).split(" (")[0].split("; ")[0] for error in errors] == [
        "f:1: column 'text' holds white space only",
        "f:2: column 'text' holds the int 5",
        "f:3: there is no column 'text'",
    ]


def test_models_and_tokenizers_without_masked_words_are_refused():
    tokenizer = word_piece()
    for model_type, instead in (("gpt2", "causal_lm"), ("t5", "denoising"), ("bilstm", "classification")):
        with pytest.raises(ConfigError, match=f"no head for masked words; expected task={instead}"):
            task().for_model(described(tokenizer, model_type))
    with pytest.raises(ConfigError, match="no mask token"):
        task().for_model(
            described(finished(Tokenizer(models.WordLevel({}, unk_token="<unk>")), mask_token=None))
        )
    with pytest.raises(ConfigError, match=r"data\.text_pair is 'b'"):
        task(text_pair="b")


def test_how_much_is_masked_makes_no_other_tokenised_copy():
    tokenizer = word_piece()
    one = task().for_model(described(tokenizer))
    assert repr(one) == repr(task(mask_share=0.4, whole_word=True).for_model(described(tokenizer)))
    assert repr(one) != repr(dataclasses.replace(one, max_length=64))


def test_words_of_examples_come_back_from_the_store():
    tokenizer = byte_level()
    (pieces,) = task().for_model(described(tokenizer)).tokenize([{"text": "the sea"}], tokenizer, str)
    np.testing.assert_array_equal(Examples.from_list(pieces).arrays_of(0)["words"], pieces[0]["words"])
