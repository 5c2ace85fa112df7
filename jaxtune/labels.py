"""What data and tasks, which do not import each other, both know of labels and answers."""

from __future__ import annotations

IGNORED = -100
"""Label of a token that no loss counts, as torch has it."""


def misplaced_answer(text: str, start: int, context: str) -> str | None:
    """What is wrong with an answer that should stand at character ``start`` of its context; none if it does."""
    there = context[start : start + len(text)] if start >= 0 else ""
    if there == text:
        return None
    elsewhere = context.find(text)
    hint = f"it stands at {elsewhere}" if elsewhere >= 0 else "it stands nowhere in the context"
    return (
        f"the answer {text!r:.60} does not match the context, which has {there!r:.60} at {start} ({hint}; "
        "answer_start counts characters from 0)"
    )
