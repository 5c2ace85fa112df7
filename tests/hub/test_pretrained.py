from __future__ import annotations

import json
import logging

import jax
import numpy as np
import pytest

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.model_config import head_of, read_config
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.saving import save_pretrained

IDS = [[2, 8, 9, 3, 0], [2, 10, 11, 12, 3]]
MASK = [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def leaves(model):
    return jax.tree_util.tree_leaves_with_path(model.params)


def test_hidden_states_and_pooled(make_checkpoint):
    model = load_pretrained(str(make_checkpoint()))
    assert model.head is None
    assert model.labels == ()
    assert model(IDS, MASK).shape == (2, 5, 16)
    assert model.pooled(IDS, MASK).shape == (2, 16)
    assert model(IDS, MASK).dtype == np.float32


def test_padding_changes_nothing_at_real_tokens(make_checkpoint):
    model = load_pretrained(make_checkpoint())
    other = np.array(IDS)
    other[0, 4] = 7
    np.testing.assert_array_equal(model(IDS, MASK)[0, :4], model(other, MASK)[0, :4])
    np.testing.assert_allclose(model(IDS, MASK)[0, :4], model([IDS[0][:4]])[0], atol=1e-6)


def test_a_new_head_is_said_and_follows_the_seed(make_checkpoint, caplog):
    folder = make_checkpoint()
    one, again, other = (
        load_pretrained(folder, "classification", labels=("a", "b"), seed=s) for s in (0, 0, 1)
    )
    assert "lacks head/classifier/kernel, head/classifier/bias: newly initialised" in caplog.text
    kernels = [np.asarray(m.params["head"]["classifier"]["kernel"]) for m in (one, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    # initializer_range of this checkpoint is 0.2
    assert 0.1 < kernels[0].std() < 0.3
    assert one(IDS, MASK).shape == (2, 2)


def test_the_checkpoints_own_head_and_labels(make_checkpoint, make_tensors, tiny_config, caplog):
    config = tiny_config | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"10": "k", **{str(i): chr(97 + i) for i in range(10)}},
    }
    folder = make_checkpoint(config=config, tensors=make_tensors(prefix="bert.", labels=11))
    model = load_pretrained(folder, "auto")
    assert model.labels == tuple("abcdefghijk")
    assert model(IDS).shape == (2, 11)
    assert caplog.text == ""
    plain = load_pretrained(folder)
    assert plain.head is None
    assert "has classifier.bias, classifier.weight, which this model does not use" in caplog.text


def test_other_names_for_the_checkpoints_labels_are_said(make_checkpoint, make_tensors, tiny_config, caplog):
    config = tiny_config | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "no", "1": "yes"},
    }
    folder = make_checkpoint(config=config, tensors=make_tensors(prefix="bert.", labels=2))
    load_pretrained(folder, "classification", labels=("no", "yes"))
    assert caplog.text == ""
    load_pretrained(folder, "classification", labels=("yes", "no"))
    assert "['no', 'yes'] are taken as ['yes', 'no']" in caplog.text


def test_a_head_of_another_size_needs_a_word(make_checkpoint, make_tensors):
    folder = make_checkpoint(tensors=make_tensors(prefix="bert.", labels=3))
    with pytest.raises(WeightsError, match="new_head=True"):
        load_pretrained(folder, "classification", labels=("a", "b"))
    assert load_pretrained(folder, "classification", labels=("a", "b"), new_head=True)(IDS).shape == (2, 2)


def test_labels_without_any_are_hugging_faces_default(make_checkpoint):
    assert load_pretrained(make_checkpoint(), "classification").labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("raw", "head"),
    [
        ({}, None),
        ({"architectures": ["BertModel"]}, None),
        ({"architectures": ["BertForMaskedLM"]}, "mlm"),
        ({"architectures": ["BertForSequenceClassification"]}, "classification"),
        ({"architectures": ["BertForSequenceClassification"], "num_labels": 1}, "regression"),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x"}}, "regression"),
        ({"architectures": ["BertForSequenceClassification"], "problem_type": "regression"}, "regression"),
    ],
)
def test_head_of(raw, head):
    assert head_of({"model_type": "bert", **raw}) == head


def test_scanned_layers_give_the_same_numbers(make_checkpoint):
    folder = make_checkpoint()
    plain = load_pretrained(folder, "classification", labels=("a", "b"))
    scanned = load_pretrained(folder, "classification", labels=("a", "b"), scan_layers=True, remat="full")
    np.testing.assert_allclose(plain(IDS, MASK), scanned(IDS, MASK), atol=1e-6)
    assert len(leaves(scanned)) < len(leaves(plain))


