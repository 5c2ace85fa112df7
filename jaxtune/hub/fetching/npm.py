"""``npm:NAME@VERSION[#sha512-BASE64|#sha256=HEX][::path/inside[::path/inside/a/nested/archive]]`` to a local path.

The tarball of a package on an npm registry is downloaded, verified with the registry's own ``dist.integrity``
(SHA-512) and opened as the archive it is. It is never installed, and no script of it ever runs.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import posixpath
import re
import urllib.error
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.cache import cache_dir
from jaxtune.hub.fetching.downloads import download, read_url, reason, redact, with_login
from jaxtune.hub.fetching.packages import cached_archive, locate_inside, remembered_archive

logger = logging.getLogger(__name__)

PREFIX = "npm:"
REGISTRY = "https://registry.npmjs.org"
_ACCEPT = "application/vnd.npm.install-v1+json, application/json;q=0.8"
_NAME = r"(?:@[A-Za-z0-9~-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~-][A-Za-z0-9._~-]*"
_SPEC = re.compile(
    rf"npm:(?P<name>{_NAME})@(?P<version>[0-9][A-Za-z0-9.+-]*)"
    r"(?:#sha256=(?P<sha256>[0-9A-Fa-f]{64})|#sha512-(?P<sha512>[A-Za-z0-9+/]{86}==))?"
)


@dataclass(frozen=True)
class NpmSource:
    """A parsed ``npm:`` source; digests are in hex, and empty when not given."""

    name: str
    version: str
    sha256: str = ""
    sha512: str = ""
    inner: tuple[str, ...] = ()

    def __str__(self) -> str:
        digest = f"#sha256={self.sha256}" if self.sha256 else ""
        if self.sha512:
            digest = "#" + _integrity(self.sha512)
        return "::".join([f"{PREFIX}{self.name}@{self.version}{digest}", *self.inner])


def parse_npm(source: str) -> NpmSource:
    """Parse an ``npm:`` source.

    Raises:
        SourceError: it is not of the form, with the form.
    """
    head, *inner = source.split("::")
    match = _SPEC.fullmatch(head)
    if not match or not all(inner):
        raise SourceError(
            f"{source!r} is not a package source. Expected npm:NAME@VERSION (a scoped name as @scope/name, an exact "
            "version), then optionally #sha512- and the integrity as npm writes it or #sha256= and 64 hex digits, "
            "then optionally ::path/inside/the/package (and another :: for an archive in it)."
        )
    paths = tuple(posixpath.normpath(path) for path in inner)
    sha512 = _sha512_of(f"sha512-{match['sha512']}") if match["sha512"] else ""
    return NpmSource(match["name"], match["version"], (match["sha256"] or "").lower(), sha512, paths)


def locate_npm(source: NpmSource, *, checkpoint: bool = False) -> Path:
    """Local path of what ``source`` names, downloaded and unpacked into the cache where it is not there yet.

    Args:
        source: the parsed source.
        checkpoint: without a path inside, take the only folder that holds config.json and safetensors.

    Returns:
        a file or a folder; the tarball itself where no path inside was given.

    Raises:
        SourceError: unreachable, not on the registry, another digest, unsafe archive, or no such member.
    """
    return locate_inside(_archive(source), source.inner, str(source), checkpoint=checkpoint)


def registry_url() -> str:
    """Address of the registry, without a slash at the end: ``NPM_CONFIG_REGISTRY``, else npmjs.org."""
    names = ("NPM_CONFIG_REGISTRY", "npm_config_registry")
    return next((os.environ[name] for name in names if os.environ.get(name)), REGISTRY).rstrip("/")


def _archive(source: NpmSource) -> Path:
    """The verified tarball in the cache: ``npm/NAME/VERSION/DIGEST/FILENAME``."""
    folder = cache_dir() / "npm" / source.name.replace("/", "+") / source.version
    registry = registry_url()
    pinned = source.sha256 or source.sha512[:64]
    if pinned:
        return cached_archive(folder / pinned) or _download(source, folder, registry)
    return remembered_archive(folder, [registry], lambda: _download(source, folder, registry))


def _download(source: NpmSource, folder: Path, registry: str) -> Path:
    """The tarball, with the digest that was given and the one that the registry names."""
    dist = _dist(source, registry)
    offered = _sha512_of(str(dist.get("integrity") or ""))
    if not offered and not source.sha256 and not source.sha512:
        raise SourceError(
            f"{source}: {redact(registry)} names no sha512 for this version (old packages have only a sha1, which "
            "can be forged). Add #sha256= and the SHA-256 of the tarball that you trust."
        )
    if offered and source.sha512 and offered != source.sha512:
        raise SourceError(
            f"{source}: the digest differs from the one that {redact(registry)} names, {_integrity(offered)}. "
            "Correct the digest, or do not use this source."
        )
    sha512 = source.sha512 or offered
    filename = f"{source.name.rpartition('/')[2]}-{source.version}.tgz"
    target = folder / (source.sha256 or sha512[:64]) / filename
    url = _tarball(source, dist, registry)
    return download(url, target, sha256=source.sha256 or None, sha512=sha512 or None, label=filename)


def _dist(source: NpmSource, registry: str) -> Mapping[str, Any]:
    """The registry's entry of the wanted version."""
    url = f"{registry}/{source.name.replace('/', '%2f')}"
    try:
        body, _, _ = read_url(url, _ACCEPT)
        versions = json.loads(body)["versions"]
        if source.version in versions:
            return dict(versions[source.version]["dist"])
        known = list(versions)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise SourceError(
                f"{source}: {redact(registry)} has no package {source.name!r}. Set NPM_CONFIG_REGISTRY for another "
                "registry."
            ) from error
        raise SourceError(
            f"the npm registry {redact(registry)} cannot be read: {reason(error)}. If it wants a name and a "
            "password, write them into the address (https://NAME:PASSWORD@HOST/…) or into ~/.netrc."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"the npm registry {redact(registry)} cannot be read: {reason(error)}. Set NPM_CONFIG_REGISTRY to a "
            f"registry that this machine reaches; or fetch the package elsewhere with `npm pack "
            f"{source.name}@{source.version}`, unpack it, and give the folder instead of npm:."
        ) from error
    listed = ", ".join(sorted(known)[-12:])
    raise SourceError(f"{source}: {redact(registry)} has no such version; it has {listed or 'none'}.")


def _tarball(source: NpmSource, dist: Mapping[str, Any], registry: str) -> str:
    """Address of the tarball; one on npmjs.org is asked of the registry that is set instead, as npm does."""
    url = str(dist.get("tarball") or "")
    if url.startswith(f"{REGISTRY}/"):
        url = registry + url.removeprefix(REGISTRY)
    # A page from the network must not make us read local files.
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise SourceError(
            f"{source}: {redact(registry)} names no address of the tarball that can be fetched."
        )
    return with_login(url, registry)


def _sha512_of(integrity: str) -> str:
    """The SHA-512 in hex of an integrity text such as ``sha1-… sha512-…``; empty if there is none."""
    for part in integrity.split():
        algorithm, _, digest = part.partition("-")
        if algorithm == "sha512":
            try:
                raw = base64.b64decode(digest.partition("?")[0], validate=True)
            except (binascii.Error, ValueError):
                continue
            if len(raw) == 64:
                return raw.hex()
    return ""


def _integrity(sha512: str) -> str:
    return "sha512-" + base64.b64encode(bytes.fromhex(sha512)).decode()
