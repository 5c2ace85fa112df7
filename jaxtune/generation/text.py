"""``generate_texts``: from prompts to texts, in batches, in the order they were given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxtune.errors import ConfigError, DataError
from jaxtune.generation.batches import Batch, make_batches
from jaxtune.generation.beam import beam_batch
from jaxtune.generation.decode import decode_batch
from jaxtune.generation.prompts import Prompt, check_model, check_vocabulary, encode_prompts
from jaxtune.generation.reading import Decoder, Reader
from jaxtune.generation.settings import GenerationSettings
from jaxtune.generation.stepping import is_seq2seq, mesh_of
from jaxtune.models.layer_stack import unstack_layers

OnText = Callable[[int, str], None]

_STOP_CHECK = 8
"""Tokens between two looks for stop strings, where nobody reads along."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """One text.

    Attributes:
        text: without special tokens and without the stop string.
        tokens: as generated: with the end-of-sequence token, and with the tokens of the stop string.
        ended: ``eos``, ``stop`` or ``length``.
        score: of a beam: log probability / length^length_penalty.
    """

    text: str
    tokens: tuple[int, ...]
    ended: str
    score: float | None = None


def generate_texts(
    model: Any,
    params: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    *,
    return_tokens: bool = False,
    details: bool = False,
    on_text: OnText | None = None,
    every: int = 1,
    batch_size: int = 16,
) -> list[Any]:
    """What the model writes after each prompt (a decoder), or in answer to it (an encoder-decoder).

    Prompts of similar length share a batch; what one gets does not depend on the others. The arrays
    have few shapes, each compiled once per process.

    Args:
        tokenizer: a transformers tokenizer; may be none for prompts of token ids with ``return_tokens``.
        prompts: texts, conversations (through the tokenizer's chat template), or token ids.
        return_tokens: lists of token ids instead of texts.
        details: ``Generation`` records instead of texts.
        on_text: called as ``on_text(index of the prompt, piece)`` while the texts grow; the pieces of a
            prompt, joined, are its text.
        every: tokens between two calls of ``on_text``.
        batch_size: rows computed at once; every beam of a prompt counts.

    Returns:
        One str, list of ids or record per prompt; a list of them, the best first, if
        ``settings.num_return_sequences`` is above 1.

    Raises:
        ConfigError: settings the model cannot follow.
        DataError: prompts it cannot read, with their index; both are ValueErrors.
    """
    check_model(model, settings)
    check_vocabulary(tokenizer, model.config.vocab_size)
    _check_call(settings, on_text, every, batch_size)
    if tokenizer is None and (settings.stop or on_text is not None or not return_tokens):
        raise DataError(
            "there is no tokenizer to make texts; ask for return_tokens, without stop and on_text"
        )
    encoded = encode_prompts(tokenizer, prompts, model, settings)
    if settings.max_new_tokens == 0:
        found = [[Generation("", (), "length")] * settings.num_return_sequences for _ in encoded]
    elif encoded:
        if model.scan_layers:  # the cache has a pair of arrays per layer
            model, params = model.clone(scan_layers=False), unstack_layers(params)
        found = _Writer(model, params, tokenizer, encoded, settings, on_text, every).write(batch_size)
    else:
        found = []
    shown = [[_shown(g, return_tokens, details) for g in group] for group in found]
    return shown if settings.num_return_sequences > 1 else [group[0] for group in shown]


def _check_call(settings: GenerationSettings, on_text: OnText | None, every: int, batch_size: int) -> None:
    for name, value in (("every", every), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"`{name}` is {value!r}; expected a whole number, 1 or more")
    if on_text is None:
        return
    if settings.num_beams > 1:
        raise ConfigError("`on_text` with `num_beams` above 1: a beam search knows its text only at the end")
    if settings.num_return_sequences > 1:
        raise ConfigError("`on_text` with `num_return_sequences` above 1: pieces of several texts would mix")


def _shown(generation: Generation, return_tokens: bool, details: bool) -> Any:
    if details:
        return generation
    return list(generation.tokens) if return_tokens else generation.text


@dataclasses.dataclass
class _Writer:
    """The batches of one call."""

    model: Any
    params: Any
    tokenizer: Any
    prompts: Sequence[Sequence[int]]
    settings: GenerationSettings
    on_text: OnText | None
    every: int

    def write(self, batch_size: int) -> list[list[Generation]]:
        """The texts of every prompt."""
        s = self.settings
        found: list[list[Generation]] = [[] for _ in self.prompts]
        batches = make_batches(
            self.prompts,
            copies=1 if s.num_beams > 1 else s.num_return_sequences,
            batch_size=max(1, batch_size // s.num_beams),
            pad=s.pad_token_id,
            left=not is_seq2seq(self.model),
            mesh=mesh_of(self.params),
        )
        for batch in batches:
            write = self._search if s.num_beams > 1 else self._decode
            for (prompt, _), texts in zip(batch.rows, write(batch), strict=True):
                found[prompt] += texts
        return found

    def _decode(self, batch: Batch) -> list[list[Generation]]:
        readers = [self._reader(prompt, self._say_to(prompt)) for prompt, _ in batch.rows]

        def watch(tokens: np.ndarray, done: np.ndarray) -> np.ndarray:
            for reader, row in zip(readers, tokens):
                reader.read(row.tolist())
            ended = np.ones(len(done), bool)  # the copies that fill the batch hold nobody up
            ended[: len(readers)] = [reader.ended is not None for reader in readers]
            return ended

        watched = self.on_text is not None or bool(self.settings.stop)
        every = self.every if self.on_text is not None else _STOP_CHECK
        tokens = decode_batch(
            self.model, self.params, batch, self.settings, watch if watched else None, every
        )
        return [[_finished(reader, row.tolist())] for reader, row in zip(readers, tokens)]

    def _search(self, batch: Batch) -> list[list[Generation]]:
        texts, scores = beam_batch(self.model, self.params, batch, self.settings)
        return [
            [_finished(self._reader(prompt, None), t.tolist(), float(x)) for t, x in zip(row, row_scores)]
            for (prompt, _), row, row_scores in zip(batch.rows, texts, scores)
        ]

    def _reader(self, prompt: int, on_piece: Callable[[str], None] | None) -> Reader:
        read = [] if is_seq2seq(self.model) else self.prompts[prompt]
        decoder = None if self.tokenizer is None else Decoder(self.tokenizer, read)
        s = self.settings
        return Reader(decoder, s.eos_token_ids, s.stop, s.max_new_tokens, on_piece)

    def _say_to(self, prompt: int) -> Callable[[str], None] | None:
        on_text = self.on_text
        return None if on_text is None else lambda piece: on_text(prompt, piece)


def _finished(reader: Reader, tokens: list[int], score: float | None = None) -> Generation:
    reader.read(tokens)
    assert reader.ended is not None
    return Generation(reader.text, tuple(tokens[: reader.count]), reader.ended, score)
