"""HTTP as a package index needs it: the user's certificates, credentials that stay with their host, resume.

Standard library only: the proxies of the environment are used, and the certificate files named by
``SSL_CERT_FILE``, ``PIP_CERT``, ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` or ``NODE_EXTRA_CA_CERTS``.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import netrc
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.cache import discard, flush, locked
from jaxtune.hub.fetching.progress import progress

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 4
"""How often a broken transfer is taken up again before the download fails."""
PAUSE_SECONDS = 0.5
"""Wait before the second attempt; it doubles with each further one."""
_CHUNK = 1 << 18


def download(
    url: str, target: Path, *, sha256: str | None, sha512: str | None = None, label: str | None = None
) -> Path:
    """Fetch ``url`` to ``target`` unless it is there; ``target`` only ever exists complete and verified.

    A broken or killed transfer leaves ``target.part``. With a digest to check the whole against, the next
    call takes it up where it stopped; without one it starts anew. Safe against a second process.

    Args:
        url: ``http(s):`` or ``file:`` address; credentials in it are sent to its own host only.
        target: file to make.
        sha256: expected digest in hex; without any, nothing but the announced length is verified.
        sha512: another expected digest in hex; where both are given, both are verified.
        label: name shown beside the progress bar.

    Raises:
        SourceError: unreachable, cut short again and again, or the digest differs.
    """
    with locked(target):
        if target.exists():
            return target
        part = target.with_name(target.name + ".part")
        given = {"sha256": sha256, "sha512": sha512}
        expected = {algorithm: digest.lower() for algorithm, digest in given.items() if digest}
        if not expected:
            discard(part)
        try:
            _fetch_verified(url, part, expected, label or target.name)
            flush(part)
            part.replace(target)
        except OSError as error:
            discard(part)
            raise SourceError(
                f"cannot write {target}: {error}. Free some space or set JAXTUNE_CACHE."
            ) from error
    return target


def read_url(url: str, accept: str = "*/*") -> tuple[bytes, str, str]:
    """Body, content type and final address of ``url``.

    Raises:
        urllib.error.URLError, OSError: as urllib raises them.
    """
    with _open(url, {"Accept": accept}) as response:
        return response.read(), response.headers.get_content_type(), response.url


def redact(url: str) -> str:
    """``url`` without user name and password, for messages."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def reason(error: Exception) -> str:
    """One line that says what went wrong with a request."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection ({error.reason})"
    return f"{type(error).__name__}: {error}"


def with_login(url: str, index: str) -> str:
    """``url`` with the user and password of the address ``index``, if both are on the same host."""
    theirs, ours = urllib.parse.urlsplit(url), urllib.parse.urlsplit(index)
    login, _, _ = ours.netloc.rpartition("@")
    same = (theirs.scheme, theirs.hostname, theirs.port) == (ours.scheme, ours.hostname, ours.port)
    if not login or "@" in theirs.netloc or not same:
        return url
    return urllib.parse.urlunsplit(theirs._replace(netloc=f"{login}@{theirs.netloc}"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex."""
    return _file_digest(path, "sha256")


def _file_digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest()


def _fetch_verified(url: str, part: Path, expected: dict[str, str], label: str) -> None:
    """Leave in ``part`` all bytes of ``url`` with the expected digests, or raise and leave nothing wrong."""
    in_one_piece = _transfer(url, part, label)
    if not expected:
        return
    digests = {algorithm: _file_digest(part, algorithm) for algorithm in expected}
    if digests != expected and not in_one_piece:
        # What an earlier try left may be damaged or of another file: one clean start before giving up.
        discard(part)
        _transfer(url, part, label)
        digests = {algorithm: _file_digest(part, algorithm) for algorithm in expected}
    for algorithm, digest in digests.items():
        if digest != expected[algorithm]:
            discard(part)
            raise SourceError(
                f"{redact(url)} is not the file that was asked for: its {algorithm} is {digest}, expected "
                f"{expected[algorithm]}. Nothing was kept. Correct the digest, or do not use this source."
            )


def _transfer(url: str, part: Path, label: str) -> bool:
    """Bring ``part`` to the full length of ``url``; whether it came without a leftover being taken up."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer_once(url, part, label)
        except urllib.error.HTTPError as error:
            if error.code == 416 and part.exists():
                return False  # the leftover is as long as the file, or longer: its digest will tell
            if error.code < 500 or attempt == ATTEMPTS:
                raise SourceError(f"cannot download {redact(url)}: {reason(error)}.") from error
            broken: Exception = error
        except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, HTTPException) as error:
            if attempt == ATTEMPTS:
                raise SourceError(
                    f"cannot download {redact(url)}: {reason(error)}, after {ATTEMPTS} attempts. "
                    "Check the network, or give a local folder instead."
                ) from error
            broken = error
        logger.warning("download of %s broke off (%s); trying again", label, reason(broken))
        time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _transfer_once(url: str, part: Path, label: str) -> bool:
    start = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    with _open(url, headers) as response:
        if start and (response.status != 206 or not _starts_at(response, start)):
            start = 0  # the server sent the whole file
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        done = start
        with part.open("ab" if start else "wb") as out, progress(label, total, start) as update:
            while chunk := response.read1(_CHUNK):
                out.write(chunk)
                done += len(chunk)
                update(done)
            if total is not None and done < total:
                # At a closed connection read1 returns nothing instead of raising.
                raise ConnectionError(f"only {done} of {total} bytes came")
    return start == 0


def _starts_at(response: Any, start: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")


def _open(url: str, headers: dict[str, str]) -> Any:
    """Open ``url`` with the user's certificates; credentials never follow a redirect to another host."""
    parts = urllib.parse.urlsplit(url)
    plain = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    request = urllib.request.Request(plain, headers={"User-Agent": "jaxtune", **headers})
    authorization = _authorization(parts)
    if authorization:
        # "Unredirected" headers are dropped by urllib on a redirect; _Redirects puts them back for the same host.
        request.add_unredirected_header("Authorization", authorization)
    opener = urllib.request.build_opener(_Redirects(), urllib.request.HTTPSHandler(context=_tls()))
    return opener.open(request, timeout=TIMEOUT_SECONDS)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects that keep credentials on their host and never fall from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if old.scheme == "https" and new.scheme != "https":
            raise urllib.error.URLError(f"refusing to follow a redirect from https to {redact(newurl)}")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.unredirected_hdrs.get("Authorization")
        if following is not None and authorization and old[:2] == new[:2]:
            following.add_unredirected_header("Authorization", authorization)
        return following


def _authorization(parts: urllib.parse.SplitResult) -> str | None:
    """Basic credentials out of the address, or out of the user's netrc file."""
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    else:
        found = None
        if parts.hostname and parts.scheme in ("http", "https"):
            try:
                found = netrc.netrc(os.environ.get("NETRC")).authenticators(parts.hostname)
            except (OSError, netrc.NetrcParseError):
                logger.debug("no usable netrc file")
        if not found:
            return None
        pair = f"{found[0]}:{found[2] or ''}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
        bundle = Path(os.environ.get(name) or "/nonexistent")
        if bundle.is_file():
            context.load_verify_locations(cafile=bundle)
    return context
