"""The one small file layer: the same few calls on a local disk and on any fsspec store.

Paths are plain strings. A path with a protocol (``gs://bucket/run``, ``memory://run``) is remote
and goes through fsspec, which is imported only then; anything else is local and needs the standard
library alone. Nothing here needs append or atomic rename of a remote store: a remote file appears
whole when its write ends, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxtune.errors import SourceError

_PROTOCOL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_CHUNK = 1 << 20
# What object stores call their own checksum, the ones of the content first.
_STORE_CHECKSUMS = ("crc32c", "md5Hash", "content_md5", "ETag", "etag")


def is_remote(path: str) -> bool:
    """True for a path with a protocol, as ``gs://…`` or ``memory://…``."""
    return bool(_PROTOCOL.match(path)) and not path.startswith(("file://", "local://"))


def join(path: str, *parts: str) -> str:
    """Joins path parts with one separator each; leading separators of `parts` do not restart the path."""
    if not is_remote(path):
        return str(Path(path, *(part.lstrip("/") for part in parts)))
    root, _, rest = path.partition("://")
    return "/".join([f"{root}://{rest.rstrip('/')}", *(part.strip("/") for part in parts)])


def parent(path: str) -> str:
    """The folder that holds `path`."""
    if not is_remote(path):
        return str(_local(path).parent)
    root, _, rest = path.partition("://")
    return f"{root}://{rest.rstrip('/').rpartition('/')[0]}"


def name(path: str) -> str:
    """The last part of `path`."""
    return path.rstrip("/").rpartition("/")[2] if is_remote(path) else _local(path).name


def absolute(path: str) -> str:
    """A local path made absolute; a remote one as it is."""
    return path if is_remote(path) else str(_local(path).absolute())


def exists(path: str) -> bool:
    """True for a file or a folder that is there."""
    if not is_remote(path):
        return _local(path).exists()
    store, key = _store(path)
    return bool(store.exists(key))


def is_dir(path: str) -> bool:
    """True for a folder (on an object store: a prefix that holds something)."""
    if not is_remote(path):
        return _local(path).is_dir()
    store, key = _store(path)
    return bool(store.isdir(key))


