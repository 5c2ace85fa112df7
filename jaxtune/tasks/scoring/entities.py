"""Entities written as BIO tags: reading them, checking the scheme, precision, recall and F1.

Tags are "O", "B-TYPE" and "I-TYPE"; a type may contain hyphens. Two schemes are told apart (Tjong Kim
Sang & Veenstra, EACL 1999): in IOB2 every entity starts with B; in IOB1, that of CoNLL-2003's own
files, an entity starts with I, and with B only where it follows another of its type at once.

Two readings turn tags into entities, and agree on sequences that keep to IOB2:

- "conlleval", that of conlleval.pl (CoNLL-2000 to 2003) and of seqeval's default mode: B starts an
  entity, and so does an I after O or after another type. It reads IOB1 as well, and is the one
  published scores use, so it is the default.
- "strict", that of seqeval's ``mode="strict", scheme=IOB2``: only B starts an entity, an I that
  continues none is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.values import KINDS, Metrics, check_lengths, harmonic_mean, ratio

Reading = Literal["conlleval", "strict"]
Scheme = Literal["iob2", "iob1"]

ENTITY_METRICS = (
    *KINDS,
    *(f"{kind}_{average}" for average in ("macro", "weighted") for kind in KINDS),
    "accuracy",
)

SHOWN_BREAKS = 5


class Entity(NamedTuple):
    """One entity: its type, its first token, and the first token after it."""

    type: str
    start: int
    end: int


class SchemeBreak(NamedTuple):
    """A tag that does not follow the scheme."""

    position: int
    tag: str
    problem: str


def split_tag(tag: str) -> tuple[str, str]:
    """ "B-PER" → ("B", "PER"), "O" → ("O", ""). A tag without a type has type "_", as in seqeval.

    Raises DataError for what is neither O, B nor I.
    """
    prefix, _, kind = tag.partition("-")
    if tag == "O":
        return "O", ""
    if prefix not in ("B", "I"):
        raise DataError(f"the tag {tag!r} is none of a BIO sequence; expected O, B-TYPE or I-TYPE")
    return prefix, kind or "_"


def read_entities(tags: Sequence[str], reading: Reading = "conlleval") -> list[Entity]:
    """The entities of one sentence's tags [S], in order. Raises DataError for a tag that is not BIO."""
    entities: list[Entity] = []
    open_type, start = "", 0
    for index, tag in enumerate([*tags, "O"]):
        prefix, kind = split_tag(tag)
        if prefix == "I" and kind == open_type:
            continue
        if open_type:
            entities.append(Entity(open_type, start, index))
        starts = prefix == "B" or (prefix == "I" and reading == "conlleval")
        open_type, start = (kind if starts else ""), index
    return entities


def scheme_breaks(tags: Sequence[str], scheme: Scheme = "iob2") -> list[SchemeBreak]:
    """Where tags [S] break the scheme; nothing is raised.

    Tags that are no BIO tags break both. In IOB2 so does an I that continues no entity of its type,
    in IOB1 a B that does not follow an entity of its type.
    """
    breaks = []
    before, before_type = "O", ""
    for index, tag in enumerate(tags):
        try:
            prefix, kind = split_tag(tag)
        except DataError:
            breaks.append(SchemeBreak(index, tag, "is none of O, B-TYPE, I-TYPE"))
            before, before_type = "O", ""
            continue
        follows = before != "O" and before_type == kind
        if scheme == "iob2" and prefix == "I" and not follows:
            breaks.append(SchemeBreak(index, tag, f"continues no entity of type {kind}"))
        elif scheme == "iob1" and prefix == "B" and not follows:
            breaks.append(SchemeBreak(index, tag, f"follows no entity of type {kind}"))
        before, before_type = prefix, kind
    return breaks


