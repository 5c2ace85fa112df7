from __future__ import annotations

import os
from pathlib import Path

import pytest

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.cache import cache_dir, locked, publish


def test_the_variable_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXTUNE_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"


def test_without_it_the_users_cache_folder_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_dir() == tmp_path / "jaxtune"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path.home() / ".cache" / "jaxtune"


def test_publish_shows_nothing_before_the_end(tmp_path):
    target = tmp_path / "folder"
    with publish(target) as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"


def test_publish_leaves_nothing_when_it_fails(tmp_path):
    def fail():
        with publish(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_publish_removes_what_a_killed_writer_left(tmp_path):
    (tmp_path / ".a[b].0123.tmp").mkdir()
    with publish(tmp_path / "a[b]") as temporary:
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["a[b]"]


def test_a_killed_holder_frees_the_lock(tmp_path, python):
    target = tmp_path / "entry"
    code = """
import sys, time
from pathlib import Path
from jaxtune.hub.fetching.cache import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = python(code, target)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    with locked(target):
        pass


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_names_the_variable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SourceError, match="JAXTUNE_CACHE"), locked(tmp_path / "sub" / "entry"):
        pass


def test_a_cache_below_a_file_names_the_variable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="JAXTUNE_CACHE"), locked(tmp_path / "file" / "entry"):
        pass
