"""Manifests: any damage to any file, the manifest included, is found and named."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from jaxtune import files
from jaxtune.persistence.manifest import MANIFEST, has_manifest, verify_manifest, write_manifest

CONTENT = {"record.json": b'{"step": 1}', "state/d/abc": bytes(range(200)), "state/empty": b""}


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path / "step") if request.param == "local" else f"memory://{uuid.uuid4().hex}/step"
    for name, data in CONTENT.items():
        files.write_bytes(files.join(root, name), data)
    write_manifest(root)
    return root


def test_sound(folder: str) -> None:
    assert has_manifest(folder)
    assert verify_manifest(folder) == []


def test_files_that_are_not_listed_are_fine(folder: str) -> None:
    files.write_text(files.join(folder, "notes.txt"), "mine")
    assert verify_manifest(folder) == []


def test_ignored_files_are_not_listed(folder: str) -> None:
    files.write_text(files.join(folder, "unfinished"), "")
    write_manifest(folder, ignore=("unfinished",))
    files.remove(files.join(folder, "unfinished"))
    assert verify_manifest(folder) == []


@pytest.mark.parametrize("name", [*CONTENT, MANIFEST])
def test_a_deleted_file_is_named(folder: str, name: str) -> None:
    files.remove(files.join(folder, name))
    assert verify_manifest(folder) == [f"{name} is missing"]


@pytest.mark.parametrize("name", ["record.json", "state/d/abc"])
def test_a_truncated_file_is_named(folder: str, name: str) -> None:
    path = files.join(folder, name)
    files.write_bytes(path, files.read_bytes(path)[:-1])
    [problem] = verify_manifest(folder)
    assert problem == f"{name} has {len(CONTENT[name]) - 1} bytes where {len(CONTENT[name])} were written"


def test_a_file_with_changed_bytes_of_the_same_size_is_named(tmp_path: Path) -> None:
    files.write_bytes(str(tmp_path / "state/d"), b"abc")
    write_manifest(str(tmp_path))
    files.write_bytes(str(tmp_path / "state/d"), b"abd")
    [problem] = verify_manifest(str(tmp_path))
    assert problem.startswith("state/d is damaged: its checksum is sha256:")


def test_every_flipped_byte_of_the_manifest_is_found(folder: str) -> None:
    path = files.join(folder, MANIFEST)
    sound = files.read_bytes(path)
    for at in range(len(sound)):
        flipped = bytearray(sound)
        flipped[at] ^= 1 << (at % 8)
        files.write_bytes(path, bytes(flipped))
        assert verify_manifest(folder) == [f"{MANIFEST} is damaged: its bytes do not match its own digest"], (
            at
        )


def test_every_truncation_of_the_manifest_is_found(folder: str) -> None:
    path = files.join(folder, MANIFEST)
    sound = files.read_bytes(path)
    for length in range(len(sound)):
        files.write_bytes(path, sound[:length])
        assert verify_manifest(folder), length


def test_several_problems_are_all_named(folder: str) -> None:
    files.remove(files.join(folder, "record.json"))
    files.write_bytes(files.join(folder, "state/d/abc"), b"")
    assert len(verify_manifest(folder)) == 2


def test_a_folder_copied_to_another_kind_of_store_is_checked_by_size(tmp_path: Path) -> None:
    here, there = str(tmp_path / "step"), f"memory://{uuid.uuid4().hex}/step"
    files.write_bytes(files.join(here, "state"), b"abc")
    write_manifest(here)
    for name in files.walk(here):
        files.copy(files.join(here, name), files.join(there, name))
    assert verify_manifest(there) == []
    files.write_bytes(files.join(there, "state"), b"ab")
    assert verify_manifest(there) == ["state has 2 bytes where 3 were written"]


def test_the_same_content_gives_the_same_bytes(folder: str, tmp_path: Path) -> None:
    before = files.read_bytes(files.join(folder, MANIFEST))
    write_manifest(folder)
    assert files.read_bytes(files.join(folder, MANIFEST)) == before
