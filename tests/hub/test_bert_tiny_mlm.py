"""BERT-tiny with its masked-word head, under LayerNorm's old names: loads, fills a mask, exports as it was."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.saving import save_pretrained
from tests.hub.families import tensors_of
from tests.sources import BERT_TINY_MLM

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("users_cache")]

PEER = Path(__file__).with_name("torch_word_peer.py")
TORCH_PYTHON = os.environ.get("JAXTUNE_TORCH_PYTHON") or (
    sys.executable if importlib.util.find_spec("torch") else None
)
# Its makers trained it on to name what a sentence is about, so that it no longer fills a gap with the likeliest word.
SENTENCES = {
    "the capital of france is [MASK].": {"city", "france"},
    "he drank a cup of [MASK].": {"drink", "beer", "alcohol"},
    "monday, tuesday, wednesday, [MASK], friday.": {"sunday", "day"},
    "two plus two is [MASK].": {"math", "numbers"},
}


@pytest.fixture(scope="module")
def bert():
    return load_pretrained(BERT_TINY_MLM, head="auto", matmul_precision="highest")


def test_it_loads_whole(bert):
    assert (bert.head, bert.config.hidden_size, bert.config.num_hidden_layers) == ("mlm", 128, 2)
    assert bert.report.missing == bert.report.unexpected == ()


def test_it_fills_a_mask(bert):
    for sentence, words in SENTENCES.items():
        ids = bert.tokenizer(sentence)["input_ids"]
        logits = np.asarray(bert([ids]))[0, ids.index(bert.tokenizer.mask_token_id)]
        assert logits.shape == (30522,)
        likeliest = {bert.tokenizer.decode([i]).strip() for i in np.argsort(-logits)[:8]}
        assert words <= likeliest, (sentence, likeliest)


def test_the_export_is_byte_for_byte_the_file(bert, tmp_path):
    folder = locate(BERT_TINY_MLM, checkpoint=True)
    save_pretrained(tmp_path / "out", bert)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).is_file()
    assert not (tmp_path / "out" / "heads.pt").exists()


def test_modern_names(bert, tmp_path):
    save_pretrained(tmp_path / "out", bert, modern_names=True, dtype="bfloat16")
    tensors = tensors_of(tmp_path / "out")
    assert not [name for name in tensors if name.endswith(("gamma", "beta"))]
    assert "cls.predictions.transform.LayerNorm.weight" in tensors
    assert {tensor.dtype.name for tensor in tensors.values()} == {"bfloat16"}


@pytest.mark.skipif(
    TORCH_PYTHON is None, reason="no torch here, and JAXTUNE_TORCH_PYTHON names no Python with it"
)
@pytest.mark.parametrize("modern_names", [False, True])
def test_logits_are_torchs(bert, tmp_path, modern_names):
    save_pretrained(tmp_path / "out", bert, modern_names=modern_names)
    encoded = bert.tokenizer(list(SENTENCES), padding=True, return_tensors="np")
    given = {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    np.savez(tmp_path / "in.npz", **given)
    done = subprocess.run(
        [*map(str, [TORCH_PYTHON, PEER, tmp_path / "out", tmp_path / "in.npz", tmp_path / "out.npz"])],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "out.npz")["logits"]
    real = given["attention_mask"] == 1
    difference = np.abs(np.asarray(bert(**given)) - theirs)[real].max()
    print(f"largest difference {difference:.1e}")
    assert difference <= 2e-5
