"""Calling what ``load_pretrained`` gives: shapes per head, what is refused, the vocabulary's end."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxtune.hub.description import read_description
from jaxtune.hub.model_config import head_of
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.saving import save_pretrained
from tests.hub.families import ALL, BART, BERT_MLM, GPT2, LLAMA, T5, write_family

IDS = [[5, 8, 9, 3, 0], [5, 10, 11, 12, 3]]
MASK = [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize(("raw", "head"), [(BERT_MLM, "mlm"), (GPT2, "causal_lm"), (LLAMA, "causal_lm")])
def test_logits_over_the_vocabulary(tmp_path, raw, head):
    lm = load_pretrained(write_family(tmp_path / "in", raw), "auto")
    assert lm.head == head
    logits = lm(IDS, MASK)
    assert logits.shape == (2, 5, 60)  # not the padded 128
    assert logits.dtype == np.float32
    assert np.abs(logits).max() < 1e3
    padded = lm.model.apply({"params": lm.params}, np.array(IDS), np.array(MASK))
    assert padded.shape == (2, 5, 128)
    np.testing.assert_allclose(logits, padded[..., :60], atol=1e-5)


@pytest.mark.parametrize(
    ("head", "labels", "shape"),
    [
        ("classification", ("a", "b", "c"), (2, 3)),
        ("regression", (), (2, 1)),
        ("token_classification", ("O", "B", "I"), (2, 5, 3)),
        ("span", (), (2, 5, 2)),
        ("mlm", (), (2, 5, 60)),
        (None, (), (2, 5, 16)),
    ],
)
def test_shapes_of_every_head(make_checkpoint, head, labels, shape):
    model = load_pretrained(make_checkpoint(), head, labels=labels)
    assert model(IDS, MASK).shape == shape
    assert model.labels == labels


def test_labels_of_tokens_are_saved_and_read(make_checkpoint, tmp_path):
    model = load_pretrained(make_checkpoint(), "token_classification", labels=("O", "B", "I"))
    save_pretrained(tmp_path / "out", model)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {"0": "O", "1": "B", "2": "I"}
    assert "problem_type" not in config
    again = load_pretrained(tmp_path / "out", "auto")
    assert (again.head, again.labels) == ("token_classification", ("O", "B", "I"))
    np.testing.assert_array_equal(again(IDS, MASK), model(IDS, MASK))


@pytest.mark.parametrize("raw", [T5, BART])
def test_an_encoder_decoder(tmp_path, raw):
    lm = load_pretrained(write_family(tmp_path / "in", raw), "auto")
    assert lm.head == "seq2seq_lm"
    target = [[0, 7, 8], [0, 9, 10]]
    logits = lm(IDS, MASK, target)
    assert logits.shape == (2, 3, 60)
    np.testing.assert_array_equal(logits, lm(IDS, attention_mask=MASK, decoder_input_ids=target))
    # The decoder is causal, and padding of either side changes nothing.
    np.testing.assert_allclose(logits[:, :2], lm(IDS, MASK, [row[:2] for row in target]), atol=1e-5)
    np.testing.assert_allclose(logits[:1], lm([IDS[0][:4]], None, target[:1]), atol=1e-5)
    masked = lm(IDS, MASK, [[0, 7, 8], [0, 9, 50]], decoder_attention_mask=[[1, 1, 1], [1, 1, 0]])
    np.testing.assert_allclose(logits[1, :2], masked[1, :2], atol=1e-5)
    with pytest.raises(ValueError, match="needs decoder_input_ids as well"):
        lm(IDS, MASK)
    with pytest.raises(ValueError, match="input_ids has 2 rows, decoder_input_ids 1"):
        lm(IDS, MASK, target[:1])
    with pytest.raises(ValueError, match="decoder_input_ids go from 0 to 60; the model knows 0 to 59"):
        lm(IDS, MASK, [[0, 60], [0, 1]])
    with pytest.raises(ValueError, match="no pooled vector"):
        lm.pooled(IDS)


def test_a_context_without_limit(tmp_path):
    assert load_pretrained(write_family(tmp_path / "t5", T5), "auto")([[1] * 100], None, [[0]]).shape == (
        1,
        1,
        60,
    )
    for raw in (GPT2, LLAMA):
        lm = load_pretrained(write_family(tmp_path / raw["model_type"], raw), "auto")
        with pytest.raises(ValueError, match="input_ids are 41 long; the model reads 40 at most"):
            lm([[1] * 41])
    with pytest.raises(ValueError, match="decoder_input_ids are 41 long"):
        load_pretrained(write_family(tmp_path / "bart", BART), "auto")([[1]], None, [[1] * 41])


def test_token_types_that_have_no_embedding_are_refused(make_checkpoint):
    with pytest.raises(ValueError, match="token_type_ids go from 0 to 2; the model knows 0 to 1"):
        load_pretrained(make_checkpoint())([[1, 2]], None, [[0, 2]])


@pytest.mark.parametrize("family", ALL)
def test_auto_finds_the_head(family):
    heads = {
        "bert": "mlm",
        "gpt2": "causal_lm",
        "llama": "causal_lm",
        "t5": "seq2seq_lm",
        "bart": "seq2seq_lm",
    }
    assert head_of(ALL[family]) == heads[family]


def test_scanned_layers_give_the_same_logits(tmp_path):
    for raw in (GPT2, LLAMA, T5):
        folder = write_family(tmp_path / raw["model_type"], raw)
        more = ([[0, 7]] * 2,) if raw is T5 else ()
        plain, scanned = load_pretrained(folder, "auto"), load_pretrained(folder, "auto", scan_layers=True)
        np.testing.assert_allclose(plain(IDS, MASK, *more), scanned(IDS, MASK, *more), atol=2e-5)
        assert len(jax.tree.leaves(scanned.params)) < len(jax.tree.leaves(plain.params))


# A tokenizer with more tokens than the model has embeddings


def test_a_tokenizer_of_a_larger_vocabulary_is_said_and_its_tokens_refused(make_checkpoint, caplog):
    folder = make_checkpoint()
    model = load_pretrained(folder)
    model.tokenizer.add_tokens([f"new{i}" for i in range(40)])
    model.tokenizer.save_pretrained(folder)
    model = load_pretrained(folder)
    assert model.tokenizer("good new39")["input_ids"] == [2, 31, 73, 3]
    said = (
        "the tokenizer has 74 tokens and the model 60 embeddings; a text with a token from 60 on is refused"
    )
    assert said in caplog.text
    with pytest.raises(ValueError, match="input_ids go from 2 to 73; the model knows 0 to 59"):
        model([[2, 31, 73, 3]])
    assert model([[2, 31, 3]]).shape == (1, 3, 16)
    caplog.clear()
    read_description(str(folder))
    assert said in caplog.text


def test_a_tokenizer_that_fits_is_not_worth_a_word(make_checkpoint, caplog):
    assert len(load_pretrained(make_checkpoint()).tokenizer) < 60
    assert caplog.text == ""


# Generation


def test_generate_continues_prompts_of_ids(tmp_path):
    lm = load_pretrained(write_family(tmp_path / "in", LLAMA), "auto")
    found = lm.generate([[5, 8], [7]], max_new_tokens=3, return_tokens=True)
    for prompt, tokens in zip(([5, 8], [7]), found, strict=True):
        for i, token in enumerate(tokens):
            assert token == int(np.argmax(lm([[*prompt, *tokens[:i]]])[0, -1]))
    assert [len(tokens) for tokens in found] == [3, 3]


def test_generate_reads_the_checkpoints_generation_settings(tmp_path):
    folder = write_family(tmp_path / "in", LLAMA)
    free = load_pretrained(folder, "auto").generate([[5, 8]], max_new_tokens=6, return_tokens=True)[0]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": free[1]}))
    ended = load_pretrained(folder, "auto").generate([[5, 8]], max_new_tokens=6, return_tokens=True)[0]
    assert ended == free[: free.index(free[1]) + 1]
