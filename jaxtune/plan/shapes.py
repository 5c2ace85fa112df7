"""Shapes of well-known models, so that a plan needs neither weights nor a network: config.json as published.

Sources: the config.json of each Hub repository named, which also gives its licence terms; only sizes are kept here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtune.config import DataConfig, Experiment, ModelConfig, OptimConfig, TaskName, TrainConfig
from jaxtune.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and a usual way to fine-tune it.

    Attributes:
        hub: repositories with this shape.
        config: config.json, sizes only.
        task: what is planned for it.
        length: tokens of a row, of each text.
        rows: in a batch.
        changes: of ``ModelConfig``, where the model is too deep or large for the defaults.
    """

    hub: tuple[str, ...]
    config: Mapping[str, Any]
    task: TaskName
    length: int
    rows: int
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def experiment(self, name: str) -> Experiment:
        """A fine-tuning run of this shape: AdamW, rows of full length."""
        return Experiment(
            name=name,
            task=self.task,
            model=ModelConfig(source=self.hub[0], **self.changes),
            data=DataConfig(max_length=self.length, max_target_length=self.length, batching="padded"),
            optim=OptimConfig(name="adamw"),
            train=TrainConfig(batch_size=self.rows),
        )


_DEEP = {"scan_layers": True, "remat": "full"}
_BERT = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512}
_T5 = {"model_type": "t5", "vocab_size": 32128, "decoder_start_token_id": 0, "d_kv": 64, "pad_token_id": 0}
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

SHAPES: Mapping[str, Shape] = {
    "bert-base": Shape(
        ("google-bert/bert-base-uncased", "bert-base-uncased"),
        {
            **_BERT,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        "classification",
        length=128,
        rows=512,
    ),
    "bert-large": Shape(
        ("google-bert/bert-large-uncased", "bert-large-uncased"),
        {
            **_BERT,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
        "classification",
        length=512,
        rows=64,
        changes={"scan_layers": True, "remat": "dots"},
    ),
    "gpt2": Shape(
        ("openai-community/gpt2", "gpt2"),
        {
            "model_type": "gpt2",
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
        },
        "causal_lm",
        length=1024,
        rows=64,
    ),
    "t5-base": Shape(
        ("google-t5/t5-base", "t5-base"),
        {**_T5, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
        "summarization",
        length=512,
        rows=64,
        changes={"remat": "full"},
    ),
    "t5-3b": Shape(
        ("google-t5/t5-3b", "t5-3b"),
        {**_T5, "d_kv": 128, "d_model": 1024, "d_ff": 16384, "num_layers": 24, "num_heads": 32},
        "summarization",
        length=512,
        rows=64,
        changes=_DEEP,
    ),
    "llama-3-8b": Shape(
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-3.1-8B"),
        {
            **_LLAMA,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        "causal_lm",
        length=2048,
        rows=256,
        changes=_DEEP,
    ),
    "llama-3-70b": Shape(
        ("meta-llama/Meta-Llama-3-70B", "meta-llama/Llama-3.1-70B"),
        {
            **_LLAMA,
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
        },
        "causal_lm",
        length=2048,
        rows=256,
        changes=_DEEP,
    ),
    "gemma-2-2b": Shape(
        ("google/gemma-2-2b",),
        {
            "model_type": "gemma2",
            "vocab_size": 256000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "max_position_embeddings": 8192,
        },
        "causal_lm",
        length=2048,
        rows=256,
        changes=_DEEP,
    ),
}
"""By the name that ``jaxtune plan`` takes."""


def shape_named(name: str) -> Shape:
    """The shape of this name or Hub repository.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    for short, shape in SHAPES.items():
        if name == short or name in shape.hub:
            return shape
    raise ConfigError(f"no shape is called {name!r}; there are {', '.join(SHAPES)}")


def is_shape(name: str) -> bool:
    """Whether ``shape_named`` knows it."""
    return any(name == short or name in shape.hub for short, shape in SHAPES.items())
