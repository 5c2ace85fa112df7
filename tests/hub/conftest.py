"""What the hub's tests share: a small HTTP server, a private cache folder, and tiny checkpoints."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest


class Server:
    """Serves ``routes`` (path → bytes, or a function of the request) and remembers what was asked.

    Attributes:
        asked: (method, path, headers) of every request.
        trickle: seconds between two pieces of a body; 0 sends it at once.
        cut: (path → bytes after which the connection closes), each used up by one request.
        ranges: whether Range is honoured.
    """

    def __init__(self):
        self.routes, self.headers, self.statuses = {}, {}, {}
        self.asked, self.cut = [], {}
        self.trickle, self.ranges = 0.0, True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self):
        return self.http.server_address[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def gets(self, path):
        return [headers for method, asked, headers in self.asked if method == "GET" and asked == path]

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request):
        path = request.path.split("?")[0]
        self.asked.append((request.command, path, dict(request.headers)))
        found = self.routes.get(path)
        status, headers = (
            self.statuses.get(path, 200 if found is not None else 404),
            dict(self.headers.get(path, {})),
        )
        body = found if found is not None else b""
        start = 0
        if self.ranges and "Range" in request.headers and status == 200:
            start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-").split("-")[0])
            if start >= len(body):
                status, body = 416, b""
            else:
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        request.send_response(status)
        for name, value in {"Content-Length": str(max(len(body) - start, 0)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            self.send(request, body[start:], self.cut.pop(path, None))

    def send(self, request, body, cut):
        pieces = body if cut is None else body[:cut]
        try:
            for offset in range(0, len(pieces), 4096 if self.trickle else 1 << 20):
                request.wfile.write(pieces[offset : offset + (4096 if self.trickle else 1 << 20)])
                time.sleep(self.trickle)
            if cut is not None:
                request.close_connection = True
                request.connection.close()
        except OSError:
            request.close_connection = True


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def other_server():
    made = Server()
    yield made
    made.close()


USERS_CACHE = os.environ.get("JAXTUNE_CACHE")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A private cache, no waiting between attempts, and no package index but the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXTUNE_CACHE", str(folder))
    monkeypatch.setattr("jaxtune.hub.fetching.downloads.PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    return folder


@pytest.fixture
def users_cache(cache, monkeypatch):
    """The cache of whoever runs the tests, for large real files."""
    if USERS_CACHE is None:
        monkeypatch.delenv("JAXTUNE_CACHE")
    else:
        monkeypatch.setenv("JAXTUNE_CACHE", USERS_CACHE)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(name="sha256")
def sha256_fixture():
    return sha256


@pytest.fixture
def python():
    """Start this Python on some code in a process of its own."""
    started = []

    def start(code, *args):
        command = [sys.executable, "-c", code, *map(str, args)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


TINY = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "a_key_of_somebody_else": {"kept": True},
}


def tiny_tensors(seed=0, prefix="", labels=0):
    """Tensors of a small BERT as torch names and shapes them."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (0.3 * rng.standard_normal(shape)).astype(np.float32)

    d, f = TINY["hidden_size"], TINY["intermediate_size"]
    tensors = {
        "embeddings.word_embeddings.weight": normal(TINY["vocab_size"], d),
        "embeddings.position_embeddings.weight": normal(TINY["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": normal(2, d),
        "embeddings.LayerNorm.weight": 1 + normal(d),
        "embeddings.LayerNorm.bias": normal(d),
        "pooler.dense.weight": normal(d, d),
        "pooler.dense.bias": normal(d),
    }
    for i in range(TINY["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        linears = {f"{at}.attention.self.{n}": (d, d) for n in ("query", "key", "value")}
        linears |= {
            f"{at}.attention.output.dense": (d, d),
            f"{at}.intermediate.dense": (f, d),
            f"{at}.output.dense": (d, f),
        }
        for name, shape in linears.items():
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = normal(*shape), normal(shape[0])
        for name in (f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"):
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + normal(d), normal(d)
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    if labels:
        tensors |= {"classifier.weight": normal(labels, d), "classifier.bias": normal(labels)}
    return tensors


def write_tokenizer(folder: Path):
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        "good",
        "bad",
        "film",
    ]
    vocab = {word: i for i, word in enumerate(words)}
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


@pytest.fixture
def tiny_config():
    return dict(TINY)


@pytest.fixture
def make_tensors():
    return tiny_tensors


@pytest.fixture
def make_checkpoint(tmp_path):
    """Write a tiny checkpoint folder; ``tensors`` none writes no weights."""
    from safetensors.numpy import save_file

    def make(name="tiny", config=TINY, tensors=..., tokenizer=True):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        if tensors is ...:
            tensors = tiny_tensors()
        if tensors is not None:
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        if tokenizer:
            write_tokenizer(folder)
        return folder

    return make