def list_dir(path: str) -> list[str]:
    """Sorted names directly inside the folder; none for a folder that is not there."""
    if not is_remote(path):
        folder = _local(path)
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    store, key = _store(path)
    try:
        found = store.ls(key, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # Stores that keep an empty object for a folder list the folder among its own entries.
    children = [str(entry).rstrip("/") for entry in found if str(entry).strip("/") != key.strip("/")]
    return sorted({child.rpartition("/")[2] for child in children})


def walk(path: str) -> list[str]:
    """Sorted names of all files below the folder, relative to it, with ``/`` between parts."""
    if not is_remote(path):
        folder = _local(path)
        return sorted(
            Path(root, file).relative_to(folder).as_posix()
            for root, _, found in os.walk(folder)
            for file in found
        )
    store, key = _store(path)
    prefix = key.strip("/") + "/"
    keys = [str(found).strip("/") for found in store.find(key)]
    return sorted(found.removeprefix(prefix) for found in keys if found.startswith(prefix))


def size(path: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    if not is_remote(path):
        return _local(path).stat().st_size
    store, key = _store(path)
    return int(store.info(key)["size"])


def read_bytes(path: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    if not is_remote(path):
        return _local(path).read_bytes()
    store, key = _store(path)
    return bytes(store.cat_file(key))


def read_text(path: str) -> str:
    """The whole file as UTF-8 text. Raises FileNotFoundError, UnicodeDecodeError."""
    return read_bytes(path).decode("utf-8")


def write_bytes(path: str, data: bytes) -> None:
    """Writes the whole file, or leaves the old one: nobody ever sees a part of it.

    Creates parent folders. Locally the bytes are on the disk when this returns. Raises OSError.
    """
    if is_remote(path):
        store, key = _store(path)
        store.makedirs(store._parent(key), exist_ok=True)
        store.pipe_file(key, data)
        return
    with _replacing(_local(path)) as part, part.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def write_text(path: str, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def append_lines(path: str, lines: Iterable[str]) -> None:
    """Adds lines at the end of a file and hands them to the system before it returns.

    A process killed during the write may leave a torn last line. A remote file is read and
    rewritten whole, so a caller with many lines keeps its text and uses `write_text` instead.
    """
    text = "".join(line + "\n" for line in lines)
    if is_remote(path):
        write_text(path, (read_text(path) if exists(path) else "") + text)
        return
    target = _local(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab") as out:
        out.write(text.encode("utf-8"))


def sync(path: str) -> None:
    """Makes what was appended to a local file survive a power cut; a remote file is stored already."""
    if not is_remote(path):
        with _local(path).open("rb+") as handle:
            os.fsync(handle.fileno())


def copy(source: str, target: str) -> None:
    """Copies one file between any two places, in pieces, creating parent folders of the target."""
    with _reading(source) as given:
        if is_remote(target):
            store, key = _store(target)
            store.makedirs(store._parent(key), exist_ok=True)
            with store.open(key, "wb") as out:
                shutil.copyfileobj(given, out, _CHUNK)
            return
        with _replacing(_local(target)) as part, part.open("wb") as out:
            shutil.copyfileobj(given, out, _CHUNK)
            out.flush()
            os.fsync(out.fileno())


def remove(path: str) -> None:
    """Removes a file or a whole folder; one that is not there is fine. Raises OSError."""
    if is_remote(path):
        store, key = _store(path)
        with contextlib.suppress(FileNotFoundError):
            store.rm(key, recursive=True)
        return
    target = _local(path)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def move(source: str, target: str) -> None:
    """Renames a file or folder; on a store without rename this copies and removes."""
    if not is_remote(source) and not is_remote(target):
        _local(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(_local(source), _local(target))
        return
    store, key = _store(source)
    _, target_key = _store(target)
    store.mv(key, target_key, recursive=is_dir(source))


def make_dirs(path: str) -> None:
    """Creates the folder and its parents where the store knows folders at all."""
    if not is_remote(path):
        _local(path).mkdir(parents=True, exist_ok=True)
        return
    store, key = _store(path)
    store.makedirs(key, exist_ok=True)


def checksum(path: str) -> str:
    """Fingerprint of a file's content: ``sha256:HEX`` on a file system.

    On an object store ``size:N;KIND:VALUE`` from what the store itself says (``size:N`` alone where
    it keeps no checksum), so that nothing is downloaded. Raises FileNotFoundError.
    """
    if not is_remote(path):
        with _local(path).open("rb") as given:
            return "sha256:" + hashlib.file_digest(given, "sha256").hexdigest()
    store, key = _store(path)
    info = store.info(key)
    kinds = [kind for kind in _STORE_CHECKSUMS if info.get(kind)]
    return f"size:{int(info['size'])}" + (f";{kinds[0]}:{info[kinds[0]]}" if kinds else "")


def free_space(path: str) -> int | None:
    """Free bytes where `path` lies or will lie; None on a remote store."""
    if is_remote(path):
        return None
    folder = _local(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _local(path: str) -> Path:
    return Path(path.removeprefix("file://").removeprefix("local://"))


def _store(path: str) -> tuple[Any, str]:
    """The fsspec file system of a remote path and the key inside it."""
    import fsspec

    protocol = path.partition("://")[0]
    try:
        store, key = fsspec.core.url_to_fs(path)
    except ImportError as error:
        remedy = "pip install 'jaxtune[gcs]'" if protocol in ("gs", "gcs") else f"fsspec says: {error}"
        raise SourceError(
            f"{path}: {protocol}:// paths need a package that is not installed; {remedy}"
        ) from error
    except ValueError as error:
        raise SourceError(f"{path}: fsspec does not know the protocol {protocol}:// ({error})") from error
    # Orbax and other processes write beside us, so a cached listing would be wrong.
    store.invalidate_cache()
    return store, key


@contextlib.contextmanager
def _reading(path: str) -> Iterator[Any]:
    if is_remote(path):
        store, key = _store(path)
        with store.open(key, "rb") as given:
            yield given
    else:
        with _local(path).open("rb") as given:
            yield given


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target` that takes its place when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        yield part
        part.replace(target)
        _sync_folder(target.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            # A write on a full disk names no file, a rename the temporary one.
            error.filename, error.filename2 = str(target), None
        raise


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
