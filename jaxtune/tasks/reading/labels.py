"""Class names: where they come from, and which class a raw label value means.

A value means the class of that name. Integers (and texts of digits, as CSV has them) that are no
class name are ids: first into the names the source knows, then into the labels themselves. Truth
values are called "true" and "false"; white space around a name does not count.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from jaxtune.errors import ConfigError, DataError
from jaxtune.tasks.base import plain_value, shown

logger = logging.getLogger(__name__)

MAX_CLASSES = 1000
"""More distinct values than this in a label column are taken for a mistake."""


def label_name(value: object) -> str | None:
    """A raw label as a class name; None where there is no label or it is of no use as one.

    Whole floats read as integers (a column with a missing value is often float); other floats,
    lists and the like have no name.
    """
    value = plain_value(value)
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) else None


def label_id(value: object, labels: tuple[str, ...], source_names: tuple[str, ...] = ()) -> int | None:
    """Index of the class that a raw label value means; None if it means none of ``labels``."""
    name = label_name(value)
    if name is None:
        return None
    index = _as_id(value, name)
    if source_names and index is not None and name not in source_names:
        if not 0 <= index < len(source_names):
            return None
        if source_names[index] in labels:
            return labels.index(source_names[index])
        # Labels that share no name with the source's rename them, in the order of their ids.
        renamed = len(labels) == len(source_names) and not set(labels) & set(source_names)
        return index if renamed else None
    if name in labels:
        return labels.index(name)
    if isinstance(plain_value(value), bool) and name.capitalize() in labels:
        return labels.index(name.capitalize())
    if index is None or any(_is_integer(label) for label in labels):
        return None
    return index if 0 <= index < len(labels) else None


def class_names(values: Iterable[object]) -> tuple[str, ...]:
    """The sorted distinct class names in a label column: by number if all are integers, else by text.

    Values that cannot be class names are left to be reported with their row. A column that holds both numbers
    and names is said in the log: 1 may be meant for the second of the names, and is a class of its own here.
    Raises DataError for more than MAX_CLASSES names, and where fractions show that the column holds a quantity.
    """
    names: set[str] = set()
    numbers: set[str] = set()
    fraction: object = None
    for value in values:
        name = label_name(value)
        if name is not None:
            names.add(name)
            if isinstance(plain_value(value), int | float) and name not in ("true", "false"):
                numbers.add(name)
        elif isinstance(plain_value(value), float) and plain_value(value) == plain_value(value):
            fraction = value
        if len(names) > MAX_CLASSES:
            raise DataError(
                f"the label column has more than {MAX_CLASSES:,} distinct values, as {shown(name)}. "
                "Name the right column with --data.label, or predict a quantity with --task regression."
            )
    if fraction is not None:
        raise DataError(
            f"the label column holds fractions, as {shown(plain_value(fraction))}, which are no class names. "
            "Predict a quantity with --task regression, or name the right column with --data.label."
        )
    texts = [name for name in names - numbers if not _is_integer(name)]
    if numbers and texts:
        logger.warning(
            "the label column holds numbers, as %s, and names, as %r; each is taken for a class of its own. Name "
            "all labels with --data.labels if the numbers are ids of the names",
            min(numbers),
            min(texts),
        )
    return tuple(sorted(names, key=int) if all(_is_integer(name) for name in names) else sorted(names))


def checked_names(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Label names without the white space around them. Raises ConfigError unless there are two, all different."""
    names = tuple(label.strip() for label in labels)
    if len(set(names)) < len(names) or len(names) < 2 or "" in names:
        raise ConfigError(f"data.labels are {list(labels)}, expected at least two names, all different")
    return names


def _as_id(value: object, name: str) -> int | None:
    value = plain_value(value)
    if isinstance(value, bool):
        return int(value)
    return int(name) if _is_integer(name) else None


def _is_integer(name: str) -> bool:
    # str.isdigit alone would take "²"; "007" is a name, not the id 7.
    digits = name.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19 and str(int(name)) == name
