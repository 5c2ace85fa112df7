"""Sentences with human sentiment ratings in four domains (the ground truth of the VADER paper), as TFDS.

Configs ``movie``, ``tweets``, ``amazon``, ``nyt``: two classes, the sign of the mean rating; sentences rated
within 0.05 of zero are left out. Configs ``movie_ratings`` and so on: every sentence, with its rating.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxtune.data.splits import hash_text, three_way
from jaxtune.errors import DataError

SOURCE = (
    "pypi:vaderSentiment==3.2.1#sha256=5dce530a78315563f8b3cd01033bbdd3bf4985fabf359ca68d4167728081c803"
    "::additional_resources/hutto_ICWSM_2014.tar.gz::hutto_ICWSM_2014/"
)
"""Source distribution on the Python package index that holds the files (MIT licence); the file name follows."""

FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}

NEUTRAL = 0.05
"""Ratings closer to zero than this have no sign worth learning."""

HOLDOUT = (0.1, 0.1)


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """One domain, as classes or as ratings."""

    domain: str = "movie"
    ratings: bool = False


def _configs() -> list[Config]:
    return [
        Config(
            name=f"{domain}_ratings" if ratings else domain,
            description=f"{domain} sentences with their {'mean rating' if ratings else 'sentiment'}",
            domain=domain,
            ratings=ratings,
        )
        for ratings in (False, True)
        for domain in FILES
    ]


class VaderIcwsm2014(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Ratings are means of about 20 people, from -4 (most negative) to 4.

    A sentence goes to train, validation or test (80/10/10) by a stable hash of its text, so that one that
    occurs twice never straddles two splits.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = _configs()

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {"text": tfds.features.Text(), "score": np.float32}
        if not self.builder_config.ratings:
            features["label"] = tfds.features.ClassLabel(names=["negative", "positive"])
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{__doc__}\n{type(self).__doc__}",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("text", "score" if self.builder_config.ratings else "label"),
            homepage="https://github.com/cjhutto/vaderSentiment",
            license="MIT",
            citation=(
                "Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment "
                "Analysis of Social Media Text. ICWSM-14."
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from jaxtune.hub.fetching.locate import locate

        del dl_manager  # it would download from a fixed address; the package index may be a mirror
        path = locate(SOURCE + FILES[self.builder_config.domain])
        rows = [row for row in read_rows(path.read_bytes(), str(path)) if self._wanted(row[1])]
        splits = three_way(np.array([hash_text(text) for _, _, text in rows], np.uint64), HOLDOUT)
        return {name: self._generate_examples([rows[i] for i in indices]) for name, indices in splits.items()}

    def _wanted(self, score: float) -> bool:
        return self.builder_config.ratings or abs(score) >= NEUTRAL

    def _generate_examples(self, rows: list[tuple[str, float, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, score, text in rows:
            example: dict[str, Any] = {"text": text, "score": score}
            if not self.builder_config.ratings:
                example["label"] = "positive" if score > 0 else "negative"
            yield key, example


def read_rows(content: bytes, name: str) -> list[tuple[str, float, str]]:
    """``(id, rating, text)`` of every line.

    Raises:
      DataError: a line has not three fields, or its rating is no number.
    """
    rows = []
    # Not splitlines(): in Latin-1 it would also break at bytes such as 0x85, which stand inside texts.
    for number, line in enumerate(content.decode("latin-1").split("\n"), 1):
        if not line.strip():
            continue
        try:
            key, score, text = line.split("\t")
            rows.append((key, float(score), text.strip()))
        except ValueError:
            raise DataError(f"{name}:{number}: expected an id, a rating and a text between tabs") from None
    return rows
