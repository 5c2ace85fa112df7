"""A small T5 learns to tell what was cut out, from the command's configuration to a checkpoint."""

import json

import jax
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jaxtune
from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def write_t5(folder):
    """A random T5 and a tokenizer of words, with a sentinel for each span."""
    sentinels = [f"<extra_id_{i}>" for i in range(9, -1, -1)]
    names = ["<pad>", "</s>", "<unk>", *WORDS, *sentinels]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        additional_special_tokens=sentinels,
    )
    raw = {
        **{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": len(names)},
        **{
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 1,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        "dropout_rate": 0.0,
    }
    model = build_model(family_of("t5").config_class.from_hf(raw), "seq2seq_lm")
    lm = jaxtune.Pretrained(model, init_params(model, jax.random.key(0)), raw_config=raw, tokenizer=fast)
    jaxtune.save_pretrained(folder, lm)


def counting(rng, length):
    start = rng.integers(len(WORDS))
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(length))


def test_a_t5_learns_to_fill_the_gaps(tmp_path):
    write_t5(tmp_path / "t5")
    rng = np.random.default_rng(0)
    rows = [{"text": counting(rng, int(n))} for n in rng.integers(6, 50, 80)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = jaxtune.train(
        Experiment(
            task="denoising",
            output=str(tmp_path / "runs"),
            model=ModelConfig(source=str(tmp_path / "t5"), precision="float32"),
            data=DataConfig(train=f"jsonl:{tmp_path / 'texts.jsonl'}", max_length=32, holdout=(0.15, 0.1)),
            optim=OptimConfig(learning_rate=1e-2),
            train=TrainConfig(epochs=6, batch_size=16, eval_every=40, eval_at_start=True),
            mesh=MeshConfig(devices=1),
        )
    )
    start = next(row for row in run.metrics if row["split"] == "validation")
    assert start["step"] == 0
    result = run.results["splits"]["test"]
    assert result["loss"] < 0.5 * start["loss"]
    assert result["accuracy"] > 2 * start["accuracy"]
    adapted = jaxtune.load_pretrained(f"{run.path}/best", head="auto")
    assert adapted.head == "seq2seq_lm"
