"""A two-layer BERT, a word-level vocabulary and learnable reviews: real files, small enough for any test."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizerFast

from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jaxtune.hub.pretrained import Pretrained
from jaxtune.hub.saving import save_pretrained
from jaxtune.models.families.bert import BertConfig
from jaxtune.models.model import build_model, init_params
from jaxtune.training.window import TIMES

GOOD = ["warm", "funny", "gripping", "lovely", "bright", "clever", "tender", "superb"]
BAD = ["dull", "cold", "tedious", "clumsy", "bland", "hollow", "lazy", "grim"]
PLAIN = [
    "the",
    "a",
    "film",
    "movie",
    "plot",
    "actor",
    "scene",
    "music",
    "was",
    "is",
    "and",
    "but",
    "very",
    "quite",
    "with",
    "in",
    "of",
    "its",
    "all",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *GOOD, *BAD, *PLAIN]

CONFIG = BertConfig(
    vocab_size=len(WORDS),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=48,
    initializer_range=0.2,
)


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A Hugging Face folder with a random encoder and its tokenizer."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=48)
    model = build_model(CONFIG, None)
    params = init_params(model, jax.random.key(seed))
    raw = {"model_type": "bert", **vars(CONFIG)}
    save_pretrained(folder, Pretrained(model, params, raw_config=raw, tokenizer=fast))
    return folder


def review(rng: random.Random) -> dict[str, Any]:
    """A sentence whose label six telling words give away."""
    good = rng.random() < 0.5
    words = rng.choices(PLAIN, k=rng.randint(2, 14)) + rng.choices(GOOD if good else BAD, k=6)
    rng.shuffle(words)
    return {"text": " ".join(words), "label": "good" if good else "bad", "stars": 4.0 if good else -2.5}


def write_reviews(path: Path, rows: int = 400, seed: int = 0) -> Path:
    """A jsonl file of reviews."""
    rng = random.Random(seed)
    path.write_text("".join(json.dumps(review(rng)) + "\n" for _ in range(rows)))
    return path


def without_times(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without what a resumed run may differ in."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def experiment(folder: Path, **changes: Mapping[str, Any] | Any) -> Experiment:
    """A run of some forty steps on reviews; ``changes`` are fields, or dicts of fields of a section."""
    source, data = folder / "tiny-bert", folder / "reviews.jsonl"
    if not source.exists():
        write_checkpoint(source)
    if not data.exists():
        write_reviews(data)
    sections: dict[str, Any] = {
        "model": (ModelConfig, {"source": str(source), "precision": "float32"}),
        "data": (DataConfig, {"train": f"jsonl:{data}", "max_length": 40}),
        "optim": (OptimConfig, {"learning_rate": 3e-3}),
        "train": (TrainConfig, {"epochs": 2, "batch_size": 16, "log_every": 4}),
        "mesh": (MeshConfig, {"devices": 1}),
    }
    built = {
        name: kind(**{**fields, **changes.pop(name, {})})  # type: ignore[dict-item]
        for name, (kind, fields) in sections.items()
    }
    return Experiment(**{"name": "run", "output": str(folder / "runs"), **built, **changes})
