"""The file layer: one behaviour on a local disk and on a remote store."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from jaxtune import files
from jaxtune.errors import SourceError


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "local" else f"memory://{uuid.uuid4().hex}/root"


def test_import_is_light() -> None:
    code = "import sys, jaxtune.files; print(sorted({'jax', 'numpy', 'fsspec'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_write_read_and_list(root: str) -> None:
    assert not files.exists(root)
    assert files.list_dir(root) == []
    assert files.walk(root) == []
    files.write_text(files.join(root, "b", "two.txt"), "zwei ☃")
    files.write_bytes(files.join(root, "one.bin"), b"\x00\xff")
    assert files.read_text(files.join(root, "b/two.txt")) == "zwei ☃"
    assert files.read_bytes(files.join(root, "one.bin")) == b"\x00\xff"
    assert files.size(files.join(root, "one.bin")) == 2
    assert files.list_dir(root) == ["b", "one.bin"]
    assert files.walk(root) == ["b/two.txt", "one.bin"]
    assert files.is_dir(files.join(root, "b"))
    assert not files.is_dir(files.join(root, "one.bin"))
    assert files.exists(files.join(root, "one.bin"))


def test_write_replaces_whole(root: str) -> None:
    path = files.join(root, "x.txt")
    files.write_text(path, "long old text")
    files.write_text(path, "new")
    assert files.read_text(path) == "new"
    assert files.list_dir(root) == ["x.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = str(tmp_path / "x.txt")
    files.write_text(path, "old")
    with pytest.raises(AttributeError):
        files.write_text(path, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        files.write_bytes(path, "no bytes")  # type: ignore[arg-type]
    assert files.read_text(path) == "old"
    assert files.list_dir(str(tmp_path)) == ["x.txt"]


@pytest.mark.parametrize("read", [files.read_bytes, files.read_text, files.size, files.checksum])
def test_a_missing_file_says_so(root: str, read) -> None:
    with pytest.raises(FileNotFoundError):
        read(files.join(root, "none"))


def test_append(root: str) -> None:
    path = files.join(root, "log.jsonl")
    files.append_lines(path, ["a", "b"])
    files.append_lines(path, ["ç"])
    assert files.read_text(path) == "a\nb\nç\n"


def test_remove_file_and_tree(root: str) -> None:
    for part in ("t/a.txt", "t/u/b.txt", "c.txt"):
        files.write_text(files.join(root, part), part)
    files.remove(files.join(root, "t"))
    files.remove(files.join(root, "c.txt"))
    files.remove(files.join(root, "never-there"))
    assert files.walk(root) == []


def test_remove_of_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    files.write_text(str(tmp_path / "kept/a.txt"), "a")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    files.remove(str(tmp_path / "link"))
    assert files.walk(str(tmp_path)) == ["kept/a.txt"]


def test_move_file_and_tree(root: str) -> None:
    files.write_text(files.join(root, "t/u/b.txt"), "b")
    files.move(files.join(root, "t"), files.join(root, "new"))
    assert files.walk(root) == ["new/u/b.txt"]
    files.move(files.join(root, "new/u/b.txt"), files.join(root, "c.txt"))
    assert [name for name in files.walk(root) if not name.startswith("new")] == ["c.txt"]
    assert files.read_text(files.join(root, "c.txt")) == "b"


def test_make_dirs(root: str) -> None:
    files.make_dirs(files.join(root, "a/b"))
    files.make_dirs(files.join(root, "a/b"))
    files.write_text(files.join(root, "a/b/c"), "c")
    assert files.is_dir(files.join(root, "a", "b"))


def test_copy_between_local_and_remote(root: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    files.write_bytes(files.join(root, "in"), data)
    files.copy(files.join(root, "in"), str(tmp_path / "local/copy"))
    files.copy(str(tmp_path / "local/copy"), files.join(root, "deep/out"))
    assert files.read_bytes(files.join(root, "deep/out")) == data


def test_checksums(tmp_path: Path) -> None:
    files.write_bytes(str(tmp_path / "a"), b"abc")
    assert files.checksum(str(tmp_path / "a")) == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    remote = f"memory://{uuid.uuid4().hex}/a"
    files.write_bytes(remote, b"abc")
    assert files.checksum(remote) == "size:3"


def test_the_stores_own_checksum_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    info = {"size": 3, "etag": "changes-with-each-upload", "crc32c": "NKk9Sg=="}
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path, **_: info)
    assert files.checksum("memory://x/a") == "size:3;crc32c:NKk9Sg=="


def test_join_and_parts() -> None:
    assert files.join("gs://bucket/run/", "/checkpoints/", "10") == "gs://bucket/run/checkpoints/10"
    assert files.join("runs/a", "b", "c.txt") == "runs/a/b/c.txt"
    assert files.join("/runs", "/b") == "/runs/b"
    assert files.parent("gs://bucket/run/x") == "gs://bucket/run"
    assert files.name("gs://bucket/run/") == "run"
    assert files.parent("/a/b") == "/a"
    assert files.name("/a/b/") == "b"
    assert files.absolute("gs://b/x") == "gs://b/x"
    assert files.absolute("x") == str(Path.cwd() / "x")


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("gs://b/x", True),
        ("memory://x", True),
        ("/a/b", False),
        ("a", False),
        ("file:///a", False),
        ("C:\\a", False),
    ],
)
def test_what_is_remote(path: str, remote: bool) -> None:
    assert files.is_remote(path) is remote


def test_gs_without_gcsfs_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SourceError, match=r"gs://bucket/run.*pip install 'jaxtune\[gcs\]'"):
        files.exists("gs://bucket/run")


def test_unknown_protocol_is_named() -> None:
    with pytest.raises(SourceError, match="protocol qq://"):
        files.exists("qq://bucket/run")


def test_free_space(tmp_path: Path) -> None:
    assert files.free_space("memory://x") is None
    free = files.free_space(str(tmp_path / "not/yet/there"))
    assert free is not None
    assert free > 0
