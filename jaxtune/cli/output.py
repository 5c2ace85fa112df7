"""What commands read from standard input, and where their results go."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtune import files
from jaxtune.errors import DataError, RunError


def check_output(path: str, overwrite: bool) -> None:
    """Refuse a place for predictions before the work of making them."""
    if files.is_dir(path):
        raise RunError(f"--output {path} is a folder; expected the name of a file")
    if files.exists(path) and not overwrite:
        raise RunError(f"{path} exists; choose another --output, or replace it with --overwrite")


def write_output(path: str, lines: Iterable[str]) -> None:
    """Write lines to a file. Raises RunError where it cannot be written."""
    try:
        files.write_text(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}. Choose another --output."
        ) from error


def json_line(value: Any) -> str:
    """A value as one line of JSON that the terminal can show."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a lone surrogate, or a terminal that knows few characters
        return json.dumps(value)
    return line


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, all of them now."""
    for line in lines:
        print(line)
    sys.stdout.flush()  # here, where a reader that has gone is noticed


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows with the same keys as lines of aligned columns, the keys above; numbers to the right."""

    def shown(value: Any) -> str:
        return (
            f"{value:,}"
            if isinstance(value, int)
            else "×".join(map(str, value))
            if isinstance(value, list)
            else str(value)
        )

    names = list(rows[0])
    cells = [names, *([shown(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [isinstance(rows[0][name], int) for name in names]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)).rstrip()
        for line in cells
    ]


def lines_of_stdin(nothing: str = "nothing to predict", option: str = "--text") -> list[str]:
    """Lines of standard input that are not empty. Raises DataError where there are none."""
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError(f"{nothing}: give {option}, --input FILE, or lines on standard input")
    try:
        lines = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not valid UTF-8 (byte {error.start}); expected one text a line"
        ) from None
    if not lines:
        raise DataError(f"{nothing}: standard input is empty; give {option}, --input FILE, or lines")
    return lines
