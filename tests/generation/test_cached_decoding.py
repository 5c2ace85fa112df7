"""Decoding with a cache gives the logits of reading everything anew, in every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generation.tiny_models import model_of_case, ragged, writing_cases

LENGTHS = [9, 1, 5, 12]
MORE = 7
"""Tokens read one at a time, after those read at once."""


def close(ours, expected):
    """The bar: 1e-5 × max(1, largest logit), over the words there are."""
    assert np.isfinite(expected).all()
    assert np.abs(ours - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def right_padded(text, length):
    """One row of tokens, and its segment ids."""
    tokens, segments = np.zeros((2, 1, length), np.int32)
    tokens[0, : len(text)], segments[0, : len(text)] = text, 1
    return tokens, segments


@pytest.mark.parametrize("name", writing_cases("causal_lm"))
def test_decoders(name):
    model, params = model_of_case(name)
    size, variables = model.config.vocab_size, {"params": params}
    rng = np.random.default_rng(1)
    prompts, rest = ragged(rng, LENGTHS, size), rng.integers(3, size, (len(LENGTHS), MORE))
    length = max(LENGTHS)
    tokens, segments = np.zeros((2, len(LENGTHS), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :], segments[row, length - len(prompt) :] = prompt, 1
    positions = np.maximum(np.cumsum(segments, axis=1) - 1, 0)
    # More slots than are ever filled: what lies behind must not count.
    cache = model.family.empty_cache(model.config, len(LENGTHS), length + MORE + 5, jnp.float32)
    extend = jax.jit(lambda *given: model.apply(variables, *given, method="extend"))
    first, cache = extend(tokens, segments, positions, cache)
    read = [np.asarray(first)]
    for i in range(MORE):
        at = (np.array(LENGTHS) + i)[:, None]
        step = rest[:, i : i + 1].astype(np.int32)
        logits, cache = extend(step, np.ones_like(step), at.astype(np.int32), cache)
        read.append(np.asarray(logits))
    cached = np.concatenate(read, axis=1)[..., :size]
    anew = jax.jit(lambda *given: model.apply(variables, *given))
    for row, prompt in enumerate(prompts):
        everything, real = right_padded([*prompt, *rest[row]], length + MORE)
        logits = np.asarray(anew(everything, real))[0, : len(prompt) + MORE, :size]
        close(cached[row, length - len(prompt) :], logits)


@pytest.mark.parametrize("name", writing_cases("seq2seq_lm"))
def test_encoder_decoders(name):
    model, params = model_of_case(name)
    size, variables = model.config.vocab_size, {"params": params}
    rng = np.random.default_rng(1)
    prompts, target = ragged(rng, LENGTHS, size), rng.integers(3, size, (len(LENGTHS), 3 + MORE))
    tokens, segments = np.zeros((2, len(LENGTHS), max(LENGTHS) + 3), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], segments[row, : len(prompt)] = prompt, 1
    slots = target.shape[1] + 5
    cache = jax.jit(lambda *given: model.apply(variables, *given, slots, method="start"))(tokens, segments)
    extend = jax.jit(lambda *given: model.apply(variables, *given, method="extend"))
    read = []
    for begin, end in [(0, 3), *((i, i + 1) for i in range(3, 3 + MORE))]:
        step = target[:, begin:end].astype(np.int32)
        logits, cache = extend(step, np.ones_like(step), cache)
        read.append(np.asarray(logits))
    cached = np.concatenate(read, axis=1)[..., :size]
    anew = jax.jit(lambda *given: model.apply(variables, *given))
    for row, prompt in enumerate(prompts):
        written = target[row : row + 1].astype(np.int32)
        logits = anew(*right_padded(prompt, max(LENGTHS)), written, np.ones_like(written))
        close(cached[row], np.asarray(logits)[0, :, :size])
