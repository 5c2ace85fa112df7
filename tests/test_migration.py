"""The script on docs/coming-from-flax.md does what it says: a small T5 learns to fill in spans."""

import json
import re
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jaxtune
from jaxtune.models.heads import HEADS
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of

ROOT = Path(__file__).parents[1]
WORDS = [
    "the",
    "a",
    "small",
    "old",
    "red",
    "cat",
    "dog",
    "bird",
    "sat",
    "ran",
    "sang",
    "on",
    "under",
    "near",
    "mat",
    "tree",
    "house",
    "and",
    "then",
    "again",
]


def write_t5(folder: Path) -> Path:
    """A random T5 and a tokenizer of words, with a sentinel for each span."""
    sentinels = [f"<extra_id_{i}>" for i in range(20)]
    names = ["<pad>", "</s>", "<unk>", *WORDS, *reversed(sentinels)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
    )
    raw = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": len(names),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    }
    config = family_of("t5").config_class.from_hf(raw)
    model = build_model(config, "seq2seq_lm")
    lm = jaxtune.Pretrained(model, init_params(model, jax.random.key(0)), raw_config=raw, tokenizer=fast)
    jaxtune.save_pretrained(folder, lm)
    return folder


def test_the_t5_script_learns_and_saves(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "coming-from-flax.md").read_text(encoding="utf-8")
    block = re.search(r"## run_t5_mlm_flax.py.*?```python\n(.*?)```", page, re.DOTALL)[1]
    rng = np.random.default_rng(0)
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(" ".join(rng.choice(WORDS, 24)) + "\n" for _ in range(30)))
    source = write_t5(tmp_path / "t5")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "coming-from-flax.md", "exec"), {"SOURCE": str(source), "TEXTS": texts, "STEPS": 61})
    printed = capsys.readouterr().out.split("\n")
    losses = [float(line.split()[1]) for line in printed if re.fullmatch(r"\d+ [\d.]+", line)]
    assert losses[-1] < losses[0] - 0.5
    adapted = jaxtune.load_pretrained(tmp_path / "t5-adapted", head="auto")
    before = jaxtune.load_pretrained(source, head="auto")
    assert json.loads((tmp_path / "t5-adapted" / "config.json").read_text())["model_type"] == "t5"
    ids = np.array([[5, 6, 7, 1]])
    assert np.abs(adapted(ids, None, ids) - before(ids, None, ids)).max() > 0.01


def test_every_flax_script_has_an_answer():
    page = (ROOT / "docs" / "coming-from-flax.md").read_text(encoding="utf-8")
    for name in ("FlaxBertModel", "run_flax_glue.py", "run_t5_mlm_flax.py", "flax_model.msgpack"):
        assert name in page


def test_heads_in_the_table_exist():
    page = (ROOT / "docs" / "coming-from-flax.md").read_text(encoding="utf-8")
    named = set(re.findall(r'head="(\w+)"', page))
    assert named
    assert named <= set(HEADS)
