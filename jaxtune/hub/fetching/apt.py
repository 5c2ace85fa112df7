"""Translated package descriptions from the mirror that apt asks on this machine (Debian, Ubuntu and their kin).

The system's own lists of packages are neither read nor changed; no package is downloaded or installed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.cache import cache_dir, locked, publish

logger = logging.getLogger(__name__)

HELPER = "/usr/lib/apt/apt-helper"
TIMEOUT_SECONDS = 900.0
_INSTEAD = (
    "Use a parallel corpus of your own instead: two files of one text a line (parallel:corpus.en,corpus.de), or pairs "
    "in one file (jsonl:pairs.jsonl). Or prepare the data on a Debian or Ubuntu machine and copy its cache folder"
)


def fetch_translations(languages: Sequence[str]) -> Path:
    """Folder with ``Translation-XX.gz`` for each language and ``source.json`` that says what they were made from.

    Fetched once; later calls take what is in the cache, also without a network.

    Raises:
        SourceError: there is no apt, it reaches no mirror, or the mirror lacks a language.
    """
    target = cache_dir() / "apt" / f"translations-{'-'.join(languages)}"
    with locked(target):
        if target.is_dir():
            return target
        apt = shutil.which("apt-get")
        if not apt:
            raise SourceError(
                f"Debian's descriptions come through apt, and there is no apt-get here. {_INSTEAD}."
            )
        with tempfile.TemporaryDirectory(prefix="jaxtune-apt-") as temporary, publish(target) as folder:
            lists = Path(temporary) / "lists"
            # apt drops to a user of its own where it runs as root; that user must get in.
            Path(temporary).chmod(0o755)
            (lists / "partial").mkdir(parents=True)
            said = _update(apt, lists, languages)
            folder.mkdir()
            source = {language: _collect(lists, language, folder, said) for language in languages}
            (folder / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
    return target


def _update(apt: str, lists: Path, languages: Sequence[str]) -> str:
    """Let apt fetch the lists; what it said."""
    options = {
        "Acquire::Languages": ",".join(languages),
        "Acquire::GzipIndexes": "false",
        # Only the descriptions are wanted.
        "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
        "Dir::State::lists": lists,
        "Dir::Cache": lists.parent,
    }
    command = [
        apt,
        *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
        "update",
    ]
    logger.info("fetching package descriptions (%s) through apt, about 11 MB", ", ".join(languages))
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"apt-get update could not be run: {error}. {_INSTEAD}.") from error
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-4:])
        raise SourceError(
            f"apt-get update failed:\n{last}\nIt needs a mirror that can be reached. {_INSTEAD}."
        )
    return done.stdout


def _collect(lists: Path, language: str, folder: Path, said: str) -> list[dict[str, str]]:
    """Write all lists of one language as one file; the name and the SHA-256 of each."""
    found = sorted(lists.glob(f"*_i18n_Translation-{language}*"))
    if not found:
        last = "\n".join(said.strip().splitlines()[-4:])
        raise SourceError(
            f"the mirror that apt asks has no descriptions in the language {language!r}; apt-get update said:\n{last}\n"
            f"{_INSTEAD}."
        )
    source = []
    with gzip.GzipFile(folder / f"Translation-{language}.gz", "wb", mtime=0) as out:
        for path in found:
            content = _content(path)
            out.write(content.rstrip(b"\n") + b"\n\n")
            source.append({"name": path.name, "sha256": hashlib.sha256(content).hexdigest()})
    return source


def _content(path: Path) -> bytes:
    """A list's text, unpacked by apt's own helper where apt keeps it packed (as .lz4, .xz or .gz)."""
    if path.suffix not in (".lz4", ".xz", ".gz", ".zst", ".bz2"):
        return path.read_bytes()
    try:
        return subprocess.run([HELPER, "cat-file", str(path)], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SourceError(f"{path.name} cannot be unpacked: {error}. {_INSTEAD}.") from error
