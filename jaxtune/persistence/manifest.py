"""A list of every file of a folder with its size and checksum, so that damage is found before use.

Orbax restores a flipped byte of an array without a word; this is what notices. The manifest is the
last file written to a checkpoint, and it notices damage to itself: its bytes must be exactly what
its own content, digest included, renders to.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from jaxtune import files

MANIFEST = "manifest.json"
_FORMAT = "jaxtune-manifest-1"


def write_manifest(folder: str, *, ignore: tuple[str, ...] = ()) -> None:
    """Writes ``manifest.json`` over all files now in the folder, itself and `ignore` (names) excepted.

    A file is listed with its size and its SHA-256, or on an object store with the store's own
    checksum. Raises OSError.
    """
    listed = {
        name: {"size": files.size(path), "checksum": files.checksum(path)}
        for name in files.walk(folder)
        if name != MANIFEST and name not in ignore
        for path in [files.join(folder, name)]
    }
    files.write_bytes(files.join(folder, MANIFEST), _render(listed))


def has_manifest(folder: str) -> bool:
    """True where a manifest lies, sound or not."""
    return files.exists(files.join(folder, MANIFEST))


def verify_manifest(folder: str) -> list[str]:
    """Compares the folder with its manifest; returns one line per problem, none when all is sound.

    Each line names the file and what is wrong. Files that the manifest does not list are fine. A
    folder that was copied between a disk and an object store has checksums of another kind there:
    then only sizes are compared.
    """
    try:
        given = files.read_bytes(files.join(folder, MANIFEST))
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except OSError as error:
        return [f"{MANIFEST} cannot be read: {error}"]
    listed = _parse(given)
    if listed is None:
        return [f"{MANIFEST} is damaged: its bytes do not match its own digest"]
    problems = (_problem(folder, name, entry) for name, entry in listed.items())
    return [problem for problem in problems if problem]


def _render(listed: dict[str, Any]) -> bytes:
    """The one way these entries are written down, so that any changed byte shows."""
    content = {"format": _FORMAT, "files": listed}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    content["digest"] = "sha256:" + hashlib.sha256(canonical).hexdigest()
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()


def _parse(given: bytes) -> dict[str, dict[str, Any]] | None:
    """The entries of a manifest, or None where the bytes are not exactly what was written."""
    try:
        listed = json.loads(given)["files"]
        sound = _render(listed) == given
    except (ValueError, KeyError, TypeError):
        return None
    return listed if sound else None


def _problem(folder: str, name: str, entry: dict[str, Any]) -> str | None:
    path = files.join(folder, name)
    try:
        size = files.size(path)
        if size != entry["size"]:
            return f"{name} has {size} bytes where {entry['size']} were written"
        found = files.checksum(path)
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error}"
    written = entry["checksum"]
    if _kind(found) == _kind(written) and found != written:
        return f"{name} is damaged: its checksum is {found}, {written} was written"
    return None


def _kind(checksum: str) -> str:
    """``sha256`` of ``sha256:HEX``, ``md5Hash`` of ``size:N;md5Hash:VALUE``."""
    return checksum.rpartition(";")[2].partition(":")[0]
