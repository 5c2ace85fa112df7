"""Repairing damaged texts: which damage a model gets, what its examples hold, and how much room they need."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxtune.config import DataConfig, Experiment
from jaxtune.data.examples import Examples
from jaxtune.errors import ConfigError, DataError
from jaxtune.hub.description import Description
from jaxtune.models.registry import family_of
from jaxtune.tasks.denoising import Denoising
from jaxtune.tasks.noise.infilling import Infilling
from jaxtune.tasks.noise.span_corruption import SpanNoise

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", ".", "!"]


def described(model_type):
    """config.json and tokenizer of a T5 (sentinels, ends with </s>) or of a BART (mask, in <s> … </s>)."""
    t5 = model_type in ("t5", "mt5")
    extra = [f"<extra_id_{i}>" for i in range(4, -1, -1)] if t5 else ["<mask>"]
    names = ["<s>", "<pad>", "</s>", "<unk>", *WORDS, *extra]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>" if t5 else "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    special |= {"additional_special_tokens": extra} if t5 else {"bos_token": "<s>", "mask_token": "<mask>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    start = 1 if t5 else 2
    raw = {"model_type": model_type, "vocab_size": len(names), "decoder_start_token_id": start}
    return Description(raw, family_of(model_type).config_class.from_hf(raw), fast)


T5, BART = described("t5"), described("bart")


def task(**data):
    return Denoising.from_experiment(Experiment(task="denoising", data=DataConfig(**data)))


def pieces_of(model, text, **data):
    ready = task(**data).for_model(model)
    (made,) = ready.tokenize([{"text": text}], model.tokenizer, str)
    return ready, made


def test_a_t5_gets_spans_and_a_bart_masks():
    assert isinstance(task().for_model(T5).dynamic, SpanNoise)
    assert isinstance(task().for_model(BART).dynamic, Infilling)
    assert isinstance(task(noise="infilling").for_model(BART).dynamic, Infilling)


def test_what_a_t5_reads_and_tells():
    names, words = T5.tokenizer, " ".join(WORDS[:10])
    ready, (piece,) = pieces_of(T5, words)
    made = ready.dynamic(piece, np.random.default_rng(0))
    read, told, before = (
        names.convert_ids_to_tokens(made[n].tolist()) for n in ("tokens", "labels", "decoder_tokens")
    )
    assert read[-2:] == ["<extra_id_0>", "</s>"]
    assert told[0] == "<extra_id_0>"
    assert [*read[:-2], *told[1:-1]] == words.split()
    assert before == ["<pad>", *told[:-1]]


def test_what_a_bart_reads_and_tells():
    names, words = BART.tokenizer, " ".join(WORDS[:10])
    ready, (piece,) = pieces_of(BART, words)
    made = ready.dynamic(piece, np.random.default_rng(0))
    read, told, before = (
        names.convert_ids_to_tokens(made[n].tolist()) for n in ("tokens", "labels", "decoder_tokens")
    )
    assert told == ["<s>", *words.split(), "</s>"]
    assert before == ["</s>", *told[:-1]]
    assert (read[0], read[-1]) == ("<s>", "</s>")
    assert "<mask>" in read
    assert sum(word in WORDS for word in read) == 10 - 3


def test_sentences_end_at_a_stop_and_at_a_line():
    text = "one two . three ! four\nfive six"
    _, (piece,) = pieces_of(BART, text, permute_sentences=True)
    assert piece["sentences"].tolist() == [-1, 0, 0, 0, 1, 1, 2, 3, 3, -1]


@given(
    st.sampled_from([T5, BART]),
    st.lists(st.lists(st.sampled_from(WORDS), min_size=2, max_size=40), min_size=1, max_size=5),
    st.integers(5, 30),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_no_example_needs_more_room_than_was_planned(model, texts, max_length, permute, seed):
    rng = np.random.default_rng(seed)
    ready = task(
        max_length=max_length - (model is T5), permute_sentences=permute and model is BART
    ).for_model(model)
    records = [{"text": " ".join(words)} for words in texts]
    made = ready.tokenize(records, model.tokenizer, str)
    examples = Examples.from_list(piece for pieces in made for piece in pieces)
    lengths, decoder_lengths = ready.dynamic.lengths(examples)
    for i in range(len(examples)):
        arrays = ready.dynamic(examples.arrays_of(i), rng)
        assert len(arrays["tokens"]) <= lengths[i] <= ready.max_length
        assert (
            len(arrays["labels"]) == len(arrays["decoder_tokens"]) <= decoder_lengths[i] <= ready.max_length
        )
        assert not (model is T5 and len(arrays["tokens"]) != lengths[i]), "of spans it is known exactly"
    special = ready.dynamic.around
    told = [examples.tokens_of(i)[special[0] : -1] for i in range(len(examples))]
    whole = model.tokenizer([r["text"] for r in records], add_special_tokens=False)["input_ids"]
    assert np.concatenate(told).tolist() == [token for tokens in whole for token in tokens]


def test_a_text_of_one_token_is_refused():
    _, error = pieces_of(T5, "one")
    assert isinstance(error, DataError)
    assert "fewer than 2 tokens" in str(error)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ConfigError, match=r"no sentinels \(<extra_id_0>, …\); expected a T5"):
        task(noise="spans").for_model(BART)
    with pytest.raises(ConfigError, match="no mask token; expected a BART"):
        task(noise="infilling").for_model(T5)
    with pytest.raises(ConfigError, match=r"max_length` is 3; expected at least 4 for denoising"):
        task(max_length=3).for_model(T5)
    with pytest.raises(ConfigError, match=r"permute_sentences` is True; expected False"):
        task(permute_sentences=True).for_model(T5)
    marian = described("marian")
    marian.tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="this marian has neither sentinels"):
        task().for_model(marian)
    for model_type, instead in (("bert", "masked_lm"), ("gpt2", "causal_lm")):
        with pytest.raises(ConfigError, match=f"is a {model_type}; expected task={instead}"):
            task().for_model(described(model_type))
