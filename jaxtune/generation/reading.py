"""New tokens as text while they come: stop strings, and pieces for those who read along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_CONTEXT = 8
_BROKEN = "\ufffd"


class Decoder:
    """Text of the tokens after a prompt.

    A tokenizer drops the space before the first word of what it decodes, so the end of the prompt is
    decoded too and cut off.

    Args:
        prompt: what the decoder has read; empty for an encoder-decoder.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._context = list(prompt[-_CONTEXT:])
        self._before = self._decode(self._context)

    def text(self, tokens: Sequence[int]) -> str:
        """Special tokens have no text."""
        whole = self._decode([*self._context, *tokens])
        if whole.startswith(self._before):
            return whole[len(self._before) :]
        return self._decode(list(tokens))  # a prompt of token ids may end within a character

    def _decode(self, tokens: list[int]) -> str:
        if not tokens:
            return ""
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Reader:
    """Reads the tokens of one row as they come.

    Attributes:
        count: tokens of the text; grows until it ends.
        ended: ``eos``, ``stop`` or ``length``; none while it goes on.
        text: what there is so far, without the stop string.
    """

    def __init__(
        self,
        decoder: Decoder | None,
        eos: Sequence[int],
        stop: Sequence[str],
        limit: int,
        on_piece: Callable[[str], None] | None = None,
    ) -> None:
        self._decoder = decoder
        self._eos = frozenset(eos)
        self._stop = tuple(stop)
        self._limit = limit
        self._on_piece = on_piece
        self._said = ""
        self.count = 0
        self.ended: str | None = None
        self.text = ""

    def read(self, tokens: Sequence[int]) -> None:
        """Take note of all tokens of the row so far."""
        if self.ended is not None:
            return
        before = self.count
        self.count = next((i + 1 for i in range(before, len(tokens)) if tokens[i] in self._eos), len(tokens))
        if self.count and tokens[self.count - 1] in self._eos:
            self.ended = "eos"
        elif self.count >= self._limit:
            self.ended = "length"
        if self._decoder is None:
            return
        self.text = self._text(tokens, self.count)
        if self._find(self.text) is not None:
            # The text may have been read several tokens at a time: it ends with the first that completes a stop.
            ends = (k for k in range(before, self.count + 1) if self._find(self._text(tokens, k)) is not None)
            self.count, self.ended = next(ends), "stop"
            text = self._text(tokens, self.count)
            self.text = text[: self._find(text)]
        self._say()

    def _text(self, tokens: Sequence[int], count: int) -> str:
        assert self._decoder is not None
        known = tokens[:count]
        return self._decoder.text(known[:-1] if count and known[-1] in self._eos else known)

    def _find(self, text: str) -> int | None:
        """Where the first stop string begins."""
        return min((at for at in (text.find(stop) for stop in self._stop) if at >= 0), default=None)

    def _say(self) -> None:
        if self._on_piece is None:
            return
        text = self.text if self.ended else self._settled(self.text)
        if len(text) > len(self._said) and (self.ended or text.startswith(self._said)):
            piece, self._said = text[len(self._said) :], text
            self._on_piece(piece)

    def _settled(self, text: str) -> str:
        """What no later token can change or take back: no half character, no beginning of a stop string."""
        text = text.rstrip(_BROKEN)
        begun = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(text)), begun, -1):
                if text.endswith(stop[:length]):
                    begun = length
                    break
        return text[: len(text) - begun]
