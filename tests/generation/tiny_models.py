"""Models small enough to generate in milliseconds, and a tokenizer of bytes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast

from jaxtune.models.families.gpt2 import GPT2Config
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import FAMILIES
from tests.models.family_cases_all import CASES

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
END = len(BYTES)
CONFIG = GPT2Config(
    vocab_size=END + 1,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=128,
    initializer_range=0.3,
)
TEMPLATE = (
    "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """One token per byte, and one that ends texts."""
    vocabulary: dict[str, int] = {byte: i for i, byte in enumerate(BYTES)}
    tokenizer = Tokenizer(token_models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{"eos_token": "<|end|>", "bos_token": "<|end|>", **special}
    )


def tiny_gpt2(seed: int = 0, **changes: Any) -> tuple[Any, Any]:
    """A random decoder over bytes, and its parameters."""
    model = build_model(dataclasses.replace(CONFIG, **changes), "causal_lm")
    return model, init_params(model, jax.random.key(seed))


def random_model(config: Any, head: str, seed: int = 0) -> tuple[Any, Any]:
    """A model of any family with parameters wide enough for every option to show."""
    model = build_model(config, head)
    leaves, tree = jax.tree.flatten(init_params(model, jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    widened = [leaf + jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype) for leaf in leaves]
    return model, jax.tree.unflatten(tree, widened)


def writing_cases(head: str) -> list[str]:
    """Names of the small configurations with this head: of every family, and of what differs within one."""
    return [n for n, c in CASES.items() if c.head == head and c.packs and c.model_type in FAMILIES]


def model_of_case(name: str) -> tuple[Any, Any]:
    """The model of a case of ``family_cases``, with other weights."""
    case = CASES[name]
    assert case.head is not None
    config = FAMILIES[case.model_type].config_class.from_hf(case.config)
    return random_model(config, case.head)


@functools.cache
def _whole(model: Any) -> Any:
    return jax.jit(lambda params, *given: model.apply({"params": params}, *given))


def next_logits(model: Any, params: Any, text: list[int]) -> np.ndarray:
    """Logits of the word after a text of at most 32, read anew; of the words there are."""
    tokens, segments = np.zeros((2, 1, 32), np.int32)
    tokens[0, : len(text)], segments[0, : len(text)] = text, 1
    logits = _whole(model)(params, tokens, segments)
    return np.asarray(logits)[0, len(text) - 1, : model.config.vocab_size]


def ragged(rng: np.random.Generator, lengths: list[int], size: int, least: int = 3) -> list[list[int]]:
    """Prompts of the given lengths."""
    return [rng.integers(least, size, length).tolist() for length in lengths]
