"""The Hub against a stand-in endpoint that answers as the real one does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.fetching.huggingface import parse_hub_id
from jaxtune.hub.fetching.locate import locate, locate_tokenizer

SHA = "a" * 40
SAFE = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights", "tokenizer.json": b"{}"}


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """Puts a model on the stand-in Hub: ``hub(files, repo=…, revision=…)``; the cache is private."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))

    def put(files, repo="org/name", revision="main"):
        info = {"id": repo, "sha": SHA, "siblings": [{"rfilename": name} for name in files]}
        tree = [
            {"type": "file", "path": n, "oid": f"{i:040x}", "size": len(d)}
            for i, (n, d) in enumerate(files.items())
        ]
        server.routes[f"/api/models/{repo}/revision/{revision}"] = json.dumps(info).encode()
        server.routes[f"/api/models/{repo}"] = json.dumps(info).encode()
        for name in (SHA, revision):
            server.routes[f"/api/models/{repo}/tree/{name}"] = json.dumps(tree).encode()
        for i, (name, data) in enumerate(files.items()):
            for at in (SHA, revision):
                path = f"/{repo}/resolve/{at}/{name}"
                server.routes[path] = data
                server.headers[path] = {"ETag": f'"{i:040x}"', "X-Repo-Commit": SHA}
        for path in list(server.routes):
            if path.startswith("/api"):
                server.headers[path] = {"Content-Type": "application/json"}

    return put


def fetched(server):
    return {
        path.rsplit("/", 1)[-1] for method, path, _ in server.asked if method == "GET" and "/resolve/" in path
    }


def test_config_tokenizer_and_safetensors_are_fetched_and_no_pickle(hub, server):
    hub(
        SAFE
        | {
            "pytorch_model.bin": b"evil",
            "onnx/model.onnx": b"x",
            "flax_model.msgpack": b"y",
            "README.md": b"z",
        }
    )
    folder = locate("org/name", checkpoint=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == SAFE
    assert fetched(server) == set(SAFE)


def test_shards_are_fetched(hub):
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": b"{}",
        "model-00001-of-00001.safetensors": b"1",
    }
    hub(files)
    assert {p.name for p in locate("org/name").iterdir()} == set(files)


def test_a_revision_is_asked_for(hub, server):
    hub(SAFE, revision="v1.0")
    assert locate("org/name@v1.0").name == SHA
    assert any("/revision/v1.0" in path for _, path, _ in server.asked)


def test_flax_weights_are_fetched_where_there_is_nothing_better(hub, server):
    hub({"config.json": b"{}", "flax_model.msgpack": b"y", "pytorch_model.bin": b"evil"})
    assert (locate("org/name") / "flax_model.msgpack").read_bytes() == b"y"
    assert "pytorch_model.bin" not in fetched(server)


def test_only_pickle_is_refused_before_it_is_fetched(hub, server):
    hub({"config.json": b"{}", "pytorch_model.bin": b"evil"})
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin.*safetensors"):
        locate("org/name")
    assert "pytorch_model.bin" not in fetched(server)


def test_a_tokenizer_is_fetched_without_weights_even_where_they_are_pickles(hub, server):
    hub({"config.json": b"{}", "pytorch_model.bin": b"x", "tokenizer.json": b"{}"})
    folder = locate_tokenizer("org/name")
    assert (folder / "tokenizer.json").is_file()
    assert not any(name.endswith(".bin") for name in fetched(server))


def test_what_is_in_the_cache_needs_no_network(hub, server):
    hub(SAFE)
    folder = locate("org/name")
    server.close()
    assert locate("org/name") == folder


def test_no_network_says_so_and_how_to_give_a_folder(hub, server):
    server.close()
    with pytest.raises(SourceError, match=r"cannot reach http.*folder.*hf download org/name --local-dir"):
        locate("org/name")


def test_a_private_or_unknown_model(hub, server):
    path = "/api/models/org/none/revision/main"
    server.routes[path], server.statuses[path] = b'{"error": "Repository not found"}', 404
    server.headers[path] = {"X-Error-Code": "RepoNotFound"}
    with pytest.raises(SourceError, match=r"no such model on http.*hf auth login"):
        locate("org/none")


def test_a_gated_model(hub, server):
    path = "/api/models/org/gated/revision/main"
    server.routes[path], server.statuses[path] = b"{}", 403
    server.headers[path] = {"X-Error-Code": "GatedRepo"}
    with pytest.raises(SourceError, match="accept its terms"):
        locate("org/gated")


def test_an_unknown_revision(hub, server):
    path = "/api/models/org/name/revision/v9"
    server.routes[path], server.statuses[path] = b"{}", 404
    server.headers[path] = {"X-Error-Code": "RevisionNotFound"}
    with pytest.raises(SourceError, match="no revision 'v9'"):
        locate("org/name@v9")


def test_a_folder_of_that_name_goes_before_the_hub(hub, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert locate("org/name").resolve() == tmp_path / "org" / "name"
    assert server.asked == []


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("bert-base-uncased", ("bert-base-uncased", None)),
        ("org/na.me_x@refs/pr/1", ("org/na.me_x", "refs/pr/1")),
        ("a/b/c", None),
        ("/a/b", None),
        ("./a", None),
        ("a/../b", None),
        ("a b", None),
        ("a/b@", None),
    ],
)
def test_parse_hub_id(text, parsed):
    assert parse_hub_id(text) == parsed


@given(st.text(max_size=12))
def test_parse_hub_id_takes_any_text(text):
    parsed = parse_hub_id(text)
    assert parsed is None or ".." not in parsed[0]
