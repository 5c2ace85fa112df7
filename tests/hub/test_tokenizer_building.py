"""Tokenizers built from texts: the same ones every time, special tokens first, what they drop and what they keep."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxtune.errors import ConfigError, DataError
from jaxtune.hub.tokenizer_building import KINDS, SPECIAL, Recipe, build_tokenizer
from jaxtune.hub.tokenizers import load_tokenizer

SIZES = {"bpe": 500, "wordpiece": 400, "unigram": 300}


def texts():
    rng = random.Random(0)
    stems = ["alpha", "Beta", "gamma", "über", "日本語", "wörld", *(f"foo{i}" for i in range(200))]
    made = [
        " ".join(rng.choice(stems) + rng.choice(["", "s", "ing", ",", "!"]) for _ in range(20))
        for _ in range(400)
    ]
    # Characters that are equally rare: what a set's order would decide.
    return [*made, *(chr(0x4E00 + i) for i in range(40)), " "]


@pytest.fixture(scope="module")
def built():
    return {kind: build_tokenizer(Recipe(kind, size), texts()) for kind, size in SIZES.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_texts_give_an_equal_tokenizer(built, kind):
    # Each build has hash tables with seeds of their own, so that once more is as good as in another process.
    for _ in range(3):
        again = build_tokenizer(Recipe(kind, SIZES[kind]), texts())
        assert again.backend_tokenizer.to_str() == built[kind].backend_tokenizer.to_str()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_dense_and_special_tokens_first(built, kind):
    tokenizer = built[kind]
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert 0.9 * SIZES[kind] < len(tokenizer) <= SIZES[kind]
    assert tokenizer.convert_ids_to_tokens(range(7)) == list(SPECIAL.values())
    assert [getattr(tokenizer, f"{name}_id") for name in SPECIAL] == list(range(7))


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_words_give_fewer_tokens(kind):
    tokenizer = build_tokenizer(Recipe(kind, 5000), ["one two two three three three"] * 3)
    assert 7 < len(tokenizer) < 400


@pytest.mark.parametrize("kind", KINDS)
def test_common_words_are_one_token(built, kind):
    tokens = built[kind].tokenize("gamma alpha gamma")
    assert len(tokens) == 3 or (kind == "bpe" and len(tokens) <= 5)
    assert "[UNK]" not in tokens


@pytest.mark.parametrize(
    ("model_kind", "single", "pair"),
    [
        ("encoder", "[CLS] a [SEP]", "[CLS] a [SEP] b [SEP]"),
        ("decoder", "[BOS] a", "[BOS] a [SEP] b"),
        ("encoder_decoder", "a [EOS]", "a [SEP] b [EOS]"),
    ],
)
def test_what_stands_around_a_text(model_kind, single, pair):
    tokenizer = build_tokenizer(Recipe("wordpiece", 60), ["a b"] * 3, model_kind=model_kind)
    shown = [
        " ".join(tokenizer.convert_ids_to_tokens(tokenizer(*x)["input_ids"])) for x in (["a"], ["a", "b"])
    ]
    assert shown == [single, pair]
    types = tokenizer("a", "b", return_token_type_ids=True)["token_type_ids"]
    assert types == ([0, 0, 0, 1, 1] if model_kind == "encoder" else [0] * len(types))


@pytest.fixture(scope="module")
def exact():
    return build_tokenizer(Recipe("bpe", 400), texts(), normalizer="none")


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
@settings(max_examples=60)
def test_bpe_brings_every_text_back(exact, text):
    assume(not any(token in text for token in SPECIAL.values()))
    ids = exact(text, add_special_tokens=False)["input_ids"]
    assert exact.decode(ids, clean_up_tokenization_spaces=False) == text
    assert exact.unk_token_id not in ids


def test_the_normalizer_is_the_one_asked_for():
    def tokens(name, text):
        return build_tokenizer(Recipe("wordpiece", 200), ["Big big"] * 3, normalizer=name).tokenize(text)

    assert tokens("nfkc", "Big ｂig") == ["Big", "big"]
    assert tokens("lowercase", "Big ｂig") == ["big", "big"]
    assert tokens("none", "Big ｂig") == ["Big", "[UNK]"]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_unknown_characters_are_unknown(built, kind):
    ids = built[kind]("gamma Ω", add_special_tokens=False)["input_ids"]
    assert ids[-1] == 1
    assert ids[0] > 6


def test_wordpieces_are_those_of_the_librarys_trainer():
    """Where no two pairs are equally frequent, the order of its characters decides nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lines = ["aab aab aab aab aab", "aac aac aac", "bd bd bd bd bd bd bd"]
    peer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    peer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=18, min_frequency=2, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    peer.train_from_iterator(lines, trainer)
    ours = set(build_tokenizer(Recipe("wordpiece", 18), lines).get_vocab())
    theirs = set(peer.get_vocab())
    # The library also counts characters that only continue words among those that begin one.
    assert ours >= {piece for piece in theirs if len(piece.removeprefix("##")) > 1}
    assert {"aab", "bd"} <= ours


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_and_read_as_any_other(built, kind, tmp_path):
    built[kind].save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.is_fast
    for text in ("Beta wörlds!", "foo77ing 日本語"):
        assert again(text, "gamma")["input_ids"] == built[kind](text, "gamma")["input_ids"]
    assert (again.pad_token_id, again.mask_token_id) == (0, 4)
    short, long = again(["alpha", "alpha alpha gamma"], padding=True)["input_ids"]
    assert (len(short), short[-1], long[-1]) == (len(long), 0, 3)


@pytest.mark.parametrize(
    "spec", ["bpe:100", "wordpiece:7", "unigram:", "bpe:many", "wordpiece", "bpe:-1", "bpe:8e3"]
)
def test_sizes_that_cannot_be(spec):
    with pytest.raises(ConfigError, match=r"model\.tokenizer.*SIZE with at least"):
        Recipe.parse(spec)


@pytest.mark.parametrize("spec", ["folder/tokenizer", "google-bert/bert-base-uncased", "./bpe", "pypi:a==1"])
def test_names_of_tokenizers_are_no_recipes(spec):
    assert Recipe.parse(spec) is None


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_learn_from(kind):
    with pytest.raises(DataError, match="nothing to build"):
        build_tokenizer(Recipe(kind, 300), ["", " \n"])
