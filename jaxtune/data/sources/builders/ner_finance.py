"""Sentences of loan agreements with their persons, organisations and locations, as TFDS.

The data lie in the package ``evals`` as prompts with the answer that a chat model should give, as ``[Bank -
ORGANIZATION, Borrower - PERSON]``; here each answer is laid over its sentence as BIO tags.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxtune.data.splits import hash_text, three_way
from jaxtune.errors import DataError

logger = logging.getLogger(__name__)

SOURCE = (
    "pypi:evals==3.0.1.post1#sha256=0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78"
    "::evals/registry/data/ner_finance/samples.jsonl"
)
"""The wheel on the Python package index that holds the file (MIT licence)."""

TYPES = ("PERSON", "ORGANIZATION", "LOCATION")
HOLDOUT = (0.1, 0.1)

_NONE = "No entities found"
_TOKEN = re.compile(r"\w+|[^\w\s]")
_ENTITY = re.compile(rf"\s*(\S.*?) - ({'|'.join(TYPES)})(?:,|$)")


class NerFinance(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """1,164 sentences with 1,164 entities; 651 sentences have none. Tags are O and B- or I- of the three types.

    A token is a word or a single mark. Entities are found in the order they are listed in. A sentence goes to
    train, validation or test (80/10/10) by a stable hash of its tokens.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        words = tfds.features.Sequence(tfds.features.Text())
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{__doc__}\n{type(self).__doc__}",
            features=tfds.features.FeaturesDict({"tokens": words, "tags": words}),
            homepage="https://github.com/openai/evals/tree/main/evals/registry/data/ner_finance",
            license="MIT",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from jaxtune.hub.fetching.locate import locate

        del dl_manager  # it would download from a fixed address; the package index may be a mirror
        found = read_sentences(locate(SOURCE))
        if found.lost:
            listed = "\n  ".join(found.lost[:20])
            logger.warning(
                "%d entities do not stand in their sentence and are left out:\n  %s", len(found.lost), listed
            )
        hashes = np.array([hash_text(" ".join(row["tokens"])) for row in found.rows], np.uint64)
        splits = three_way(hashes, HOLDOUT)
        return {
            name: self._generate_examples((int(i), found.rows[i]) for i in indices)
            for name, indices in splits.items()
        }

    def _generate_examples(
        self, rows: Iterable[tuple[int, dict[str, list[str]]]]
    ) -> Iterator[tuple[int, dict[str, list[str]]]]:
        yield from rows


@dataclass
class Found:
    """Tagged sentences, and the entities that were not found in theirs, as ``FILE:LINE: NAME - TYPE``."""

    rows: list[dict[str, list[str]]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def read_sentences(path: Path) -> Found:
    """All sentences of the file.

    Raises:
      DataError: a line is not a prompt of this kind with its answer.
    """
    found = Found()
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
            sentence, answer = row["input"][-1]["content"], row["ideal"]
            tokens, entities = tokenize(sentence), parse_answer(answer)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"{place}: expected a sentence and its entities as [NAME - TYPE, …] or {_NONE!r}: {error}"
            ) from None
        tags, lost = align(tokens, entities)
        found.rows.append({"tokens": tokens, "tags": tags})
        found.lost += [f"{place}: {name} - {kind}" for name, kind in lost]
    if not found.rows:
        raise DataError(f"{path}: the file holds no sentences")
    return found


def parse_answer(answer: str) -> list[tuple[str, str]]:
    """Names and types of an answer. Raises ValueError if it is none; a name may hold commas and dashes."""
    if answer.strip() == _NONE:
        return []
    match = re.fullmatch(r"\s*\[(.*)\]\s*", answer, re.DOTALL)
    if not match:
        raise ValueError(f"the answer {answer[:60]!r} is not in brackets")
    entities, at = [], 0
    while at < len(match[1]):
        entity = _ENTITY.match(match[1], at)
        if not entity:
            raise ValueError(f"{match[1][at : at + 60]!r} is no NAME - TYPE with one of {', '.join(TYPES)}")
        entities.append((entity[1], entity[2]))
        at = entity.end()
    return entities


def tokenize(text: str) -> list[str]:
    """Words and single marks."""
    return _TOKEN.findall(text)


def align(tokens: list[str], entities: list[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """BIO tags of a sentence, and the entities that do not stand in it.

    An entity is looked for after the one before it, else anywhere that is still free.
    """
    tags, lost, after = ["O"] * len(tokens), [], 0
    for name, kind in entities:
        words = tokenize(name)
        starts = [*range(after, len(tokens)), *range(after)]
        free = (s for s in starts if words and _is_free(tokens, tags, words, s))
        start = next(free, None)
        if start is None:
            lost.append((name, kind))
            continue
        after = start + len(words)
        tags[start:after] = [f"B-{kind}", *[f"I-{kind}"] * (len(words) - 1)]
    return tags, lost


def _is_free(tokens: list[str], tags: list[str], words: list[str], start: int) -> bool:
    end = start + len(words)
    return tokens[start:end] == words and all(tag == "O" for tag in tags[start:end])
