"""Back-translation for ``data.augment``: texts through two translation runs, there and back, each text once."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from jaxtune import files
from jaxtune.config import DataConfig
from jaxtune.data.augmentation import Augmentation, Rewrite
from jaxtune.data.records import fingerprint_of
from jaxtune.errors import ConfigError
from jaxtune.hub.fetching.cache import cache_dir, locked, publish
from jaxtune.training.finish import BEST
from jaxtune.training.run import Run, open_run

logger = logging.getLogger(__name__)

_CHUNK = 256
"""Texts that are translated and cached together: what a killed run loses."""

_VERSION = "translations-1"


def make_rewrite(config: DataConfig) -> Rewrite | None:
    """What translates training texts there and back, if ``data.augment`` asks for that.

    The runs are opened when the first text comes that is not in the cache.

    Raises:
        ConfigError: ``data.augment`` cannot be read.
    """
    runs = Augmentation.parse(config.augment).back_translation
    if runs is None:
        return None
    there, back = runs

    def rewrite(texts: Sequence[str]) -> list[str]:
        return translated(open_run(back), translated(open_run(there), texts))

    return rewrite


def translated(run: Run, texts: Sequence[str]) -> list[str]:
    """What a run writes for each text, kept in the cache folder.

    Raises:
        ConfigError: the run writes no texts, or has not finished.
        RunError: it cannot be opened.
    """
    best = files.join(run.path, BEST)
    if not files.exists(files.join(best, "config.json")):
        raise ConfigError(f"data.augment: {run.path} has no finished {BEST} model to translate with yet")
    weights = [files.checksum(files.join(best, name)) for name in sorted(files.walk(best))]
    model = fingerprint_of([_VERSION, repr(run.config.data), repr(run.config.generation), *weights])
    written: list[str] = []
    for start in range(0, len(texts), _CHUNK):
        written += _chunk(run, model, [_plain(text) for text in texts[start : start + _CHUNK]])
    return written


def _chunk(run: Run, model: str, texts: list[str]) -> list[str]:
    # An empty text has nothing to translate, and a task refuses it.
    asked = [text for text in texts if text]
    target = cache_dir() / "translations" / f"{fingerprint_of([model, *asked])}.json"
    if target.exists():
        answers = json.loads(target.read_text(encoding="utf-8"))
    else:
        logger.info("back-translation: %d texts through %s", len(asked), run.path)
        found = run.predict(asked)
        if any(not isinstance(answer.get("written"), str) for answer in found):
            raise ConfigError(
                f"data.augment: {run.path} is a run of {run.config.task}, which writes no texts; "
                "back_translation takes two runs of translation"
            )
        answers = [answer["written"] for answer in found]
        with locked(target), publish(target) as part:
            part.write_text(json.dumps(answers), encoding="utf-8")
    left = iter(answers)
    return [next(left) if text else "" for text in texts]


def _plain(text: str) -> str:
    """A text that every tokenizer takes: a lone surrogate is no Unicode text."""
    return text.encode("utf-8", "replace").decode().strip()
