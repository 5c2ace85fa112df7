"""Files of prompts."""

from __future__ import annotations

import json
from typing import Any

from jaxtune import files
from jaxtune.errors import DataError

_FIELDS = ("prompt", "messages", "text")


def read_prompts(path: str) -> list[Any]:
    """Prompts of a file: ``.txt`` with one a line, or ``.jsonl`` with strings or objects.

    An object has a ``prompt``, ``messages`` (a conversation) or a ``text``. Blank lines are left out.

    Raises:
        DataError: no such file, another kind of file, or a line that holds no prompt; with its number.
    """
    if files.is_dir(path) or not files.exists(path):
        raise DataError(f"{path}: no such file; expected prompts, as .txt or .jsonl")
    if not path.endswith((".txt", ".jsonl")):
        raise DataError(f"{path}: expected .txt with one prompt a line, or .jsonl")
    try:
        lines = files.read_text(path).split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid UTF-8 at byte {error.start}") from None
    numbered = [(i, line.removesuffix("\r")) for i, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path} holds no prompt")
    return [line if path.endswith(".txt") else _parsed(line, f"{path}:{i}") for i, line in numbered]


def _parsed(line: str, place: str) -> Any:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not valid JSON: {error}") from None
    if isinstance(record, str):
        return record
    found = [record[name] for name in _FIELDS if name in record] if isinstance(record, dict) else []
    if not found or not isinstance(found[0], str | list):
        raise DataError(f"{place}: expected a string, or an object with {', '.join(_FIELDS[:-1])} or text")
    return found[0]
