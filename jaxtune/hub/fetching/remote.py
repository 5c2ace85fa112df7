"""A checkpoint or data file on an object store (``gs://`` and whatever fsspec opens), copied to the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from jaxtune import files
from jaxtune.errors import JaxtuneError, SourceError
from jaxtune.hub.fetching.cache import cache_dir, discard, locked, publish
from jaxtune.hub.fetching.progress import progress
from jaxtune.hub.tensor_files.formats import is_pickle


def fetch_remote(url: str, *, checkpoint: bool = False) -> Path:
    """Local copy of a remote file or folder; a folder that did not change since is not copied again.

    Args:
        url: address of a file, a folder, or a jaxtune run directory (its ``best`` folder is meant).
        checkpoint: leave out subfolders and pickle files.

    Raises:
        SourceError: nothing there, no permission, or the protocol's package is missing.
    """
    try:
        return _fetch(url.rstrip("/"), checkpoint)
    except JaxtuneError:
        raise
    except Exception as error:  # every store has errors of its own
        raise SourceError(f"cannot read {url}: {type(error).__name__}: {error}") from error


def _fetch(url: str, checkpoint: bool) -> Path:
    if not files.is_dir(url):
        if not files.exists(url):
            raise SourceError(f"there is no file or folder {url}")
        return _copied(files.parent(url), [files.name(url)]) / files.name(url)
    names = files.walk(url)
    if "config.yaml" in names and any(name.startswith("checkpoints/") for name in names):
        url, names = files.join(url, "best"), [n[5:] for n in names if n.startswith("best/")]
        if not names:
            raise SourceError(f"{url} is not there: the run has not finished an evaluation yet.")
    if checkpoint:
        names = [name for name in names if "/" not in name and not is_pickle(name)]
    return _copied(url, names)


def _copied(url: str, names: list[str]) -> Path:
    """The files ``names`` below ``url`` in a cache folder that belongs to exactly this content."""
    checksums = {name: files.checksum(files.join(url, name)) for name in names}
    identity = hashlib.sha256(
        "\n".join([url, *(f"{n} {c}" for n, c in checksums.items())]).encode()
    ).hexdigest()
    target = cache_dir() / "remote" / identity[:32] / files.name(url)
    # A store that keeps only sizes cannot tell whether the content changed.
    reusable = all(";" in checksum for checksum in checksums.values())
    with locked(target):
        if target.exists() and reusable:
            return target
        total = sum(files.size(files.join(url, name)) for name in names)
        with publish(target) as temporary, progress(url, total) as update:
            done = 0
            temporary.mkdir()
            for name in names:
                files.copy(files.join(url, name), str(temporary / name))
                done += (temporary / name).stat().st_size
                update(done)
            discard(target)
    return target
