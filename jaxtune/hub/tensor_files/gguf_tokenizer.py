"""The tokenizer that a GGUF file's metadata describes, as a fast tokenizer of transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtune.errors import SourceError
from jaxtune.hub.tensor_files.gguf_file import GgufFile, open_gguf

logger = logging.getLogger(__name__)

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""Kinds of tokens: of unknown text, of the model's own language (``<|im_end|>``), and whole words by decree."""

_GPT2 = ("gpt-2", "gpt2", "phi-2", "jina-v2-code", "olmo", "exaone")
_SMOLLM = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral")
_QWEN2 = ("qwen2", "deepseek-r1-qwen", "kormo", "megrez")
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_SPACE = "\u2581"


def tokenizer_of_gguf(path: Path) -> Any:
    """The tokenizer of a GGUF file (a ``PreTrainedTokenizerFast``), with its special tokens and chat template.

    Raises:
        SourceError: the file has none, or one of a kind that is not supported, by name.
        WeightsError: the file is damaged.
    """
    file = open_gguf(path)
    kind = file.metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        what = (
            "no tokenizer" if kind is None else f"the tokenizer.ggml.model {kind!r}, which is not supported"
        )
        raise SourceError(f"{path} has {what}; expected one of {', '.join(builders)}.")
    try:
        return _wrapped(file, builders[kind](file))
    except SourceError:
        raise
    except Exception as error:  # the tokenizers package raises plain Exception for what does not fit together
        raise SourceError(
            f"the tokenizer in {path} cannot be read: {type(error).__name__}: {error}"
        ) from error


def _tokens(file: GgufFile) -> list[str]:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise SourceError(f"{file.path} has no list tokenizer.ggml.tokens.")
    return tokens


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(tokens):
        vocabulary.setdefault(token, index)
    return vocabulary


def _byte_level(file: GgufFile) -> Any:
    """Byte-level BPE, split first as the file's ``tokenizer.ggml.pre`` says."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    merges = [tuple(merge.split(" ", 1)) for merge in file.metadata.get("tokenizer.ggml.merges", ())]
    pre = file.metadata.get("tokenizer.ggml.pre")
    if pre is None:
        logger.warning(
            "%s does not say how its tokenizer splits text (tokenizer.ggml.pre): as GPT-2's", file.path
        )
        pre = "gpt-2"
    model = models.BPE(
        vocab=_vocabulary(_tokens(file)), merges=merges, fuse_unk=False, ignore_merges=pre in _LLAMA3
    )
    tokenizer = Tokenizer(model)
    if pre in _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _splitting(file, pre)
    tokenizer.decoder = decoders.ByteLevel()
    _finish(file, tokenizer, adds_bos=pre in _LLAMA3)
    return tokenizer


def _splitting(file: GgufFile, pre: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if pre in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _SMOLLM:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if pre in _LLAMA3 or pre in _QWEN2:
        split = _LLAMA3_SPLIT if pre in _LLAMA3 else _QWEN2_SPLIT
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    known = ", ".join((*_GPT2, *_SMOLLM, *_LLAMA3, *_QWEN2))
    raise SourceError(f"{file.path}: tokenizer.ggml.pre {pre!r} is not supported; expected one of {known}.")


def _sentencepiece(file: GgufFile) -> Any:
    """SentencePiece's BPE with byte fallback; its merges follow from the scores of the pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    gemma = file.architecture.startswith("gemma")
    tokens = [t if t.strip(" ") else _SPACE * len(t) for t in _tokens(file)]
    scores = file.metadata.get("tokenizer.ggml.scores") or []
    # Gemma's scores do not follow the order of its merges; the order of its pieces does.
    if gemma or len(scores) != len(tokens):
        scores = [-float(i) for i in range(len(tokens))]
    vocabulary = _vocabulary(tokens)
    unknown = file.metadata.get("tokenizer.ggml.unknown_token_id", 0)
    model = models.BPE(
        vocab=vocabulary,
        merges=_merges(vocabulary, scores),
        unk_token=tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefix = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", not gemma))
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    _finish(file, tokenizer, adds_bos=True)
    return tokenizer


def _merges(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, the pieces with the highest score first."""

    def pairs() -> Iterator[tuple[float, int, int, str, str]]:
        for piece, index in vocabulary.items():
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in vocabulary and right in vocabulary:
                    yield -scores[index], vocabulary[left], vocabulary[right], left, right

    return [(left, right) for *_, left, right in sorted(pairs())]


def _finish(file: GgufFile, tokenizer: Any, *, adds_bos: bool) -> None:
    """Tokens that are never split, and those that are put around every text."""
    from tokenizers import AddedToken, processors

    tokens, kinds = _tokens(file), file.metadata.get("tokenizer.ggml.token_type") or []
    named = {tokens[index] for index in _special(file).values()}
    special = [t for t, k in zip(tokens, kinds) if k == _CONTROL or (k == _UNKNOWN and t in named)]
    special += sorted(named - set(special))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    decreed = [t for t, k in zip(tokens, kinds) if k == _USER_DEFINED and t not in named]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in decreed])
    ids = _special(file)
    around = []
    for name, by_default in (("bos", adds_bos), ("eos", False)):
        wanted = file.metadata.get(f"tokenizer.ggml.add_{name}_token", by_default)
        around.append(tokens[ids[f"{name}_token"]] if wanted and f"{name}_token" in ids else None)
    if any(around):
        before, after = ([token] if token else [] for token in around)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *before, "$B:1", *after],
            special_tokens=[(token, tokens.index(token)) for token in {*before, *after}],
        )


def _special(file: GgufFile) -> dict[str, int]:
    """Ids of the tokens with a role, by transformers' names of the roles."""
    count, found = len(_tokens(file)), {}
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    for ours, theirs in roles.items():
        index = file.metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        if index is None:
            continue
        if not 0 <= index < count:
            raise SourceError(f"{file.path}: {ours} is {index}, and there are {count} tokens.")
        found[ours] = int(index)
    return found


def _wrapped(file: GgufFile, tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokens = _tokens(file)
    roles = {role: tokens[index] for role, index in _special(file).items()}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_max_length=int(file.get("context_length") or 1 << 30),
        model_input_names=["input_ids", "attention_mask"],
        **roles,
    )
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        wrapped.chat_template = template
    return wrapped
