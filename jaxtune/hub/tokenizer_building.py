"""A tokenizer built from texts with `tokenizers`: byte-level BPE, WordPiece or Unigram; equal texts give an equal one."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jaxtune.errors import ConfigError, DataError

KINDS = ("bpe", "wordpiece", "unigram")
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
}
"""The special tokens, in the order of their ids."""
TEMPLATES = {
    "encoder": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "decoder": ("[BOS] $A", "[BOS] $A [SEP] $B"),
    "encoder_decoder": ("$A [EOS]", "$A [SEP] $B [EOS]"),
}
"""What stands around a text and a pair of texts, by the kind of model."""

MOST_CHARACTERS = 1000
"""Rarer characters are unknown to WordPiece and Unigram, so that they take no room from words."""
MIN_COUNT = 2
CONTINUES = "##"
_PRIVATE = 0xF0000
"""First code point of a plane that is free for private use."""
_PENALTY = 1e-4

Normalizer = Literal["nfkc", "lowercase", "none"]


@dataclass(frozen=True)
class Recipe:
    """What to build: one of ``KINDS``, and how many tokens it has at most."""

    kind: str
    size: int

    @classmethod
    def parse(cls, spec: str) -> Recipe | None:
        """``wordpiece:8000`` as a recipe; none for what names a tokenizer that exists.

        Raises:
            ConfigError: a recipe without a size, or one that is too small.
        """
        kind, colon, size = spec.partition(":")
        if kind not in KINDS or (not colon and kind != spec):
            return None
        smallest = len(SPECIAL) + (256 if kind == "bpe" else 1)
        if not re.fullmatch(r"[0-9]{1,8}", size) or int(size) < smallest:
            raise ConfigError(
                f"`model.tokenizer` is {spec!r}; expected {kind}:SIZE with at least {smallest} tokens, as {kind}:8000"
            )
        return cls(kind, int(size))


def build_tokenizer(
    recipe: Recipe,
    texts: Iterable[str],
    *,
    normalizer: Normalizer = "nfkc",
    model_kind: str = "encoder",
) -> Any:
    """A fast tokenizer of transformers, with the special tokens first. It may come out smaller than asked for.

    Args:
        texts: what to learn from.
        normalizer: ``nfkc`` makes equal what looks equal, ``lowercase`` drops case too, ``none`` keeps all.
        model_kind: kind of the model's family; settles which special tokens stand around a text.

    Raises:
        DataError: the texts hold nothing to learn from.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    make = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram}[recipe.kind]
    tokenizer = make(recipe.size, texts, _normalizer(normalizer))
    single, pair = TEMPLATES[model_kind]
    # Special tokens are the first of the vocabulary, so this gives them no new ids.
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in SPECIAL.values()],
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    if model_kind != "encoder":
        inputs.remove("token_type_ids")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **SPECIAL)


def _normalizer(name: Normalizer) -> Any:
    from tokenizers import normalizers

    steps: dict[str, list[Any]] = {
        "none": [],
        "nfkc": [normalizers.NFKC()],
        "lowercase": [normalizers.NFKC(), normalizers.Lowercase()],
    }
    return normalizers.Sequence(steps[name])


def _bpe(size: int, texts: Iterable[str], normalizer: Any) -> Any:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): no text is unknown, all come back as they were."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_COUNT,
        special_tokens=list(SPECIAL.values()),
        # In an order of its own: what comes as a set would be numbered by chance.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_checked(texts), trainer)
    return tokenizer


