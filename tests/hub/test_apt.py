"""Package descriptions through apt, with a stand-in for apt-get."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.apt import fetch_translations

SCRIPT = """#!/bin/sh
echo "$@" >> "$CALLS"
for word in "$@"; do case "$word" in Dir::State::lists=*) lists="${{word#*=}}";; esac; done
{body}
"""
GOOD = r"""
printf 'Package: a\n' > "$lists/m_main_i18n_Translation-en"
printf 'Package: b\n\n' > "$lists/n_main_i18n_Translation-en"
printf 'Package: a\n' > "$lists/m_main_i18n_Translation-de"
"""


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """Make an apt-get with this body; gives what it was called with."""
    calls = tmp_path / "calls"
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def make(body):
        script = tmp_path / "bin" / "apt-get"
        script.parent.mkdir(exist_ok=True)
        script.write_text(SCRIPT.format(body=body))
        script.chmod(0o755)
        return calls

    return make


def test_lists_are_fetched_once_and_joined(apt):
    calls = apt(GOOD)
    folder = fetch_translations(("en", "de"))
    assert gzip.decompress((folder / "Translation-en.gz").read_bytes()) == b"Package: a\n\nPackage: b\n\n"
    source = json.loads((folder / "source.json").read_text())
    assert [entry["name"] for entry in source["en"]] == [
        "m_main_i18n_Translation-en",
        "n_main_i18n_Translation-en",
    ]
    apt("exit 7")
    assert fetch_translations(("en", "de")) == folder
    assert len(calls.read_text().splitlines()) == 1
    assert "Acquire::Languages=en,de" in calls.read_text()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo E: no mirror; exit 100", r"apt-get update failed:\nE: no mirror"),
        ("echo W: ignored", r"no descriptions in the language 'en'; apt-get update said:\nW: ignored"),
        (GOOD + 'rm "$lists"/*-de', r"no descriptions in the language 'de'"),
        (GOOD + 'echo x > "$lists/x_i18n_Translation-en.lz4"', r"Translation-en\.lz4 cannot be unpacked"),
    ],
)
def test_what_fails_names_the_alternative_and_leaves_nothing(apt, cache, monkeypatch, body, message):
    monkeypatch.setattr("jaxtune.hub.fetching.apt.HELPER", "/nonexistent/apt-helper")
    apt(body)
    with pytest.raises(SourceError, match=message) as error:
        fetch_translations(("en", "de"))
    assert "parallel:corpus.en,corpus.de" in str(error.value)
    assert [p.name for p in (cache / "apt").iterdir() if not p.name.endswith(".lock")] == []


def test_a_machine_without_apt(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match=r"there is no apt-get here\. Use a parallel corpus"):
        fetch_translations(("en", "de"))
