"""Gradients of a task's loss, tensor by tensor, against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtune
from tests.models.family_cases_all import CASES, GRADIENTS
from tests.models.family_golden import FamilyGolden, check_gradients, to_file


def logits_of(lm, inputs):
    """Logits as a function of the parameters; of a classifier one row per example."""
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    if "decoder_input_ids" in inputs:
        target = inputs["decoder_input_ids"]
        arguments = (tokens, mask, target, np.ones_like(target))
    else:
        arguments = (tokens, mask, None, inputs.get("token_type_ids"))

    def logits(params):
        out = lm.model.apply({"params": params}, *arguments)
        return out[:, 0] if lm.head == "classification" else out

    return logits


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_torch(name, tmp_path):
    golden = FamilyGolden(CASES[name])
    golden.write(tmp_path)
    lm = jaxtune.load_pretrained(tmp_path, golden.case.head, matmul_precision="highest")
    labels, logits = jnp.asarray(golden["labels"]), logits_of(lm, golden.inputs)

    def loss(params):
        chances = jax.nn.log_softmax(logits(params))
        picked = jnp.take_along_axis(chances, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        return -(picked * (labels >= 0)).sum() / (labels >= 0).sum()

    value, gradients = jax.jit(jax.value_and_grad(loss))(lm.params)
    assert float(value) == pytest.approx(float(golden["loss"]), abs=1e-5)
    names = set(map(str, golden["names"]))
    check_gradients(golden, to_file(gradients, lm.config, lm.head, names))
