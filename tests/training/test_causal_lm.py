"""A decoder learns a text: end to end on a tiny GPT-2, in pieces, and conversations."""

import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jaxtune
from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jaxtune.hub.pretrained import Pretrained
from jaxtune.hub.saving import save_pretrained
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + ' <|end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)


def write_decoder(folder):
    names = ["<|end|>", "<|user|>", "<|assistant|>", "?", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="?")
    fast.chat_template = CHAT
    raw = {
        **{"model_type": "gpt2", "vocab_size": len(names), "n_embd": 32, "n_layer": 1, "n_head": 4},
        **{"n_positions": 32, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0},
    }
    config = family_of("gpt2").config_class.from_hf(raw)
    model = build_model(config, "causal_lm")
    save_pretrained(
        folder, Pretrained(model, init_params(model, jax.random.key(0)), raw_config=raw, tokenizer=fast)
    )
    return folder


def experiment(tmp_path, rows, **data):
    source, path = tmp_path / "decoder", tmp_path / "texts.jsonl"
    if not source.exists():
        write_decoder(source)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Experiment(
        name="lm",
        task="causal_lm",
        output=str(tmp_path / "runs"),
        model=ModelConfig(source=str(source), precision="float32"),
        data=DataConfig(train=f"jsonl:{path}", max_length=16, holdout=(0.2, 0.1), **data),
        optim=OptimConfig(learning_rate=1e-2),
        train=TrainConfig(epochs=6, batch_size=8, log_every=4),
        mesh=MeshConfig(devices=1),
    )


def counting(rng, length):
    """Numbers in order, round and round: every next word is certain but the first."""
    start = rng.integers(len(WORDS))
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(length))


def test_it_learns_to_count(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"text": counting(rng, int(n))} for n in rng.integers(4, 40, 60)]
    run = jaxtune.train(experiment(tmp_path, rows))
    start = next(row["loss"] for row in run.metrics if row["split"] == "train")
    result = run.results["splits"]["test"]
    assert result["loss"] < 0.5 < start
    assert result["perplexity"] == pytest.approx(np.exp(result["loss"]))
    assert result["accuracy"] > 0.8
    assert result["bits_per_byte"] == pytest.approx(
        result["loss"] * result["tokens"] / result["bytes"] / np.log(2)
    )
    assert run.evaluate("test")["bits_per_byte"] == pytest.approx(result["bits_per_byte"])
    assert run.predict([counting(rng, 10)])[0]["perplexity"] < 3.0
    lm = jaxtune.load_pretrained(tmp_path / "runs" / "lm", head="auto")
    assert lm.generate(["one two three"], max_new_tokens=3)[0].split() == ["four", "five", "six"]


def test_of_a_conversation_only_the_replies_are_learnt(tmp_path):
    folder = write_decoder(tmp_path / "decoder")
    tokenizer = jaxtune.load_pretrained(folder, "causal_lm").tokenizer
    from jaxtune.tasks.causal_lm import CausalLM

    turns = [
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "three four"},
        {"role": "user", "content": "five"},
        {"role": "assistant", "content": "six"},
    ]
    (pieces,) = CausalLM("messages", 32).tokenize([{"messages": turns}], tokenizer, str)
    (piece,) = pieces
    told = tokenizer.convert_ids_to_tokens(piece["labels"][piece["labels"] >= 0].tolist())
    assert told == ["three", "four", "<|end|>", "six", "<|end|>"]


def test_a_long_text_is_told_once_and_whole(tmp_path):
    folder = write_decoder(tmp_path / "decoder")
    tokenizer = jaxtune.load_pretrained(folder, "causal_lm").tokenizer
    from jaxtune.tasks.causal_lm import CausalLM

    text = counting(np.random.default_rng(0), 50)
    (pieces,) = CausalLM("text", 16).tokenize([{"text": text}], tokenizer, str)
    assert len(pieces) == 4
    assert all(len(piece["tokens"]) <= 16 for piece in pieces)
    told = np.concatenate([piece["labels"] for piece in pieces])
    assert tokenizer.convert_ids_to_tokens(told.tolist()) == [*text.split()[1:], "<|end|>"]
