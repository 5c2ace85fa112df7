"""Label smoothing over a padded vocabulary equals torch's over the words there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.labels import IGNORED
from jaxtune.tasks.causal_lm import CausalLM

LOGITS = [[2.0, -1.0, 0.5, 0.0, 3.0], [0.0, 1.0, -2.0, 4.0, -0.5], [1.5, 1.5, -1.5, 0.25, 0.75]]
LABELS = [4, 0, IGNORED]
# torch.nn.functional.cross_entropy(logits, labels, label_smoothing=…, reduction="sum") in float64 (torch 2.13), with
# the labels 4, 0 and -100: loss and gradient.
TORCH = {
    0.0: (
        4.495962966329801,
        [
            [0.2423341035, 0.0120651046, 0.0540720473, 0.0327963545, -0.34126761],
            [-0.9830675784, 0.0460270941, 0.0022915541, 0.9244788974, 0.0102700329],
            [0.0] * 5,
        ],
    ),
    0.1: (
        4.655962966329801,
        [
            [0.2223341035, -0.0079348954, 0.0340720473, 0.0127963545, -0.26126761],
            [-0.9030675784, 0.0260270941, -0.0177084459, 0.9044788974, -0.0097299671],
            [0.0] * 5,
        ],
    ),
    0.4: (
        5.135962966329801,
        [
            [0.1623341035, -0.0679348954, -0.0259279527, -0.0472036455, -0.02126761],
            [-0.6630675784, -0.0339729059, -0.0777084459, 0.8444788974, -0.0697299671],
            [0.0] * 5,
        ],
    ),
}


@pytest.mark.parametrize("smoothing", TORCH)
def test_smoothing_spreads_over_the_words_and_not_over_padding(smoothing):
    """``vocabulary_logits`` gives the columns that pad a table the most negative number."""
    task = CausalLM("text", 8, smoothing, vocab_size=5)
    padded = np.full((1, 3, 128), np.finfo(np.float32).min, np.float32)
    padded[0, :, :5] = LOGITS
    batch = {"labels": jnp.array([LABELS])}

    def loss(logits):
        return task.loss(logits, batch)["loss"]

    total, weight = loss(padded)
    gradient = np.asarray(jax.grad(lambda logits: loss(logits)[0])(jnp.asarray(padded)))
    expected, slopes = TORCH[smoothing]
    assert float(weight) == 2
    assert float(total) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient[0, :, :5], slopes, atol=1e-6)
    assert not gradient[0, :, 5:].any()
