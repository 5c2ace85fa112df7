"""Conversations as tokens, and which of them the assistant says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtune.tasks.base import row_error


def conversation_labels(
    turns: Sequence[Any], tokenizer: Any, place: str, column: str
) -> tuple[str, list[int], list[bool], list[tuple[int, int]]]:
    """A conversation in the tokenizer's chat template: its text, the token ids, whether each is the assistant's, and
    where in the text it stands.

    What the template puts before a reply (the role's header) is read, not learnt; what ends a reply is learnt.

    Raises:
        DataError: no conversation, no chat template, or a template that does not only append.
    """
    expected = 'a list of {"role": …, "content": …}'
    if not turns or not all(isinstance(t, Mapping) and {"role", "content"} <= set(t) for t in turns):
        raise row_error(place, column, "holds a list that is no conversation", expected)
    if getattr(tokenizer, "chat_template", None) is None:
        raise row_error(place, column, "holds a conversation", "a text: the tokenizer has no chat template")
    plain = [dict(turn) for turn in turns]

    def written(count: int, reply: bool) -> str:
        return tokenizer.apply_chat_template(plain[:count], tokenize=False, add_generation_prompt=reply)

    text, spans = written(len(plain), False), []
    for i, turn in enumerate(plain):
        if turn["role"] != "assistant":
            continue
        before, after = written(i, True), written(i + 1, False)
        if not (text.startswith(before) and text.startswith(after) and len(before) <= len(after)):
            raise row_error(
                place,
                column,
                "holds a conversation that the chat template writes in another way once it goes on",
                "a template that only appends; train on texts instead",
            )
        spans.append((len(before), len(after)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = list(encoded["offset_mapping"])
    said = [any(first <= start < last for first, last in spans) and end > start for start, end in offsets]
    return text, encoded["input_ids"], said, offsets
