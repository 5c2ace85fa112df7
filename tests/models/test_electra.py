"""ELECTRA: embeddings of another width, and the discriminator's file."""

import jax
import numpy as np
import pytest

import jaxtune
from jaxtune.models.families.electra import ElectraConfig
from jaxtune.models.model import build_model, init_params
from tests.models.family_cases import write_folder
from tests.models.family_cases_all import CASES
from tests.models.family_cases_encoders import ELECTRA
from tests.models.family_golden import FamilyGolden


def shapes(**changes):
    model = build_model(ElectraConfig.from_hf({**ELECTRA, **changes}), "mlm")
    return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def test_embeddings_of_another_width_are_projected():
    params = shapes()
    embeddings = params["backbone"]["embeddings"]
    assert embeddings["word"]["embedding"].shape == (128, 16)
    assert embeddings["norm"]["scale"].shape == (16,)
    assert embeddings["projection"]["kernel"].shape == (16, 32)
    assert params["head"]["dense"]["kernel"].shape == (32, 16)
    assert "projection" not in shapes(embedding_size=32)["backbone"]["embeddings"]
    assert ElectraConfig.from_hf({}) == ElectraConfig()


def test_a_discriminators_own_head_stays_unused(tmp_path):
    case = CASES["electra_classification"]
    golden = FamilyGolden(case)
    own = {"discriminator_predictions.dense.weight": (32, 32)}
    write_folder(tmp_path, case, {**golden.shapes, **own})
    lm = jaxtune.load_pretrained(tmp_path, case.head, matmul_precision="highest")
    assert lm.report.unexpected == tuple(own)
    assert not lm.report.missing
    np.testing.assert_allclose(lm(**golden.inputs), golden["out"], atol=2e-5)


@pytest.mark.parametrize(
    ("option", "value"), [("is_decoder", True), ("hidden_act", "mish"), ("tie_word_embeddings", False)]
)
def test_options_that_change_the_network_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r} is not supported"):
        ElectraConfig.from_hf({option: value})
