"""Prompts as tokens, and what is wrong with them, before anything is compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtune.errors import ConfigError, DataError
from jaxtune.generation.settings import GenerationSettings
from jaxtune.generation.stepping import is_seq2seq

Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]
"""A text, a conversation of {"role", "content"}, or token ids as they are."""


def check_model(model: Any, settings: GenerationSettings) -> None:
    """Refuse a model that cannot generate, and special tokens it does not have.

    Raises:
        ConfigError: no head over the vocabulary, no start token for the decoder, or an id out of range.
    """
    kind = model.family.kind
    needed = {"decoder": "causal_lm", "encoder_decoder": "seq2seq_lm"}.get(kind)
    if needed is None:
        raise ConfigError(f"{model.family.model_type} is an encoder, which generates no text")
    if model.head != needed:
        raise ConfigError(f"this model has the head {model.head!r}; load it with head={needed!r} to generate")
    if kind == "encoder_decoder" and settings.decoder_start_token_id is None:
        raise ConfigError(
            "the checkpoint names no `decoder_start_token_id` (config.json, generation_config.json); "
            "give the token its decoder begins with"
        )
    size = model.config.vocab_size
    for name in ("decoder_start_token_id", "bos_token_id", "forced_bos_token_id", "forced_eos_token_id"):
        token = getattr(settings, name)
        if token is not None and token >= size:
            raise ConfigError(f"`{name}` is {token}; the model knows the tokens 0 to {size - 1}")


def check_vocabulary(tokenizer: Any, vocab_size: int) -> None:
    """Refuse the tokenizer of another model.

    Special tokens beyond the table are let pass until a prompt uses them: Gemma 3's text model has one.

    Raises:
        DataError: it makes tokens that the model has no embedding for.
    """
    if tokenizer is None or len(tokenizer) <= vocab_size:
        return
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {i for i, token in added.items() if token.special}
    beyond = [word for word, i in tokenizer.get_vocab().items() if i >= vocab_size and i not in special]
    if beyond:
        raise DataError(
            f"the tokenizer has {len(tokenizer)} tokens, the model embeddings for {vocab_size} "
            f"({sorted(beyond)[0]!r} has none); use the tokenizer that belongs to this checkpoint"
        )


def encode_prompts(
    tokenizer: Any, prompts: Sequence[Prompt], model: Any, settings: GenerationSettings
) -> list[list[int]]:
    """Token ids of every prompt; an empty one becomes a start token.

    Raises:
        DataError: a prompt that is none, is too long, or has tokens the model does not know.
    """
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence):
        raise DataError(f"prompts is a {type(prompts).__name__}; expected a list of texts")
    seq2seq = is_seq2seq(model)
    encoded = []
    for index, prompt in enumerate(prompts):
        tokens = _tokens_of(tokenizer, prompt, index) or _tokens_of_nothing(index, settings, seq2seq)
        size = model.config.vocab_size
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise DataError(f"prompts[{index}] has the token {wrong}; the model knows 0 to {size - 1}")
        _check_length(index, len(tokens), model.config.max_position_embeddings, settings, seq2seq)
        encoded.append(tokens)
    return encoded


def _tokens_of(tokenizer: Any, prompt: Prompt, index: int) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise DataError(f"prompts[{index}] is a text, but there is no tokenizer; give token ids")
        return list(tokenizer(prompt)["input_ids"])
    if isinstance(prompt, Sequence) and prompt and all(isinstance(turn, Mapping) for turn in prompt):
        return _tokens_of_chat(tokenizer, prompt, index)
    try:
        return [token.__index__() for token in prompt]  # type: ignore[union-attr]
    except (TypeError, AttributeError):
        raise DataError(
            f"prompts[{index}] is a {type(prompt).__name__}; expected a text, a list of "
            '{"role": …, "content": …}, or token ids'
        ) from None


def _tokens_of_chat(tokenizer: Any, turns: Any, index: int) -> list[int]:
    if getattr(tokenizer, "chat_template", None) is None:
        raise DataError(
            f"prompts[{index}] is a conversation, but the checkpoint's tokenizer has no chat template; "
            "give a text"
        )
    for turn in turns:
        if not {"role", "content"} <= set(turn):
            raise DataError(f'prompts[{index}]: a turn has {sorted(turn)}; expected "role" and "content"')
    try:
        text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise what they like, jinja2's TemplateError above all
        raise DataError(f"prompts[{index}]: the chat template refuses this conversation: {error}") from error
    # The template writes the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _tokens_of_nothing(index: int, settings: GenerationSettings, seq2seq: bool) -> list[int]:
    if seq2seq:
        if settings.eos_token_ids:
            return [settings.eos_token_ids[0]]
        raise DataError(f"prompts[{index}] is empty, and the checkpoint names no end token to stand for it")
    if settings.bos_token_id is None:
        raise DataError(
            f"prompts[{index}] is empty, and the checkpoint has no start token (bos_token_id) to begin with; "
            "give it at least one word"
        )
    return [settings.bos_token_id]


def _check_length(
    index: int, length: int, most: int | None, settings: GenerationSettings, seq2seq: bool
) -> None:
    new = settings.max_new_tokens
    if most is None:
        return
    if length > most or (length == most and not seq2seq and new):
        raise DataError(
            f"prompts[{index}] has {length} tokens; the model reads {most} at most, new ones included: shorten it"
            if not seq2seq
            else f"prompts[{index}] has {length} tokens; the model reads {most} at most: shorten it"
        )
    if seq2seq:
        if new > most:
            raise DataError(f"`max_new_tokens` is {new}; the model writes {most} tokens at most: lower it")
    elif length + new > most:
        raise DataError(
            f"prompts[{index}] has {length} tokens, which with `max_new_tokens` {new} is {length + new}; the "
            f"model's limit is {most}: lower `max_new_tokens` to {most - length}, or shorten the prompt"
        )
