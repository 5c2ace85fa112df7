"""Checkpoints that transformers' own Flax models wrote (tests/goldens/make_flax_goldens.py) load and compute the same."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxtune

FOLDER = Path(__file__).parents[1] / "goldens" / "flax"
CASES = sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", CASES)
def test_old_flax_weights_give_the_same_logits(name):
    folder = FOLDER / name
    lm = jaxtune.load_pretrained(folder, head="auto", matmul_precision="highest")
    assert not lm.report.missing
    assert not lm.report.unexpected
    z = np.load(folder / "expected.npz")
    inputs = {key: z[key] for key in z.files if key != "logits"}
    ours, theirs = np.asarray(lm(**inputs)), z["logits"]
    if "decoder_input_ids" not in inputs and theirs.ndim == 3:
        real = inputs["attention_mask"] == 1
        ours, theirs = ours[real], theirs[real]
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert_mlm", "gpt2", "t5"])
def test_saved_again_they_are_safetensors_with_todays_names(name, tmp_path):
    lm = jaxtune.load_pretrained(FOLDER / name, head="auto")
    jaxtune.save_pretrained(tmp_path / "out", lm)
    again = jaxtune.load_pretrained(tmp_path / "out", head="auto")
    assert not again.report.missing
    ids = np.arange(3, 9)[None]
    inputs = (ids, None, ids) if name == "t5" else (ids,)
    np.testing.assert_array_equal(again(*inputs), lm(*inputs))
    architecture = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"][0]
    assert not architecture.startswith("Flax")