def check_scheme(
    sequences: Sequence[Sequence[str]],
    scheme: Scheme = "iob2",
    where: Callable[[int], str] = "sentence {}".format,
) -> None:
    """Raises DataError that counts and lists the tags of sequences [n][S] that break the scheme.

    Args:
        where: index of a sequence → its place for the message.
    """
    places = [
        f"{where(number)}, token {found.position}: {found.tag!r} {found.problem}"
        for number, tags in enumerate(sequences)
        for found in scheme_breaks(tags, scheme)
    ]
    if places:
        more = f"\n… and {len(places) - SHOWN_BREAKS} more" if len(places) > SHOWN_BREAKS else ""
        listed = "\n".join(places[:SHOWN_BREAKS])
        raise DataError(f"{len(places)} tags break the scheme {scheme}:\n{listed}{more}")


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Tags [S] in IOB1, or in IOB2 with I where B should be, as IOB2: every entity starts with B."""
    result = ["O"] * len(tags)
    for kind, start, end in read_entities(tags):
        suffix = "" if kind == "_" else f"-{kind}"
        result[start:end] = [f"B{suffix}", *[f"I{suffix}"] * (end - start - 1)]
    return result


def entity_counts(
    targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], reading: Reading = "conlleval"
) -> list[dict[str, tuple[int, int, int]]]:
    """Per sentence: type → (found, predicted, true) entities; found has the type and both ends right.

    F1 of any set of sentences follows from the sums of these, so they are what a significance test
    resamples. Raises DataError for different lengths and for tags that are not BIO.
    """
    check_lengths(len(predictions), len(targets))
    result = []
    for number, (true_tags, said_tags) in enumerate(zip(targets, predictions)):
        if len(true_tags) != len(said_tags):
            raise DataError(f"sentence {number}: {len(said_tags)} predicted tags for {len(true_tags)} tokens")
        true, said = (set(read_entities(tags, reading)) for tags in (true_tags, said_tags))
        kinds = {entity.type for entity in true | said}
        result.append({kind: _counts_of(kind, true, said) for kind in sorted(kinds)})
    return result


def _counts_of(kind: str, true: set[Entity], said: set[Entity]) -> tuple[int, int, int]:
    found, predicted, there = (
        sum(entity.type == kind for entity in entities) for entities in (true & said, said, true)
    )
    return found, predicted, there


def entity_metrics(
    targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], reading: Reading = "conlleval"
) -> Metrics:
    """Metrics of the entities in tags [n][S].

    Returns:
        precision = found / predicted, recall = found / true and f1 over all entities (micro: the
        overall figures of conlleval and seqeval); ``…_macro``, the mean over the types that occur on
        either side; ``…_weighted``, weighted by the true entities; ``types``, sorted, and for each
        ``precision_per_type``, ``recall_per_type``, ``f1_per_type``, ``support_per_type`` (true) and
        ``predicted_per_type``; ``support``, ``predicted`` and ``found``; accuracy of the tags as they stand.

    A ratio with nothing to divide by is 0: precision where nothing is predicted, recall where nothing
    is true, F1 where both are 0, also if there is no entity on either side. Raises DataError without a
    sentence, for different lengths, and for tags that are not BIO.
    """
    sums: dict[str, np.ndarray] = {}
    for counts in entity_counts(targets, predictions, reading):
        for kind, values in counts.items():
            sums[kind] = sums.get(kind, np.zeros(3, np.int64)) + values
    types = sorted(sums)
    table = np.array([sums[kind] for kind in types], np.int64).reshape(-1, 3)
    found, predicted, true = (int(count) for count in table.sum(axis=0))
    scores = np.array([_scores(*row) for row in table.tolist()]).reshape(-1, 3)
    pairs = [(t, p) for sentence in zip(targets, predictions) for t, p in zip(*sentence)]
    result: Metrics = dict(zip(KINDS, _scores(found, predicted, true)))
    for column, kind in enumerate(KINDS):
        result[f"{kind}_macro"] = float(scores[:, column].mean()) if types else 0.0
        result[f"{kind}_weighted"] = ratio(float(scores[:, column] @ table[:, 2]), true)
    result |= {"accuracy": ratio(sum(t == p for t, p in pairs), len(pairs)), "types": types}
    result |= {f"{kind}_per_type": scores[:, column].tolist() for column, kind in enumerate(KINDS)}
    result |= {"support_per_type": table[:, 2].tolist(), "predicted_per_type": table[:, 1].tolist()}
    return result | {"support": true, "predicted": predicted, "found": found}


def _scores(found: int, predicted: int, true: int) -> tuple[float, float, float]:
    precision, recall = ratio(found, predicted), ratio(found, true)
    return precision, recall, harmonic_mean(precision, recall)
