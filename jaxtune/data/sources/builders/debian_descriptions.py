"""Descriptions of Debian's packages: English with French or German, and long with short, as TFDS.

They come from the mirror that apt asks on this machine, so the counts differ a little between releases of Debian.
A paragraph's lines are joined to one; paragraphs belong together by their place in descriptions of as many paragraphs.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jaxtune.data.splits import hash_text
from jaxtune.errors import DataError

HELD_OUT = 500
"""Records in test, and in validation."""

Pair = tuple[str, str]


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """What becomes of what: names of the two columns, and the language of the second."""

    columns: Pair = ("en", "de")
    language: str = ""


_CONFIGS = [
    Config(name="en-de", description="paragraphs in English and German", columns=("en", "de"), language="de"),
    Config(name="en-fr", description="paragraphs in English and French", columns=("en", "fr"), language="fr"),
    Config(name="summaries", description="descriptions and their one line", columns=("document", "summary")),
]


class DebianDescriptions(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Test and validation have 500 records each, train the others.

    They are those with the smallest hashes of their first column: fixed, and next to the same with a later release.
    A text that occurs with several translations is held out with its first and has no others in any split; in train
    it stays with all of them.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = _CONFIGS

    def _info(self) -> tfds.core.DatasetInfo:
        columns = self.builder_config.columns
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{__doc__}\n{type(self).__doc__}",
            features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in columns}),
            supervised_keys=columns,
            homepage="https://www.debian.org/international/l10n/ddtp",
            license="the licences of the packages described; translations by the Debian Description Translation Project",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from jaxtune.hub.fetching.apt import fetch_translations

        del dl_manager  # apt downloads, from the mirror of this machine
        folder = fetch_translations(("en", "fr", "de"))
        language = self.builder_config.language
        english = read_descriptions(folder / "Translation-en.gz", "en")
        if language:
            other = read_descriptions(folder / f"Translation-{language}.gz", language)
            pairs = paragraph_pairs(english, other)
        else:
            pairs = summaries(english)
        splits = held_out(pairs, HELD_OUT)
        return {name: self._generate_examples(part) for name, part in splits.items()}

    def _generate_examples(self, pairs: list[Pair]) -> Iterator[tuple[int, dict[str, str]]]:
        for key, pair in enumerate(pairs):
            yield key, dict(zip(self.builder_config.columns, pair))


def read_descriptions(path: Path, language: str) -> dict[str, str]:
    """Descriptions by the MD5 of the English one: the short line, then the long lines.

    Raises:
      DataError: there is no description in the file.
    """
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        content = file.read()
    found: dict[str, str] = {}
    for stanza in re.split(r"\n\n+", content):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.split("\n"):
            if line[:1] in (" ", "\t"):
                fields[key] = f"{fields.get(key, '')}\n{line[1:]}"
            else:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        text = fields.get(f"Description-{language}")
        if text and fields.get("Description-md5"):
            found.setdefault(fields["Description-md5"], text)
    if not found:
        raise DataError(
            f"{path}: expected stanzas with Description-md5 and Description-{language}, found none"
        )
    return found


def paragraphs(description: str) -> list[str]:
    """The long description: its paragraphs, each on one line."""
    _, _, body = description.partition("\n")
    joined = [" ".join(part.split()) for part in re.split(r"^\s*\.\s*$", body, flags=re.MULTILINE)]
    return [paragraph for paragraph in joined if paragraph]


def paragraph_pairs(english: Mapping[str, str], other: Mapping[str, str]) -> list[Pair]:
    """Paragraphs that stand at one place, each pair once; those left in English are left out."""
    pairs: dict[Pair, None] = {}
    for md5, translated in other.items():
        ours, theirs = paragraphs(english.get(md5, "")), paragraphs(translated)
        if len(ours) == len(theirs):
            pairs.update(dict.fromkeys((a, b) for a, b in zip(ours, theirs) if a != b))
    return list(pairs)


def summaries(english: Mapping[str, str]) -> list[Pair]:
    """Long descriptions (a paragraph a line) with their short ones, each pair once."""
    pairs = {
        ("\n".join(paragraphs(text)), text.partition("\n")[0].strip()): None for text in english.values()
    }
    return [pair for pair in pairs if all(pair)]


def held_out(pairs: list[Pair], count: int) -> dict[str, list[Pair]]:
    """Train, validation and test; the same first text (to white space and case) is never in two of them.

    Raises:
      DataError: there are too few pairs.
    """
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(hash_text(pair[0]), []).append(pair)
    ranked = [groups[key] for key in sorted(groups)]
    if len(ranked) < 4 * count:
        raise DataError(
            f"only {len(ranked):,} descriptions can be paired; expected at least {4 * count:,}, {count} each to "
            "validate and test. Does apt ask a full mirror of Debian or Ubuntu?"
        )
    test, validation = ranked[:count], ranked[count : 2 * count]
    return {
        "train": [pair for group in ranked[2 * count :] for pair in group],
        "validation": [group[0] for group in validation],
        "test": [group[0] for group in test],
    }
