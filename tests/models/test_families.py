"""Every family against torch's numbers, padded and packed."""

import jax
import numpy as np
import pytest

import jaxtune
from tests.models.family_cases import LENGTHS, TARGET_LENGTHS, real_rows
from tests.models.family_cases_all import CASES
from tests.models.family_golden import FamilyGolden

CLOSE = 2e-5
PACKED = [name for name, case in CASES.items() if case.packs]


def load(name, folder):
    """The golden of a case, and the checkpoint it was made of, loaded."""
    golden = FamilyGolden(CASES[name])
    golden.write(folder)
    return golden, jaxtune.load_pretrained(folder, CASES[name].head, matmul_precision="highest")


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_torch(name, tmp_path):
    golden, lm = load(name, tmp_path)
    case, inputs = golden.case, golden.inputs
    assert not lm.report.missing
    assert set(lm.report.unexpected) <= set(case.unused)
    out = real_rows(case, np.asarray(lm(**inputs)))
    assert out.shape == golden["out"].shape
    np.testing.assert_allclose(out, golden["out"], atol=CLOSE, rtol=0)
    # What lies in the padding changes nothing.
    other = np.where(inputs["attention_mask"] == 1, inputs["input_ids"], 7)
    again = real_rows(case, np.asarray(lm(**inputs | {"input_ids": other})))
    np.testing.assert_array_equal(again, out)


def packed(ids, lengths, total):
    """Examples side by side in one row: tokens, segment ids, positions, and where each starts."""
    tokens, segments, positions = (np.zeros((1, total), np.int32) for _ in range(3))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int32)[None]
    for n, (start, length) in enumerate(zip(starts[0], lengths)):
        span = slice(start, start + length)
        tokens[0, span], segments[0, span], positions[0, span] = ids[n, :length], n + 1, np.arange(length)
    return tokens, segments, positions, starts


@pytest.mark.parametrize("name", PACKED)
def test_packed_examples_do_not_see_each_other(name, tmp_path):
    golden, lm = load(name, tmp_path)
    inputs, case = golden.inputs, golden.case
    tokens, segments, positions, starts = packed(inputs["input_ids"], LENGTHS, sum(LENGTHS) + 3)
    arguments = {"positions": positions}
    if case.seq2seq:
        target = packed(inputs["decoder_input_ids"], TARGET_LENGTHS, sum(TARGET_LENGTHS) + 2)
        arguments |= dict(zip(("decoder_tokens", "decoder_segment_ids", "decoder_positions"), target))
    elif case.head == "classification":
        arguments["starts"] = starts
    if "token_type_ids" in inputs:
        arguments["token_types"] = packed(inputs["token_type_ids"], LENGTHS, tokens.shape[1])[0]
    run = jax.jit(lambda params: lm.model.apply({"params": params}, tokens, segments, **arguments))
    out = np.asarray(run(lm.params))[0]
    if case.head == "classification":
        expected = golden["out"]
    else:
        vocab = case.config["vocab_size"]
        assert np.isfinite(out).all()
        assert (out[:, vocab:] < -1e4).all(), "columns that pad the vocabulary are never likely"
        out, expected = out[: len(golden["out"]), :vocab], golden["out"]
    np.testing.assert_allclose(out, expected, atol=CLOSE, rtol=0)
