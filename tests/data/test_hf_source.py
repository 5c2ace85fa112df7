"""Data sets on the Hub, against a stand-in endpoint that answers as the real one does."""

from __future__ import annotations

import http.server
import io
import json
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxtune.data.sources import find_source
from jaxtune.errors import SourceError

SHA = "b" * 40


class Hub:
    def __init__(self):
        self.files, self.fetched = {}, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request):
        path = request.path.split("?")[0]
        names = sorted(self.files)
        body = None
        if path.startswith("/api/datasets/org/name") and "/tree/" in path:
            body = [
                {"type": "file", "path": n, "oid": f"{i:040x}", "size": len(self.files[n])}
                for i, n in enumerate(names)
            ]
        elif path in ("/api/datasets/org/name", "/api/datasets/org/name/revision/main"):
            body = {"id": "org/name", "sha": SHA, "siblings": [{"rfilename": n} for n in names]}
        elif path.startswith(("/datasets/org/name/resolve/main/", f"/datasets/org/name/resolve/{SHA}/")):
            name = path.split("/", 6)[6]
            if name in self.files:
                if request.command == "GET":
                    self.fetched.append(name)
                return self.send(request, 200, self.files[name], f"{names.index(name):040x}")
        if body is None:
            return self.send(request, 404, b"", None, {"X-Error-Code": "RepoNotFound"})
        return self.send(request, 200, json.dumps(body).encode(), None, {"Content-Type": "application/json"})

    def send(self, request, status, body, etag, headers=()):
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("X-Repo-Commit", SHA)
        if etag:
            request.send_header("ETag", f'"{etag}"')
        for name, value in dict(headers).items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.http.server_address[1]}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    yield hub
    hub.http.shutdown()
    hub.http.server_close()


def parquet(texts):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "label": [i % 2 for i in range(len(texts))]}), buffer)
    return buffer.getvalue()


def test_splits_come_from_file_names(hub):
    hub.files = {
        "README.md": b"# A data set",
        "data/train-00000-of-00002.parquet": parquet(["a", "b"]),
        "data/train-00001-of-00002.parquet": parquet(["c"]),
        "data/test-00000-of-00001.parquet": parquet(["d"]),
        "loader.py": b"evil()",
    }
    source = find_source("hf:org/name")
    assert source.splits == ("train", "test")
    train = source.open("train")
    assert [train[i]["text"] for i in range(len(train))] == ["a", "b", "c"]
    assert "loader.py" not in hub.fetched


def test_the_card_says_which_files_and_class_names_there_are(hub):
    card = """---
configs:
- config_name: one
  data_files:
  - split: train
    path: one/part.csv
- config_name: two
  data_files:
  - split: train
    path: two/first-*.jsonl
  - split: validation
    path: two/second.jsonl
dataset_info:
- config_name: two
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
  - name: tags
    sequence:
      class_label:
        names:
          '0': O
          '1': B-X
---
"""
    hub.files = {
        "README.md": card.encode(),
        "one/part.csv": b"text,label\nx,1\n",
        "two/first-0.jsonl": b'{"text": "a", "label": 1}\n',
        "two/second.jsonl": b'{"text": "b", "label": 0}\n',
    }
    source = find_source("hf:org/name:two")
    assert source.splits == ("train", "validation")
    assert source.open("validation")[0] == {"text": "b", "label": 0}
    assert source.open("train").label_names == {"label": ("neg", "pos"), "tags": ("O", "B-X")}
    assert "one/part.csv" not in hub.fetched
    with pytest.raises(SourceError, match=r"name one of its configs \(one, two\)"):
        find_source("hf:org/name")
    with pytest.raises(SourceError, match=r"no config 'three'; there are one, two"):
        find_source("hf:org/name:three")


def test_configs_that_are_folders(hub):
    hub.files = {f"{c}/train-0.parquet": parquet([c]) for c in ("sst2", "cola")} | {"README.md": b""}
    assert find_source("hf:org/name:cola").open("train")[0]["text"] == "cola"
    with pytest.raises(SourceError, match=r"name one of its configs \(cola, sst2\)"):
        find_source("hf:org/name")


def test_no_such_data_set_and_no_files(hub):
    with pytest.raises(SourceError, match="hf:org/other: there is no such data set"):
        find_source("hf:org/other")
    hub.files = {"README.md": b"", "script.py": b""}
    with pytest.raises(SourceError, match=r"found no \.parquet"):
        find_source("hf:org/name")


def test_without_network_the_cache_serves_or_the_way_out_is_named(hub, monkeypatch):
    hub.files = {"README.md": b"", "train.csv": b"text,label\na,1\n"}
    find_source("hf:org/name")
    hub.http.shutdown()
    hub.http.server_close()
    assert len(find_source("hf:org/name").open("train")) == 1
    with pytest.raises(SourceError, match=r"cannot reach .*--repo-type dataset.*csv:FOLDER"):
        find_source("hf:org/another")
