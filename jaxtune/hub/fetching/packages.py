"""What package indexes of every language share: the archive in the cache, and the file or folder in the archive.

The cache holds ``INDEX/NAME/VERSION/DIGEST/FILENAME``; what was unpacked from an archive lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.archives import Archive, open_archive
from jaxtune.hub.fetching.cache import locked, publish
from jaxtune.hub.fetching.downloads import redact


def locate_inside(archive: Path, inner: Sequence[str], source: str, *, checkpoint: bool = False) -> Path:
    """Local path of what the paths ``inner`` name in an archive, unpacked beside it where it is not there yet.

    Args:
        archive: a verified archive in the cache.
        inner: path in it, then a path in that archive, and so on; the archive itself where there is none.
        source: what the user wrote, for messages.
        checkpoint: without a path inside, take the only folder that holds config.json and safetensors.

    Raises:
        SourceError: unsafe or damaged archive, or no such member.
    """
    path, label = archive, archive.name
    if checkpoint and not inner:
        with open_archive(archive) as opened:
            return _unpacked(opened, _checkpoint_folder(opened, source), archive.parent)
    for step, wanted in enumerate(inner, start=1):
        with open_archive(path, label) as opened:
            member = opened.find(wanted)
            path = _unpacked(opened, member, archive.parent)
        label = f"{label}::{member}"
        if path.is_dir() and step < len(inner):
            raise SourceError(f"{label} is a folder, so nothing can follow it after `::`.")
    return path


def cached_archive(folder: Path) -> Path | None:
    """The archive in the cache folder of one digest, if it is there."""
    names = [
        p for p in folder.glob("*") if p.is_file() and not p.name.startswith(".") and p.suffix != ".part"
    ]
    return names[0] if names else None


def remembered_archive(folder: Path, indexes: Sequence[str], fetch: Callable[[], Path]) -> Path:
    """The archive that a version without a digest means: as these indexes answered before, else as ``fetch`` finds.

    Args:
        folder: cache folder of the version; ``fetch`` puts the archive into a folder below, named by its digest.
        indexes: addresses that are asked. The answer is remembered per list of them, so that the cache serves
            without a network.
        fetch: asks and downloads.
    """
    key = hashlib.sha256("\n".join(redact(url) for url in indexes).encode()).hexdigest()[:16]
    memory = folder / f"chosen-{key}.json"
    with locked(memory):
        cached = _remembered(memory, folder)
        if cached:
            return cached
        archive = fetch()
        with publish(memory) as temporary:
            chosen = {"folder": archive.parent.name, "filename": archive.name}
            temporary.write_text(json.dumps(chosen), encoding="utf-8")
    return archive


def _remembered(memory: Path, folder: Path) -> Path | None:
    try:
        chosen = json.loads(memory.read_text(encoding="utf-8"))
        path = folder / (chosen.get("folder") or chosen["sha256"]) / chosen["filename"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return path if path.is_file() else None


def _unpacked(opened: Archive, member: str, folder: Path) -> Path:
    """``member`` of an archive as a file or folder under ``folder``, written once."""
    key = hashlib.sha256(f"{opened.label}::{member}".encode()).hexdigest()[:16]
    target = folder / "unpacked" / key / posixpath.basename(member)
    with locked(target):
        if not target.exists():
            with publish(target) as temporary:
                opened.extract(member, temporary)
    return target


def _checkpoint_folder(opened: Archive, source: str) -> str:
    holding = [
        {posixpath.dirname(p) for p in opened.files if p.endswith(end)}
        for end in (".safetensors", "/config.json")
    ]
    folders = sorted(holding[0] & holding[1])
    if len(folders) != 1:
        found = f"{len(folders)} such folders ({', '.join(folders[:5])})" if folders else "none"
        raise SourceError(
            f"{source}: add `::path/inside` for the checkpoint's folder. Only an archive with exactly one folder "
            f"that holds config.json and safetensors can go without; {opened.label} has {found}."
        )
    return folders[0]