def test_a_checkpoint_without_pooler_gets_one(make_checkpoint, make_tensors, caplog):
    tensors = {name: tensor for name, tensor in make_tensors().items() if "pooler" not in name}
    model = load_pretrained(make_checkpoint(tensors=tensors), "regression")
    assert "backbone/pooler/kernel" in caplog.text
    assert model(IDS).shape == (2, 1)


def test_precision_and_dropout(make_checkpoint):
    folder = make_checkpoint()
    full, half = load_pretrained(folder), load_pretrained(folder, precision="bfloat16", dropout=0.5)
    assert half(IDS).dtype == np.float32
    assert all(leaf.dtype == np.float32 for _, leaf in leaves(half))
    difference = np.abs(full(IDS) - half(IDS)).max()
    assert 1e-4 < difference < 0.2
    assert (half.config.hidden_dropout_prob, half.config.attention_probs_dropout_prob) == (0.5, 0.5)
    with pytest.raises(ValueError, match="float32, bfloat16"):
        load_pretrained(folder, precision="int8")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (([[1, 60]],), "0 to 59"),
        (([[1, -1]],), "0 to 59"),
        ((np.ones((1, 41)),), "41 long; the model reads 40"),
        (([1, 2],), r"expected \[batch, sequence\]"),
        (([[1, 2]], [[1]]), "attention_mask has shape"),
        (([[1, 2]], None, [[1]]), "token_type_ids has shape"),
    ],
)
def test_inputs_that_have_no_embedding_are_refused(make_checkpoint, given, match):
    with pytest.raises(ValueError, match=match):
        load_pretrained(make_checkpoint())(*given)


def test_the_tokenizer_comes_along(make_checkpoint):
    encoded = load_pretrained(make_checkpoint()).tokenizer(["good film", "bad"], padding=True)
    assert encoded["input_ids"] == [[2, 31, 33, 3], [2, 32, 3, 0]]


def test_a_checkpoint_without_tokenizer_loads_until_it_is_asked_for(make_checkpoint):
    model = load_pretrained(make_checkpoint(tokenizer=False))
    assert model(IDS).shape == (2, 5, 16)
    with pytest.raises(SourceError, match="holds no tokenizer"):
        _ = model.tokenizer


def test_a_damaged_tokenizer_is_named(make_checkpoint):
    folder = make_checkpoint()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(SourceError, match=f"tokenizer in {folder} cannot be read"):
        _ = load_pretrained(folder).tokenizer


def test_another_architecture_lists_the_supported(make_checkpoint, tiny_config):
    for config in (tiny_config | {"model_type": "gpt_j"}, {"hidden_size": 16}):
        folder = make_checkpoint(f"c{len(config)}", config=config)
        with pytest.raises(WeightsError, match=r"config\.json.*supported: .*bert"):
            load_pretrained(folder)


def test_an_unsupported_option_is_named(make_checkpoint, tiny_config):
    folder = make_checkpoint(config=tiny_config | {"position_embedding_type": "relative_key"})
    with pytest.raises(WeightsError, match="position_embedding_type"):
        load_pretrained(folder)


def test_a_bad_config_file_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1,\n}')
    with pytest.raises(SourceError, match=r"config\.json is not valid JSON: .*line 2"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(SourceError, match="expected an object"):
        read_config(tmp_path)


def test_a_run_directory_gives_its_best_model(make_checkpoint, tmp_path):
    model = load_pretrained(make_checkpoint(), "classification", labels=("bad", "good"))
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("version: 1\n")
    save_pretrained(run / "best", model)
    best = load_pretrained(run, "auto")
    assert (best.head, best.labels) == ("classification", ("bad", "good"))
    np.testing.assert_array_equal(best(IDS, MASK), model(IDS, MASK))


def test_neither_torch_nor_tensorflow_is_imported(make_checkpoint, python):
    code = """
import sys
from jaxtune.hub.pretrained import load_pretrained
load_pretrained(sys.argv[1]).tokenizer
print([name for name in ("torch", "tensorflow") if name in sys.modules])
"""
    out, err = python(code, make_checkpoint()).communicate(timeout=120)
    assert out.strip() == "[]", err
    assert "PyTorch" not in err


def test_the_log_says_each_thing_once(make_checkpoint, caplog):
    with caplog.at_level(logging.INFO):
        load_pretrained(make_checkpoint(), "regression")
    assert len([r for r in caplog.records if "newly initialised" in r.message]) == 1


def test_config_json_is_read_as_utf8(make_checkpoint, tiny_config):
    folder = make_checkpoint()
    (folder / "config.json").write_bytes(json.dumps(tiny_config | {"x": "é"}, ensure_ascii=False).encode())
    assert load_pretrained(folder).raw_config["x"] == "é"
