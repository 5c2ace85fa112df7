"""Taking one file or folder out of an archive that somebody else made.

Only regular files are ever written, below the folder that was asked for. An archive with any member that
has an absolute path or ``..``, a link that leaves it, or a device is refused as a whole.
"""

from __future__ import annotations

import difflib
import lzma
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jaxtune.errors import SourceError

MAX_MEMBERS = 200_000
"""More members than this and the archive is refused."""
MAX_RATIO = 200
"""An archive may unpack to this many times its own size (and always to ``MIN_ALLOWANCE``)."""
MIN_ALLOWANCE = 1 << 30

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


@dataclass(frozen=True)
class Member:
    """One regular file of an archive: its path, its unpacked size, and the key that opens it."""

    path: str
    size: int
    key: zipfile.ZipInfo | tarfile.TarInfo


class Archive:
    """An open zip or tar archive whose member names were checked; use ``open_archive``."""

    def __init__(self, label: str, handle: zipfile.ZipFile | tarfile.TarFile, allowance: int) -> None:
        self.label = label
        self._handle = handle
        members = _zip_members if isinstance(handle, zipfile.ZipFile) else _tar_members
        self.files: dict[str, Member] = {}
        total = 0
        for count, member in enumerate(members(label, handle)):  # type: ignore[arg-type]
            total += member.size
            if count >= MAX_MEMBERS or total > allowance:
                raise SourceError(
                    f"{label} unpacks to more than {MAX_MEMBERS} files or {allowance / 2**30:.1f} GiB: refused. "
                    "If you trust it, unpack it yourself and give the folder."
                )
            self.files[member.path] = (
                member  # as tar does: a later member of the same name replaces an earlier
            )

    def find(self, inner: str) -> str:
        """The path in the archive that ``inner`` means: itself, or below the archive's only top folder.

        Raises:
            SourceError: there is no such file or folder, or ``inner`` is not a plain relative path.
        """
        wanted = _checked_name(f"{self.label}::{inner}", inner)
        tops = {path.split("/", 1)[0] for path in self.files}
        for candidate in [wanted, *(f"{top}/{wanted}" for top in tops if len(tops) == 1)]:
            if candidate in self.files or any(path.startswith(candidate + "/") for path in self.files):
                return candidate
        near = difflib.get_close_matches(wanted, self.files, n=3, cutoff=0.5)
        hint = f"Close: {', '.join(near)}." if near else f"It holds {', '.join(sorted(self.files)[:8])} …"
        raise SourceError(f"{self.label} has no member {inner!r}. {hint}")

    def extract(self, path: str, target: Path) -> None:
        """Write the file or folder ``path`` (as ``find`` gave it) to ``target``, which must not exist.

        Raises:
            SourceError: damaged archive, or members that cannot be written beside each other.
        """
        try:
            if path in self.files:
                self._write(self.files[path], target)
                return
            for name, member in self.files.items():
                if name.startswith(path + "/"):
                    self._write(member, target / name[len(path) + 1 :])
        except _DAMAGE as error:
            raise SourceError(f"{self.label} is damaged: {error}") from error
        except OSError as error:
            raise SourceError(f"cannot unpack {path} of {self.label} to {target}: {error}") from error

    def read(self, path: str) -> bytes:
        """Content of the file ``path``, one of ``files``. A tar file is fastest read in the order of ``files``.

        Raises:
            SourceError: damaged archive.
        """
        member = self.files[path]
        try:
            with self._open(member) as source:
                content = source.read(member.size + 1)
        except (*_DAMAGE, OSError) as error:
            raise SourceError(f"{self.label} is damaged: {error}") from error
        if len(content) != member.size:
            raise SourceError(f"{self.label} is damaged: {path} is not as long as the archive says.")
        return content

    def _write(self, member: Member, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with self._open(member) as source, target.open("wb") as out:
            while chunk := source.read(1 << 20):
                written += len(chunk)
                if written > member.size:
                    raise SourceError(f"{self.label} holds more bytes than it says: refused.")
                out.write(chunk)
        if written < member.size:
            raise EOFError(f"{member.path} ends after {written} of {member.size} bytes")

    def _open(self, member: Member) -> IO[bytes]:
        if isinstance(self._handle, zipfile.ZipFile):
            assert isinstance(member.key, zipfile.ZipInfo)
            if member.key.flag_bits & 1:
                raise SourceError(f"{self.label} is encrypted: unpack it yourself and give the folder.")
            return self._handle.open(member.key)
        assert isinstance(member.key, tarfile.TarInfo)
        opened = self._handle.extractfile(member.key)
        if opened is None:
            raise EOFError(f"{member.path} cannot be read")
        return opened


@contextmanager
def open_archive(path: Path, label: str | None = None) -> Iterator[Archive]:
    """Open a zip file (a wheel is one) or a tar file (plain, gz, bz2, xz), by content and not by name.

    Args:
        path: the archive.
        label: how messages call it; its file name if none.

    Raises:
        SourceError: no archive, damaged, too large, or with a member that could be written elsewhere.
    """
    label = label or path.name
    allowance = max(MIN_ALLOWANCE, MAX_RATIO * path.stat().st_size)
    try:
        handle = _opened(path)
    except (OSError, *_DAMAGE) as error:
        raise SourceError(f"{label} is not a readable zip or tar archive: {error}") from error
    with handle:
        try:
            archive = Archive(label, handle, allowance)
        except (OSError, *_DAMAGE) as error:
            raise SourceError(f"{label} is damaged: {error}") from error
        yield archive


def _opened(path: Path) -> zipfile.ZipFile | tarfile.TarFile:
    with path.open("rb") as start:
        is_zip = start.read(2) == b"PK"
    return zipfile.ZipFile(path) if is_zip else tarfile.open(path, "r:*")


def _zip_members(label: str, handle: zipfile.ZipFile) -> Iterator[Member]:
    for info in handle.infolist():
        name = _checked_name(label, info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise SourceError(f"{label} has the member {name!r}, which is a link or a device: refused.")
        if not info.is_dir():
            yield Member(name, info.file_size, info)


def _tar_members(label: str, handle: tarfile.TarFile) -> Iterator[Member]:
    """Regular files first, then the links to them (a link's target may come after the link)."""
    regular: dict[str, tarfile.TarInfo] = {}
    links: dict[str, str] = {}
    for info in handle:
        name = _checked_name(label, info.name)
        if info.issym() or info.islnk():
            # A symbolic link is relative to its own folder, a hard link to the archive.
            base = posixpath.dirname(name) if info.issym() else ""
            links[name] = target = posixpath.normpath(posixpath.join(base, info.linkname))
            if target.startswith(("/", "../")) or target == "..":
                raise SourceError(f"{label} has the link {name!r} to {info.linkname!r}, outside it: refused.")
        elif info.isfile():
            regular[name] = info
            yield Member(name, info.size, info)
        elif not info.isdir():
            raise SourceError(f"{label} has the member {name!r}, which is a device or a pipe: refused.")
    for name, target in links.items():
        if target in regular:  # a copy is written; links to folders and to links are left out
            yield Member(name, regular[target].size, regular[target])


def _checked_name(label: str, name: str) -> str:
    """``name`` in its normal form, or an error if it could point outside."""
    plain = name.replace("\\", "/")
    absolute = plain.startswith("/") or re.match(r"[A-Za-z]:", plain)
    if absolute or ".." in plain.split("/") or "\0" in plain:
        raise SourceError(f"{label} has the member path {name!r}, which points outside the archive: refused.")
    return posixpath.normpath(plain)
