"""SmolLM2-135M-Instruct from a GGUF file (Q4_1 and Q8_0): tokenizer, configuration, logits, perplexity."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxtune.data.sources import open_source
from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.saving import save_pretrained
from tests.sources import MOVIES, SMOLLM2

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("users_cache")]

PEER = Path(__file__).with_name("torch_word_peer.py")
TORCH_PYTHON = os.environ.get("JAXTUNE_TORCH_PYTHON") or (
    sys.executable if importlib.util.find_spec("torch") else None
)
needs_torch = pytest.mark.skipif(
    TORCH_PYTHON is None, reason="no torch here, and JAXTUNE_TORCH_PYTHON names no Python with it"
)
TEXTS = (
    "The capital of France is",
    "Hello world! It's 2026, isn't it?  12345 6.75%",
    " leading and trailing spaces \n\n\tand\r\nlines ",
    "naïve café — 日本語 🙂 שלום",
    "def f(x):\n    return x**2  # comment",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def lm():
    return load_pretrained(SMOLLM2, head="auto", matmul_precision="highest")


@pytest.fixture
def peer(tmp_path):
    """Logits and token ids that torch makes of the same GGUF file, or of a folder."""

    def run(folder, input_ids, texts=(), gguf_file=None):
        given = {"input_ids": np.asarray(input_ids, np.int64)} | ({"texts": np.array(texts)} if texts else {})
        np.savez(tmp_path / "in.npz", **given)
        files = [folder, tmp_path / "in.npz", tmp_path / "out.npz", *([gguf_file] if gguf_file else [])]
        done = subprocess.run(
            [*map(str, [TORCH_PYTHON, PEER, *files])],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(np.load(tmp_path / "out.npz"))

    return run


def cross_entropy(logits, ids):
    """Mean negative log likelihood of each token given those before it, in float64."""
    x = logits[:-1].astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return float(np.mean(np.log(np.exp(x).sum(-1)) - x[np.arange(len(x)), ids[1:]]))


def real_text(tokenizer, tokens=2000):
    """The beginning of a corpus of movie reviews."""
    records = open_source(f"{MOVIES}[test]")
    text = " ".join(str(records[i]["text"]) for i in range(400))
    return tokenizer(text)["input_ids"][:tokens]


def test_configuration(lm):
    c = lm.config
    assert (lm.head, lm.raw_config["model_type"]) == ("causal_lm", "llama")
    assert (c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads) == (
        576,
        30,
        9,
        3,
    )
    assert (c.vocab_size, c.max_position_embeddings, c.rms_norm_eps) == (49152, 8192, 1e-5)
    assert (c.rotaries[0].theta, c.tie_word_embeddings) == (100000.0, True)
    assert lm.report.missing == lm.report.unexpected == lm.report.nonfinite == ()


def test_tokenizer(lm):
    tokenizer = lm.tokenizer
    assert len(tokenizer) == 49152
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("The capital of France is")["input_ids"] == [504, 3575, 282, 4649, 314]
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id] == [2]
    # Digits one by one, as this family's own tokenizer splits them.
    assert tokenizer.tokenize("a123") == ["a", "1", "2", "3"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert chat.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


def test_the_capital_of_france(lm):
    assert lm.generate(["The capital of France is"], max_new_tokens=2)[0] == " Paris."


@needs_torch
def test_logits_tokens_and_perplexity_are_torchs(lm, peer):
    file = locate(SMOLLM2, checkpoint=True)
    ids = real_text(lm.tokenizer)
    assert len(ids) == 2000
    # transformers' reading of GGUF files does not know that this tokenizer splits numbers into digits.
    texts = [text for text in TEXTS if not any(map(str.isdigit, text))]
    theirs = peer(file.parent, [ids], texts, file.name)
    ours = np.asarray(lm([ids]))[0]
    tokens = [token for text in texts for token in [*lm.tokenizer(text)["input_ids"], -1]]
    assert tokens == theirs["token_ids"].tolist()
    one, other = cross_entropy(ours, ids), cross_entropy(theirs["logits"][0], ids)
    difference = np.abs(ours - theirs["logits"][0]).max(axis=-1)
    print(
        f"perplexity {np.exp(one):.6f}, torch {np.exp(other):.6f}; logits {np.median(difference):.1e} apart"
    )
    assert abs(np.exp(one) / np.exp(other) - 1) <= 1e-3
    # Logits up to 41, behind thirty layers: a few positions among the 2,000 round less kindly than the others.
    assert np.median(difference) <= 1e-4


@needs_torch
def test_the_exported_folder_gives_torch_the_same_logits(lm, peer, tmp_path):
    save_pretrained(tmp_path / "out", lm)
    ids = lm.tokenizer("The capital of France is Paris, and the capital of Italy is")["input_ids"]
    theirs = peer(tmp_path / "out", [ids], TEXTS)
    np.testing.assert_allclose(lm([ids]), theirs["logits"], rtol=0, atol=2e-4)
    tokens = [token for text in TEXTS for token in [*lm.tokenizer(text)["input_ids"], -1]]
    assert tokens == theirs["token_ids"].tolist()
