from __future__ import annotations

import base64
import os
import signal
import time

import pytest

from jaxtune.errors import SourceError
from jaxtune.hub.fetching.downloads import download, redact

DATA = bytes(range(256)) * 400


def test_a_download_is_verified_and_then_served_from_the_cache(server, tmp_path, sha256):
    server.routes["/f"] = DATA
    for _ in range(2):
        path = download(f"{server.url}/f", tmp_path / "f", sha256=sha256(DATA).upper())
        assert path.read_bytes() == DATA
    assert len(server.gets("/f")) == 1


def test_a_wrong_digest_keeps_nothing_and_names_both(server, tmp_path, sha256):
    server.routes["/f"] = DATA
    with pytest.raises(SourceError) as caught:
        download(f"{server.url}/f", tmp_path / "d" / "f", sha256="0" * 64)
    assert sha256(DATA) in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert [p.name for p in (tmp_path / "d").iterdir() if not p.name.endswith(".lock")] == []


def test_broken_connections_are_taken_up_where_they_stopped(server, tmp_path, sha256):
    server.routes["/f"] = DATA
    server.cut["/f"] = 70_000
    assert download(f"{server.url}/f", tmp_path / "f", sha256=sha256(DATA)).read_bytes() == DATA
    assert [h.get("Range") for h in server.gets("/f")] == [None, "bytes=70000-"]


def test_a_server_without_ranges_sends_it_anew(server, tmp_path, sha256):
    server.routes["/f"] = DATA
    server.cut["/f"] = 70_000
    server.ranges = False
    assert download(f"{server.url}/f", tmp_path / "f", sha256=sha256(DATA)).read_bytes() == DATA


@pytest.mark.parametrize("leftover", [b"wrong bytes", DATA, DATA + b"more"])
def test_a_damaged_or_finished_leftover_does_no_harm(server, tmp_path, sha256, leftover):
    server.routes["/f"] = DATA
    (tmp_path / "f.part").write_bytes(leftover)
    assert download(f"{server.url}/f", tmp_path / "f", sha256=sha256(DATA)).read_bytes() == DATA
    assert not (tmp_path / "f.part").exists()


def test_a_leftover_is_not_taken_up_without_a_digest(server, tmp_path):
    server.routes["/f"] = DATA
    (tmp_path / "f.part").write_bytes(b"of another file")
    assert download(f"{server.url}/f", tmp_path / "f", sha256=None).read_bytes() == DATA


KILLED = """
import sys
from pathlib import Path
from jaxtune.hub.fetching.downloads import download
print(download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3]))
"""


def test_a_sigkill_leaves_nothing_that_is_trusted_and_the_next_call_goes_on(server, tmp_path, sha256, python):
    server.routes["/f"] = DATA
    server.trickle = 0.05
    target, part = tmp_path / "f", tmp_path / "f.part"
    process = python(KILLED, f"{server.url}/f", target, sha256(DATA))
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 8192):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    kept = part.stat().st_size
    assert 0 < kept < len(DATA)
    server.trickle = 0.0
    assert download(f"{server.url}/f", target, sha256=sha256(DATA)).read_bytes() == DATA
    assert server.gets("/f")[-1]["Range"] == f"bytes={kept}-"


def test_two_processes_fetch_once(server, tmp_path, sha256, python):
    server.routes["/f"] = DATA
    server.trickle = 0.02
    processes = [python(KILLED, f"{server.url}/f", tmp_path / "f", sha256(DATA)) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.strip() == str(tmp_path / "f")
    assert len(server.gets("/f")) == 1
    assert (tmp_path / "f").read_bytes() == DATA


FULL = """
import resource, sys
from pathlib import Path
from jaxtune.errors import SourceError
from jaxtune.hub.fetching.downloads import download
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3])
except SourceError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_frees_what_was_written(server, tmp_path, sha256, python):
    pytest.importorskip("resource")
    server.routes["/f"] = DATA
    out, err = python(FULL, f"{server.url}/f", tmp_path / "f", sha256(DATA)).communicate(timeout=60)
    assert "cannot write" in out, err
    assert not (tmp_path / "f").exists()
    assert not (tmp_path / "f.part").exists()


def test_no_connection_is_said_without_the_password(server, tmp_path):
    server.close()
    with pytest.raises(SourceError, match="no connection") as caught:
        download(f"http://me:secret@127.0.0.1:{server.port}/f", tmp_path / "f", sha256=None)
    assert "secret" not in str(caught.value)


def test_a_missing_file_fails_at_once(server, tmp_path):
    with pytest.raises(SourceError, match="404"):
        download(f"{server.url}/f", tmp_path / "f", sha256=None)
    assert len(server.gets("/f")) == 1


def test_server_errors_are_tried_again(server, tmp_path):
    server.statuses["/f"] = 503
    with pytest.raises(SourceError, match="503"):
        download(f"{server.url}/f", tmp_path / "f", sha256=None)
    assert len(server.gets("/f")) > 1


def test_credentials_stay_with_their_host(server, other_server, tmp_path):
    other_server.routes["/elsewhere"] = server.routes["/same"] = DATA
    for path, location in (("/a", f"{other_server.url}/elsewhere"), ("/b", f"{server.url}/same")):
        server.routes[path], server.statuses[path], server.headers[path] = b"", 302, {"Location": location}
        download(f"http://me:p%40ss@127.0.0.1:{server.port}{path}", tmp_path / path[1:], sha256=None)
    basic = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert server.gets("/a")[0]["Authorization"] == basic
    assert server.gets("/same")[0]["Authorization"] == basic
    assert "Authorization" not in other_server.gets("/elsewhere")[0]


def test_netrc_is_used(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password 100%41\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.routes["/f"] = DATA
    download(f"{server.url}/f", tmp_path / "f", sha256=None)
    assert server.gets("/f")[0]["Authorization"] == "Basic " + base64.b64encode(b"me:100%41").decode()


def test_progress_is_plain_lines_when_not_a_terminal(server, tmp_path, capsys):
    server.routes["/f"] = DATA
    download(f"{server.url}/f", tmp_path / "f", sha256=None, label="the file")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "downloading the file (0.1 MiB)"
    assert lines[-1].startswith("downloaded the file: 0.1 MiB in ")


def test_progress_is_a_bar_on_a_terminal(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    server.routes["/f"] = DATA
    download(f"{server.url}/f", tmp_path / "f", sha256=None, label="the file")
    assert "━" in capsys.readouterr().err


def test_redact():
    assert redact("https://a:b@host:1/x?y#z") == "https://host:1/x?y#z"
