from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.errors import SourceError
from jaxtune.hub.fetching import archives
from jaxtune.hub.fetching.archives import open_archive


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as out:
        for name, data in members.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(data, bytes):
                info.size = len(data)
            out.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def link(target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def extract(path, inner, target):
    with open_archive(path) as archive:
        archive.extract(archive.find(inner), target)
    return target


names = st.text("abcXYZ0._- é", min_size=1, max_size=6).filter(lambda n: n.strip(". ") and n == n.strip())
trees = st.dictionaries(
    st.tuples(names, names).map("/".join), st.binary(max_size=300), min_size=1, max_size=6
)


@pytest.mark.parametrize("kind", ["zip", "w:gz"])
def test_a_member_is_read_without_being_written(tmp_path, kind):
    path = tmp_path / "archive"
    members = {"top/a": b"one", "top/b": b""}
    make_zip(path, members) if kind == "zip" else make_tar(path, members, kind)
    with open_archive(path) as archive:
        assert {name: archive.read(name) for name in archive.files} == members
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_member_is_not_read(tmp_path):
    path = tmp_path / "archive"
    make_zip(path, {"a": b"one " * 1000})
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF
    path.write_bytes(content)
    with open_archive(path) as archive, pytest.raises(SourceError, match="is damaged"):
        archive.read("a")


@settings(max_examples=25, deadline=None)
@given(trees, st.sampled_from(["zip", "w", "w:gz", "w:bz2", "w:xz"]))
def test_what_goes_in_comes_out(members, kind):
    members = {f"top/{name.casefold()}": data for name, data in members.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "archive")
        make_zip(path, members) if kind == "zip" else make_tar(path, members, kind)
        out = extract(path, "top", Path(folder, "out"))
        found = {
            f"top/{p.relative_to(out).as_posix()}": p.read_bytes() for p in out.rglob("*") if p.is_file()
        }
        assert found == members
        for name, data in members.items():
            assert extract(path, name, Path(folder, "one")).read_bytes() == data


EVIL = ["/etc/x", "../x", "a/../../x", "a\\..\\..\\x", "C:\\x", "c:x", "..", "\\x"]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_members_that_point_outside_are_refused_with_the_whole_archive(tmp_path, make, name):
    path = make(tmp_path / "evil", {"good": b"1", name: b"2"})
    with pytest.raises(SourceError, match="refused"):
        extract(path, "good", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["evil"]


@pytest.mark.parametrize(
    "info", [link("/etc/passwd"), link("../../x"), link("../x", tarfile.LNKTYPE), link("../..")]
)
def test_links_that_leave_are_refused(tmp_path, info):
    path = make_tar(tmp_path / "evil", {"good": b"1", "a/link": info})
    with pytest.raises(SourceError, match="refused"):
        extract(path, "good", tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(tmp_path, kind):
    path = make_tar(tmp_path / "evil", {"good": b"1", "dev": link("", kind)})
    with pytest.raises(SourceError, match="device"):
        extract(path, "good", tmp_path / "out")


def test_links_in_zip_files_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    make_zip(tmp_path / "evil", {"good": b"1"})
    with zipfile.ZipFile(tmp_path / "evil", "a") as out:
        out.writestr(info, "good")
    with pytest.raises(SourceError, match="link"):
        extract(tmp_path / "evil", "good", tmp_path / "out")


def test_links_inside_become_copies_whatever_the_order(tmp_path):
    members = {"a/soft": link("../b/file"), "b/file": b"content", "a/hard": link("b/file", tarfile.LNKTYPE)}
    out = extract(make_tar(tmp_path / "t", members), "a", tmp_path / "out")
    assert {p.name: (p.read_bytes(), p.is_symlink()) for p in out.iterdir()} == {
        "soft": (b"content", False),
        "hard": (b"content", False),
    }


def test_the_only_top_folder_may_be_left_out(tmp_path):
    path = make_tar(tmp_path / "t", {"top/a/f": b"1", "top/g": b"2"})
    assert extract(path, "a/f", tmp_path / "one").read_bytes() == b"1"
    assert extract(path, "top/a/f", tmp_path / "two").read_bytes() == b"1"


def test_a_wrong_inner_path_names_close_members(tmp_path):
    path = make_zip(tmp_path / "z", {"data/reviews.csv": b"1"})
    with pytest.raises(SourceError, match=r"data/reviews\.csv"):
        extract(path, "data/review.csv", tmp_path / "out")


@pytest.mark.parametrize("inner", ["../x", "/x"])
def test_the_inner_path_cannot_leave_either(tmp_path, inner):
    with pytest.raises(SourceError, match="outside"):
        extract(make_zip(tmp_path / "z", {"x": b"1"}), inner, tmp_path / "out")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_bombs_are_refused(tmp_path, monkeypatch, make):
    monkeypatch.setattr(archives, "MIN_ALLOWANCE", 1000)
    path = make(tmp_path / "bomb", {"zeros": bytes(5_000_000)})
    with pytest.raises(SourceError, match="unpacks to more"):
        extract(path, "zeros", tmp_path / "out")


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    path = make_zip(tmp_path / "z", dict.fromkeys("abcd", b""))
    with pytest.raises(SourceError, match="more than 3 files"):
        extract(path, "a", tmp_path / "out")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damaged_archives_are_named(tmp_path, make):
    path = make(tmp_path / "archive.x", {"f": bytes(range(256)) * 100})
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:60] + bytes(20) + whole[80:], b"no archive at all"):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"archive\.x"):
            extract(path, "f", tmp_path / "out")


def test_a_file_and_a_folder_of_one_name_are_refused(tmp_path):
    path = make_tar(tmp_path / "t", {"top/a": b"1", "top/a/b": b"2"})
    with pytest.raises(SourceError, match="cannot unpack"):
        extract(path, "top", tmp_path / "out")
