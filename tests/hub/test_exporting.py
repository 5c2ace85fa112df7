"""Import and export keep what a checkpoint has: names, types, bits, and what the model does not use."""

from __future__ import annotations

import json
import logging

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.saving import save_pretrained
from tests.hub.families import (
    ALL,
    BART,
    BERT_MLM,
    GPT2,
    LLAMA,
    T5,
    change_config,
    rewrite,
    tensors_of,
    write_family,
)

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.shape == other[name].shape, name
        assert tensor.tobytes() == other[name].tobytes(), name


def leaves(model):
    return jax.tree.leaves(model.params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ALL)
def test_import_and_export_keep_every_bit(tmp_path, family, dtype):
    folder = write_family(tmp_path / "in", ALL[family])
    rewrite(folder, {name: tensor.astype(dtype) for name, tensor in tensors_of(folder).items()})
    model = load_pretrained(folder, "auto")
    assert model.report.missing == model.report.unexpected == ()
    save_pretrained(tmp_path / "out", model)
    assert_same(tensors_of(folder), tensors_of(tmp_path / "out"))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("param_dtype", ["bfloat16", "auto"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_parameters_of_another_type_or_stacked_are_still_the_same_bits(tmp_path, param_dtype, scan_layers):
    folder = write_family(tmp_path / "in", LLAMA)
    model = load_pretrained(folder, "auto", param_dtype=param_dtype, scan_layers=scan_layers)
    assert {leaf.dtype.name for leaf in leaves(model)} == {
        "bfloat16" if param_dtype == "bfloat16" else "float32"
    }
    save_pretrained(tmp_path / "out", model)
    assert_same(tensors_of(folder), tensors_of(tmp_path / "out"))


def old_bert(folder):
    """As a checkpoint converted from TensorFlow: old norms, tied tensors twice, buffers, another head."""
    tensors = {}
    for name, tensor in tensors_of(folder).items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        tensors[name] = tensor.astype(np.float16)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()
    tensors["bert.embeddings.position_ids"] = np.arange(40).reshape(1, 40)
    tensors["cls.seq_relationship.weight"] = np.full((2, 16), 0.1)
    tensors["mask"] = np.array([True, False])
    return rewrite(folder, tensors)


def test_what_the_model_does_not_use_is_carried_through(tmp_path, caplog):
    folder = old_bert(write_family(tmp_path / "in", BERT_MLM))
    model = load_pretrained(folder, "auto")
    assert model.report.unexpected == ("cls.seq_relationship.weight", "mask")
    save_pretrained(tmp_path / "out", model)
    assert_same(tensors_of(folder), tensors_of(tmp_path / "out"))


def test_a_backbone_alone_keeps_the_head_and_its_architecture(tmp_path):
    folder = old_bert(write_family(tmp_path / "in", BERT_MLM))
    save_pretrained(tmp_path / "out", load_pretrained(folder))
    out = tensors_of(tmp_path / "out")
    assert_same(tensors_of(folder), {name: t for name, t in out.items() if "pooler" not in name})
    assert {name for name in out if "pooler" in name} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]


def test_modern_names(tmp_path):
    modern = write_family(tmp_path / "in", BERT_MLM)
    want = {name: tensor.astype(np.float16) for name, tensor in tensors_of(modern).items()}
    save_pretrained(tmp_path / "out", load_pretrained(old_bert(modern), "auto"), modern_names=True)
    assert_same(want, tensors_of(tmp_path / "out"))


@pytest.mark.parametrize(
    ("dtype", "name"), [("float32", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")]
)
@pytest.mark.parametrize("modern_names", [False, True])
def test_dtype_converts_all_floats_and_is_said_in_the_config(tmp_path, dtype, name, modern_names):
    folder = old_bert(write_family(tmp_path / "in", BERT_MLM))
    save_pretrained(tmp_path / "out", load_pretrained(folder, "auto"), dtype=dtype, modern_names=modern_names)
    before, after = tensors_of(folder), tensors_of(tmp_path / "out")
    if not modern_names:
        assert before.keys() == after.keys()
        assert after["mask"].dtype == np.bool_
        assert after["bert.embeddings.position_ids"].dtype == np.int64
    floats = {t.dtype.name for t in after.values() if t.dtype.name not in ("bool", "int64")}
    assert floats == {name}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == name
    words = "bert.embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(after[words], before[words].astype(np.float32).astype(after[words].dtype))


def test_an_overflow_is_named(tmp_path, caplog):
    folder = write_family(tmp_path / "in", LLAMA)
    tensors = tensors_of(folder)
    tensors["model.norm.weight"][3] = 1e6
    model = load_pretrained(rewrite(folder, tensors), "auto")
    save_pretrained(tmp_path / "out", model, dtype="float16")
    assert "float16: finite values became infinite in model.norm.weight" in caplog.text
    assert np.isinf(tensors_of(tmp_path / "out")["model.norm.weight"]).sum() == 1
    caplog.clear()
    save_pretrained(tmp_path / "out2", model, dtype="bfloat16")
    assert "infinite" not in caplog.text


def test_an_unknown_dtype_is_refused(tmp_path):
    model = load_pretrained(write_family(tmp_path / "in", LLAMA), "auto")
    with pytest.raises(ValueError, match="unknown dtype 'int8'; expected one of float32, float16, bfloat16"):
        save_pretrained(tmp_path / "out", model, dtype="int8")
    assert not (tmp_path / "out").exists()


def test_trained_parameters_are_written_in_the_types_of_the_checkpoint(tmp_path):
    """What was trained changes everywhere it is stored, also where it is tied; the rest keeps its bits."""
    folder = old_bert(write_family(tmp_path / "in", BERT_MLM))
    model = load_pretrained(folder, "auto")
    words = model.params["backbone"]["embeddings"]["word"]
    words["embedding"] = words["embedding"].at[:60].add(1.0)
    save_pretrained(tmp_path / "out", model)
    before, after = tensors_of(folder), tensors_of(tmp_path / "out")
    names = ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")
    want = (before[names[0]].astype(np.float32) + 1).astype(np.float16)
    for name in names:
        assert not np.array_equal(before.pop(name), want)
        np.testing.assert_array_equal(after.pop(name), want)
    assert_same(before, after)


@pytest.mark.parametrize("from_a_file", [True, False])
def test_constants_that_todays_class_stores_are_written(tmp_path, from_a_file):
    """Pegasus stores its sinusoids, which are computed here."""
    raw = BART | {"model_type": "pegasus", "architectures": ["PegasusForConditionalGeneration"]}
    folder = write_family(tmp_path / "in", raw)
    if from_a_file:
        save_pretrained(tmp_path / "out", load_pretrained(folder, "auto"), modern_names=True, dtype="float16")
    else:
        (tmp_path / "out").symlink_to(folder)  # written without an origin
    tensors = tensors_of(tmp_path / "out")
    for side in ("encoder", "decoder"):
        table = tensors[f"model.{side}.embed_positions.weight"]
        assert table.dtype == (np.float16 if from_a_file else np.float32)
        position = 3 / 10000 ** (np.arange(0, 16, 2) / 16)
        np.testing.assert_allclose(table[3], [*np.sin(position), *np.cos(position)], atol=1e-3)
    report = load_pretrained(folder, "auto").report
    assert report.missing == report.unexpected == ()


def test_fused_parts_are_split_and_joined(tmp_path):
    folder = write_family(tmp_path / "in", GPT2)
    model = load_pretrained(folder, "auto")
    fused = tensors_of(folder)["transformer.h.1.attn.c_attn.weight"]
    bias = tensors_of(folder)["transformer.h.1.attn.c_attn.bias"]
    attention = model.params["backbone"]["layers"]["1"]["attention"]
    assert fused.shape == (16, 48)
    for i, name in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(attention[name]["kernel"], fused[:, 16 * i : 16 * i + 16])
        np.testing.assert_array_equal(attention[name]["bias"], bias[16 * i : 16 * i + 16])
    attention["key"]["kernel"] = attention["key"]["kernel"] * 2
    save_pretrained(tmp_path / "out", model)
    after = tensors_of(tmp_path / "out")["transformer.h.1.attn.c_attn.weight"]
    np.testing.assert_array_equal(
        after, np.concatenate([fused[:, :16], 2 * fused[:, 16:32], fused[:, 32:]], 1)
    )


def test_fused_rows_are_split_and_joined(tmp_path):
    """A fused torch Linear [3·out, in], as ModernBERT's Wqkv."""
    raw = {
        "model_type": "modernbert",
        "architectures": ["ModernBertForMaskedLM"],
        "vocab_size": 60,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
    }
    folder = write_family(tmp_path / "in", raw)
    model = load_pretrained(folder, "auto")
    fused = tensors_of(folder)["model.layers.1.attn.Wqkv.weight"]
    attention = model.params["backbone"]["layers"]["1"]["attention"]
    assert fused.shape == (48, 16)
    for i, name in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(attention[name]["kernel"], fused[16 * i : 16 * i + 16].T)
    save_pretrained(tmp_path / "out", model)
    assert_same(tensors_of(folder), tensors_of(tmp_path / "out"))


def test_a_tied_tensor_is_found_under_its_other_names(tmp_path, caplog):
    folder = write_family(tmp_path / "in", T5)
    tensors = tensors_of(folder)
    plain = load_pretrained(folder, "auto")
    tensors["decoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    model = load_pretrained(rewrite(folder, tensors), "auto")
    assert model.report.missing == model.report.unexpected == ()
    for one, other in zip(leaves(plain), leaves(model), strict=True):
        np.testing.assert_array_equal(one, other)
    save_pretrained(tmp_path / "out", model)
    assert_same(tensors, tensors_of(tmp_path / "out"))


def test_tied_tensors_that_differ_are_said_and_carried_through(tmp_path, caplog):
    folder = write_family(tmp_path / "in", LLAMA)
    tensors = tensors_of(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    load_pretrained(rewrite(folder, tensors), "auto")
    assert caplog.text == ""
    tensors["lm_head.weight"][5, 7] += 0.5
    model = load_pretrained(rewrite(folder, tensors), "auto")
    said = "model.embed_tokens.weight and lm_head.weight should be the same tensor and differ; model.embed_tokens"
    assert said in caplog.text
    words = model.params["backbone"]["word"]["embedding"]
    np.testing.assert_array_equal(words[:60], tensors["model.embed_tokens.weight"])
    save_pretrained(tmp_path / "out", model)
    assert_same(tensors, tensors_of(tmp_path / "out"))


def test_a_bias_of_one_row_is_a_vector_of_ours(tmp_path):
    folder = write_family(tmp_path / "in", BART)
    tensors = tensors_of(folder)
    assert tensors["final_logits_bias"].shape == (1, 60)
    bias = load_pretrained(folder, "auto").params["head"]["bias"]
    np.testing.assert_array_equal(bias[:60], tensors["final_logits_bias"][0])
    assert bias.shape == (128,)
    assert not bias[60:].any()


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("family", ALL)
def test_shards(tmp_path, family, scan_layers):
    folder = write_family(tmp_path / "in", ALL[family])
    model = load_pretrained(folder, "auto", scan_layers=scan_layers)
    save_pretrained(tmp_path / "out", model, max_shard_size=9000)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert_same(tensors_of(folder), tensors_of(tmp_path / "out"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors_of(folder).values())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "np") as opened:
            assert name in opened.keys()  # noqa: SIM118 -- not a dict
    again = load_pretrained(tmp_path / "out", "auto")
    for one, other in zip(leaves(load_pretrained(folder, "auto")), leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    save_pretrained(tmp_path / "out", again, overwrite=True)
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors*")] == ["model.safetensors"]
    assert_same(tensors_of(folder), tensors_of(tmp_path / "out"))


def test_a_new_head_replaces_the_old_one_and_nothing_else(make_checkpoint, make_tensors, tmp_path):
    tensors = make_tensors(prefix="bert.", labels=3)
    folder = make_checkpoint(tensors=tensors)
    model = load_pretrained(folder, "classification", labels=("a", "b"), new_head=True)
    save_pretrained(tmp_path / "out", model)
    out = tensors_of(tmp_path / "out")
    assert out.pop("classifier.weight").shape == (2, 16)
    assert out.pop("classifier.bias").shape == (2,)
    assert_same({n: t for n, t in tensors.items() if "classifier" not in n}, out)


def test_a_source_that_is_gone_is_said(tmp_path):
    folder = write_family(tmp_path / "in", LLAMA)
    want = tensors_of(folder)
    model = load_pretrained(folder, "auto")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=r"in, which this model was read from, is gone.*--modern-names"):
        save_pretrained(tmp_path / "out", model)
    assert not (tmp_path / "out").exists()
    save_pretrained(tmp_path / "out", model, modern_names=True)
    assert_same(want, tensors_of(tmp_path / "out"))


def test_a_folder_can_be_saved_over_itself(tmp_path):
    folder = old_bert(write_family(tmp_path / "in", BERT_MLM))
    before = tensors_of(folder)
    model = load_pretrained(folder, "auto")
    save_pretrained(folder, model, overwrite=True)
    assert_same(before, tensors_of(folder))


def test_small_files_beside_the_weights_are_kept(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    kept = {
        "generation_config.json": "{}",
        "chat_template.jinja": "{{ x }}",
        "README.md": "# a card",
        "LICENSE": "free",
        "added_tokens.json": "{}",
        "sentencepiece.bpe.model": "pieces",
        "modules.json": '[{"path": ""}, {"path": "1_Pooling"}, {"path": "../secret"}]',
        "1_Pooling/config.json": '{"pooling_mode": "mean"}',
    }
    left = {"heads.pt": "pickle", "1_Pooling/pytorch_model.bin": "pickle", "notes/private.txt": "mine"}
    for name, text in (kept | left).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    model = load_pretrained(folder)
    save_pretrained(tmp_path / "out", model)
    for name, text in kept.items():
        assert (tmp_path / "out" / name).read_text() == text
    for name in left:
        assert not (tmp_path / "out" / name).exists()
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    model.tokenizer.add_tokens(["jaxtune"])
    save_pretrained(tmp_path / "out", model, overwrite=True)
    assert "jaxtune" in load_pretrained(tmp_path / "out").tokenizer.get_vocab()


def test_nan_is_named_and_kept(tmp_path, caplog):
    folder = write_family(tmp_path / "in", GPT2)
    tensors = tensors_of(folder)
    tensors["transformer.h.0.attn.c_attn.weight"][2, 40] = np.nan
    tensors["transformer.ln_f.bias"][1] = -np.inf
    model = load_pretrained(rewrite(folder, tensors), "auto")
    assert model.report.nonfinite == ("transformer.h.0.attn.c_attn.weight", "transformer.ln_f.bias")
    assert "holds NaN or infinity in transformer.h.0.attn.c_attn.weight, transformer.ln_f.bias" in caplog.text
    save_pretrained(tmp_path / "out", model)
    assert_same(tensors, tensors_of(tmp_path / "out"))


def test_float64_is_said(tmp_path, caplog):
    folder = write_family(tmp_path / "in", LLAMA)
    tensors = tensors_of(folder)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float64)
    with caplog.at_level(logging.WARNING):
        load_pretrained(rewrite(folder, tensors), "auto")
    assert "has float64 numbers in model.norm.weight, read as float32" in caplog.text


def test_a_vocabulary_that_config_json_does_not_know(tmp_path):
    folder = write_family(tmp_path / "in", LLAMA)
    change_config(folder, vocab_size=70)
    with pytest.raises(
        WeightsError, match=r"model\.embed_tokens\.weight has shape \[60, 16\], the model needs \[70, 16\]"
    ):
        load_pretrained(folder, "auto")
