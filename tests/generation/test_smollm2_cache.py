"""The cache with a real model: SmolLM2-135M-Instruct."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtune
from tests.sources import SMOLLM2

pytestmark = [pytest.mark.real, pytest.mark.slow]

TEXTS = [
    "The capital of France is Paris, which lies on the Seine.",
    "def add(a, b):\n    return a + b\n",
    "Once upon a time there was a fisherman who lived with his wife in a hut by the sea, and every day he went out.",
]
READ = 6
"""Tokens read one at a time, after those read at once."""


def test_cached_decoding_is_full_recomputation():
    lm = jaxtune.load_pretrained(SMOLLM2, "causal_lm", matmul_precision="highest")
    model, size = lm.model, lm.config.vocab_size
    texts = [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    width = max(map(len, texts))
    tokens, segments = np.zeros((2, len(texts), width), np.int32)
    for row, text in enumerate(texts):
        tokens[row, width - len(text) :], segments[row, width - len(text) :] = text, 1
    positions = np.maximum(np.cumsum(segments, axis=1) - 1, 0).astype(np.int32)
    cache = model.family.empty_cache(lm.config, len(texts), width + 3, jnp.float32)
    extend = jax.jit(lambda params, *given: model.apply({"params": params}, *given, method="extend"))
    read = []
    for begin, end in [(0, width - READ), *((i, i + 1) for i in range(width - READ, width))]:
        part = (a[:, begin:end] for a in (tokens, segments, positions))
        logits, cache = extend(lm.params, *part, cache)
        read.append(np.asarray(logits)[..., :size])
    cached = np.concatenate(read, axis=1)
    for row, text in enumerate(texts):
        anew = np.asarray(lm([text]))[0]
        assert np.abs(cached[row, width - len(text) :] - anew).max() <= 1e-5 * max(1.0, np.abs(anew).max())