def _wordpiece(size: int, texts: Iterable[str], normalizer: Any) -> Any:
    """WordPiece as BERT's (Schuster & Nakajima 2012; Devlin et al. 2019): words from pieces, most of them whole.

    The library's own trainer numbers its characters by chance, and breaks ties by number. Learnt here is a BPE
    over two alphabets, of characters that begin a word and of those that continue one, which is the same thing.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    splitter = pre_tokenizers.BertPreTokenizer()
    words = _count_words(texts, normalizer, splitter)
    alphabet = _alphabet(words, (size - len(SPECIAL)) // 2)
    first = {c: chr(_PRIVATE + 2 * i) for i, c in enumerate(alphabet)}
    later = {c: chr(_PRIVATE + 2 * i + 1) for i, c in enumerate(alphabet)}
    marked = {
        first[word[0]] + "".join(later[c] for c in word[1:]): count
        for word, count in words.items()
        if first.keys() >= set(word)
    }
    used = sorted({c for word in marked for c in word})
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL),
        min_frequency=MIN_COUNT,
        initial_alphabet=used,
        limit_alphabet=len(used),
        show_progress=False,
    )
    learner.train_from_iterator(_repeated(marked), trainer)
    plain = {mark: c for c, mark in first.items()} | {mark: c for c, mark in later.items()}
    begins = set(first.values())
    learnt = learner.get_vocab()
    pieces = [
        ("" if token[0] in begins else CONTINUES) + "".join(plain[c] for c in token)
        for token in sorted(learnt, key=learnt.__getitem__)
    ]
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL.values(), *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUES)
    return tokenizer


def _unigram(size: int, texts: Iterable[str], normalizer: Any) -> Any:
    """A unigram language model of pieces (Kudo 2018), as SentencePiece has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    splitter = pre_tokenizers.Metaspace()
    words = _count_words(texts, normalizer, splitter)
    alphabet = set(_alphabet(words, size - len(SPECIAL)))
    known = {word: count for word, count in words.items() if alphabet >= set(word)}
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # One piece more than there is room for: the learner's own unknown token.
    trainer = trainers.UnigramTrainer(
        vocab_size=size - len(SPECIAL) + 1, unk_token=SPECIAL["unk_token"], show_progress=False
    )
    learner.train_from_iterator(_repeated(known), trainer)
    pieces = [(p, s) for p, s in json.loads(learner.to_str())["model"]["vocab"] if p != SPECIAL["unk_token"]]
    vocabulary = [(token, 0.0) for token in SPECIAL.values()] + _settled(pieces)
    unknown = list(SPECIAL).index("unk_token")
    tokenizer = Tokenizer(models.Unigram(vocabulary, unknown, False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _settled(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The pieces with scores, and in an order, that do not depend on chance.

    The trainer gives characters that no piece needs the lowest score plus 0, 1, 2 … penalties, in an order that
    changes from run to run; and its sums differ in their last digits.
    """
    lowest = min((score for _, score in pieces), default=0.0)

    def is_penalty(piece: str, score: float) -> bool:
        steps = (score - lowest) / _PENALTY
        return len(piece) == 1 and abs(steps - round(steps)) < 0.01 and round(steps) < len(pieces)

    scores = dict(pieces)
    penalised = sorted(piece for piece, score in pieces if is_penalty(piece, score))
    scores |= zip(penalised, sorted(scores[piece] for piece in penalised), strict=True)
    rounded = ((piece, round(score, 6)) for piece, score in scores.items())
    return sorted(rounded, key=lambda pair: (-pair[1], pair[0]))


def _count_words(texts: Iterable[str], normalizer: Any, splitter: Any) -> Counter[str]:
    """How often each word occurs, in the order of their first occurrence."""
    words: Counter[str] = Counter()
    for text in _checked(texts):
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    # What splits at spaces only is one word for the learner too.
    return Counter({word: count for word, count in words.items() if word and not re.search(r"\s", word)})


def _alphabet(words: Counter[str], most: int) -> list[str]:
    """The commonest characters, no more than fit."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    return ordered[: max(1, min(MOST_CHARACTERS, most))]


def _repeated(words: dict[str, int]) -> Iterator[str]:
    """Each word as often as it occurs: the trainers count themselves."""
    for word, count in words.items():
        for start in range(0, count, 1000):
            yield " ".join([word] * min(1000, count - start))


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts that can be learnt from.

    Raises:
        DataError: there is none.
    """
    found = False
    for text in texts:
        if text.strip():
            found = True
            yield text
    if not found:
        raise DataError("the training texts are all empty: there is nothing to build a tokenizer from")
