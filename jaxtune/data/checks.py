"""What may be wrong with training rows that are each fine by themselves: doubled, contradicting, too few."""

from __future__ import annotations

import numpy as np

from jaxtune.data.examples import Examples
from jaxtune.data.parts import Part

FEW = 10
"""Fewer training rows of a label than this are worth a warning."""

_LISTED = 20


def notes_on(part: Part, examples: Examples, labels: tuple[str, ...], *, labelled: bool) -> tuple[str, ...]:
    """Lines about the rows of a training split, for its summary.

    Args:
      part: the rows.
      examples: made of them.
      labels: label names, if the task has any.
      labelled: whether the label column is read.
    """
    found = []
    doubled = len(part.indices) - len(np.unique(part.hashes))
    if doubled:
        share = doubled / len(part.indices)
        found.append(f"{doubled:,} ({share:.1%}) repeat the text of another row of train")
    if labelled and doubled:
        found += _conflicts(part)
    counts = counts_of(examples, labels)
    rare = [f"{label} {count}" for label, count in zip(labels, counts) if count < FEW]
    if rare and counts.sum():
        more = f" and {len(rare) - _LISTED} more" if len(rare) > _LISTED else ""
        found.append(f"warning: labels with fewer than {FEW} rows: {', '.join(rare[:_LISTED])}{more}")
    numbers = [label for label in labels if label.removeprefix("-").isdigit()]
    if numbers and len(numbers) < len(labels):
        names = [label for label in labels if label not in numbers]
        found.append(
            f"warning: some labels are numbers ({', '.join(numbers[:_LISTED])}), others names "
            f"({', '.join(names[:_LISTED])}); if the numbers stand for names, list these with --data.labels"
        )
    return tuple(found)


def counts_of(examples: Examples, labels: tuple[str, ...]) -> np.ndarray:
    """Examples of each label, int64 [C]; zeros where targets are no labels (labels per token, say)."""
    targets = examples.targets
    if "labels" in examples.columns or targets.dtype.kind not in "iu" or not labels:
        return np.zeros(len(labels), np.int64)
    if targets.ndim == 2:  # one column per label, several of which may hold
        return targets.astype(np.int64).sum(axis=0)
    return np.bincount(targets.astype(np.int64), minlength=len(labels))


def _conflicts(part: Part) -> list[str]:
    """How many texts occur with several labels, and where the first one does."""
    labels = [repr(label) for label in part.labels]
    first: dict[int, int] = {}
    texts: dict[int, tuple[int, int]] = {}
    for at, text in enumerate(part.hashes.tolist()):
        before = first.setdefault(text, at)
        if labels[at] != labels[before] and text not in texts:
            texts[text] = (before, at)
    if not texts:
        return []
    one, other = next(iter(texts.values()))
    places = [f"{labels[at]} in {part.records.where(int(part.indices[at]))}" for at in (one, other)]
    return [f"{len(texts):,} texts have several labels, one of them {places[0]} and {places[1]}"]
