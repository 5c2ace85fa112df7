from __future__ import annotations

import json
import struct
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.exporting import Export
from jaxtune.hub.matching import expected_shapes
from jaxtune.hub.weights import read_weights
from jaxtune.hub.writing import write_safetensors
from jaxtune.models.families.bert import BertConfig
from jaxtune.models.layer_stack import stack_layers


@pytest.fixture
def config(tiny_config):
    return BertConfig.from_hf(tiny_config)


def write_weights(folder, params, config, head, num_labels=1):
    folder.mkdir(exist_ok=True)
    write_safetensors(folder, Export(params, config, head, num_labels).modern(), {"format": "pt"})


def flat(tree, prefix=""):
    for name, node in tree.items():
        yield from flat(node, f"{prefix}{name}/") if isinstance(node, dict) else [(prefix + name, node)]


def same(one, other):
    one, other = dict(flat(one)), dict(flat(other))
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def flax_tree(tensors):
    """The same tensors as transformers' Flax models stored them."""
    tree = {}
    for name, tensor in tensors.items():
        *modules, last = name.split(".")
        if last == "weight":
            last = (
                "scale" if "LayerNorm" in name else "embedding" if "embeddings" in modules[-1] else "kernel"
            )
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[last] = np.ascontiguousarray(tensor.T) if last == "kernel" else tensor
    return tree


def test_every_tensor_has_its_place(make_checkpoint, make_tensors, config):
    tensors = make_tensors()
    params, report = read_weights(make_checkpoint(), config)
    assert report.missing == report.unexpected == ()
    shapes = expected_shapes(config, None, 0)
    assert {path: leaf.shape for path, leaf in flat(params)} == dict(shapes)
    assert all(leaf.dtype == np.float32 for _, leaf in flat(params))
    layer = params["backbone"]["layers"]["1"]
    np.testing.assert_array_equal(
        layer["attention"]["query"]["kernel"], tensors["encoder.layer.1.attention.self.query.weight"].T
    )
    np.testing.assert_array_equal(
        layer["mlp_norm"]["scale"], tensors["encoder.layer.1.output.LayerNorm.weight"]
    )
    words = params["backbone"]["embeddings"]["word"]["embedding"]
    np.testing.assert_array_equal(words[:60], tensors["embeddings.word_embeddings.weight"])
    assert words.shape == (128, 16)
    assert not words[60:].any()


def test_prefix_old_norm_names_and_stored_buffers(make_checkpoint, make_tensors, config):
    plain, _ = read_weights(make_checkpoint(), config)
    old = {}
    for name, tensor in make_tensors(prefix="bert.").items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[name] = tensor
    old["bert.embeddings.position_ids"] = np.arange(40)
    params, report = read_weights(make_checkpoint("old", tensors=old), config)
    assert same(params, plain)
    assert report.missing == report.unexpected == ()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_become_float32(make_checkpoint, make_tensors, config, dtype):
    tensors = {name: tensor.astype(dtype) for name, tensor in make_tensors().items()}
    params, _ = read_weights(make_checkpoint(tensors=tensors), config)
    bias = params["backbone"]["pooler"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, tensors["pooler.dense.bias"].astype(np.float32))


def test_integer_weights_are_refused(make_checkpoint, make_tensors, config):
    tensors = make_tensors() | {"pooler.dense.bias": np.zeros(16, np.int8)}
    with pytest.raises(WeightsError, match=r"pooler\.dense\.bias is of type I8"):
        read_weights(make_checkpoint(tensors=tensors), config)


def shard(folder, tensors):
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards(make_checkpoint, make_tensors, config):
    folder = make_checkpoint("sharded", tensors=None)
    shard(folder, make_tensors())
    assert same(read_weights(folder, config)[0], read_weights(make_checkpoint(), config)[0])


def test_a_missing_shard_is_named(make_checkpoint, make_tensors, config):
    folder = make_checkpoint(tensors=None)
    shard(folder, make_tensors())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match=r"lacks model-00002-of-00002\.safetensors"):
        read_weights(folder, config)


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ('{"weight_map": {"x": "../model.safetensors"}}', "refused"),
        ('{"weight_map": {"x": "model-1.bin"}}', "refused"),
        ('{"weight_map": []}', "damaged"),
        ("[]", "damaged"),
        ("{", "damaged"),
    ],
)
def test_a_bad_index(make_checkpoint, config, index, match):
    folder = make_checkpoint(tensors=None)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightsError, match=match):
        read_weights(folder, config)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_flax_weights_equal_torch_weights(make_checkpoint, make_tensors, config, prefix):
    from flax.serialization import msgpack_serialize

    tensors = make_tensors(prefix=prefix, labels=3 if prefix else 0)
    head = ("classification", 3) if prefix else (None, 0)
    torch_like, _ = read_weights(make_checkpoint("torch", tensors=tensors), config, *head)
    folder = make_checkpoint("flax", tensors=None)
    (folder / "flax_model.msgpack").write_bytes(msgpack_serialize(flax_tree(tensors)))
    params, report = read_weights(folder, config, *head)
    assert same(params, torch_like)
    assert report.missing == report.unexpected == ()


def test_damaged_flax_weights_are_named(make_checkpoint, make_tensors, config):
    from flax.serialization import msgpack_serialize

    folder = make_checkpoint(tensors=None)
    whole = msgpack_serialize(flax_tree(make_tensors()))
    for damaged in (b"", whole[:-10], b"\xc1" + whole[1:], msgpack_serialize({"embeddings": 3})):
        (folder / "flax_model.msgpack").write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"flax_model\.msgpack"):
            read_weights(folder, config)


def test_missing_and_unexpected_are_reported(make_checkpoint, make_tensors, config):
    tensors = make_tensors() | {"cls.predictions.bias": np.zeros(3, np.float32)}
    del tensors["pooler.dense.weight"], tensors["encoder.layer.0.output.dense.bias"]
    _, report = read_weights(make_checkpoint(tensors=tensors), config, "classification", 2)
    assert set(report.missing) == {
        "backbone/pooler/kernel",
        "backbone/layers/0/mlp_down/bias",
        "head/classifier/kernel",
        "head/classifier/bias",
    }
    assert report.unexpected == ("cls.predictions.bias",)


def test_weights_of_something_else_are_refused(make_checkpoint, config):
    folder = make_checkpoint(tensors={"transformer.h.0.attn.weight": np.zeros(3, np.float32)})
    with pytest.raises(WeightsError, match=r"not those of a bert.*transformer\.h\.0"):
        read_weights(folder, config)


def test_a_wrong_shape_is_named_with_both(make_checkpoint, make_tensors, config):
    tensors = make_tensors() | {"encoder.layer.0.intermediate.dense.weight": np.zeros((25, 16), np.float32)}
    with pytest.raises(
        WeightsError, match=r"intermediate\.dense\.weight has shape \[25, 16\].*needs \[24, 16\]"
    ):
        read_weights(make_checkpoint(tensors=tensors), config)


def test_a_vocabulary_of_another_size_is_named_with_both(make_checkpoint, make_tensors, config):
    tensors = make_tensors() | {"embeddings.word_embeddings.weight": np.zeros((61, 16), np.float32)}
    with pytest.raises(WeightsError, match=r"\[61, 16\].*\[60, 16\]"):
        read_weights(make_checkpoint(tensors=tensors), config)


def test_a_head_of_another_size_is_refused_or_replaced(make_checkpoint, make_tensors, config):
    folder = make_checkpoint(tensors=make_tensors(prefix="bert.", labels=3))
    with pytest.raises(WeightsError, match=r"\[3, 16\].*\[2, 16\].*new_head"):
        read_weights(folder, config, "classification", 2)
    params, report = read_weights(folder, config, "classification", 2, new_head=True)
    assert "head" not in params
    assert set(report.missing) == {"head/classifier/kernel", "head/classifier/bias"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.PTH", "model.pkl"])
def test_pickles_are_refused_with_the_safe_alternative(make_checkpoint, config, name):
    folder = make_checkpoint(tensors=None)
    (folder / name).write_bytes(b"never opened")
    with pytest.raises(WeightsError, match=rf"{name}.*model\.safetensors.*save_pretrained"):
        read_weights(folder, config)


def test_no_weights_at_all(make_checkpoint, config):
    with pytest.raises(SourceError, match=r"holds no weights: expected model\.safetensors"):
        read_weights(make_checkpoint(tensors=None), config)


def lying(data):
    """The header claims that a tensor is larger than its bytes."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["pooler.dense.bias"]["shape"] = [1 << 40]
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + size :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[:-1],
        lambda d: d[: len(d) // 2],
        lambda d: d[:5],
        lambda d: b"",
        lambda d: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
        lambda d: struct.pack("<Q", 1 << 60) + d[8:],
        lying,
    ],
)
def test_damaged_or_lying_safetensors_are_named(make_checkpoint, config, damage):
    file = make_checkpoint() / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(WeightsError, match=r"model\.safetensors is not a sound safetensors file"):
        read_weights(file.parent, config)


def with_header(data, change):
    """The same bytes under a changed header."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + size :]


def shift(name, by):
    def change(header):
        header[name]["data_offsets"] = [offset + by for offset in header[name]["data_offsets"]]

    return change


def last(header):
    return max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (shift("pooler.dense.bias", -4), r"tensor \S+ overlaps the one before it"),
        (shift("pooler.dense.bias", 4), r"tensor \S+ (leaves a gap|overlaps)"),
        (shift("pooler.dense.bias", 1 << 40), r"tensor \S+ leaves a gap"),
        (
            lambda h: h[last(h)].update(shape=[2, 16], data_offsets=[h[last(h)]["data_offsets"][0]] * 2),
            "which is not 0 bytes",
        ),
        (
            lambda h: h["pooler.dense.bias"].update(dtype="F16"),
            r"tensor pooler\.dense\.bias is F16 \[16\], which is not 64 bytes",
        ),
        (lambda h: h["pooler.dense.bias"].update(shape=[-16]), r"tensor pooler\.dense\.bias has .*-16"),
        (lambda h: h["pooler.dense.bias"].update(shape=[16.0]), r"tensor pooler\.dense\.bias has"),
        (lambda h: h["pooler.dense.bias"].pop("dtype"), r"tensor pooler\.dense\.bias has no dtype"),
        (lambda h: h.update(__metadata__=[1]), "__metadata__ is no object"),
        (lambda h: h.pop(last(h)), "the header describes"),
    ],
)
def test_what_lies_in_a_header_is_named(make_checkpoint, config, change, match):
    file = make_checkpoint() / "model.safetensors"
    file.write_bytes(with_header(file.read_bytes(), change))
    with pytest.raises(
        WeightsError, match=rf"model\.safetensors is not a sound safetensors file \(.*{match}"
    ):
        read_weights(file.parent, config)


def test_a_header_that_names_a_tensor_twice_is_refused(make_checkpoint, config):
    file = make_checkpoint() / "model.safetensors"
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + size].replace(b"pooler.dense.weight", b"query.dense.weight")
    entry = b',"query.dense.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = header.rstrip()[:-1] + entry + b"}"
    file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
    with pytest.raises(WeightsError, match="names something twice"):
        read_weights(file.parent, config)


def test_a_tensor_that_the_index_promises_and_no_shard_has(make_checkpoint, make_tensors, config):
    folder = make_checkpoint(tensors=None)
    shard(folder, make_tensors())
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["pooler.dense.extra"] = "model-00002-of-00002.safetensors"
    file.write_text(json.dumps(index))
    match = r"model-00002-of-00002\.safetensors lacks pooler\.dense\.extra, which model\.safetensors\.index\.json says"
    with pytest.raises(WeightsError, match=match):
        read_weights(folder, config)


def test_a_tensor_in_another_shard_than_the_index_says(make_checkpoint, make_tensors, config):
    folder = make_checkpoint(tensors=None)
    shard(folder, make_tensors())
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    here = index["weight_map"]["pooler.dense.bias"]
    there = next(name for name in index["weight_map"].values() if name != here)
    index["weight_map"]["pooler.dense.bias"] = there
    file.write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=rf"{there} lacks pooler\.dense\.bias"):
        read_weights(folder, config)


def test_a_tensor_in_two_shards_is_refused(make_checkpoint, make_tensors, config):
    folder = make_checkpoint(tensors=None)
    shard(folder, make_tensors())
    file = folder / "model-00002-of-00002.safetensors"
    save_file(load_file(file) | {"pooler.dense.bias": np.zeros(16, np.float32)}, file)
    other = folder / "model-00001-of-00002.safetensors"
    save_file(load_file(other) | {"pooler.dense.bias": np.zeros(16, np.float32)}, other)
    with pytest.raises(
        WeightsError, match=r"00002\.safetensors: tensor pooler\.dense\.bias is also in model-00001"
    ):
        read_weights(folder, config)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_an_error_of_ours_or_changes_only_numbers(
    tmp_path_factory, make_tensors, tiny_config, data
):
    folder = tmp_path_factory.mktemp("damaged")
    file = folder / "model.safetensors"
    save_file(make_tensors(), file)
    whole = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, min(len(whole) - 1, 7000)))
    whole[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(whole)
    config = BertConfig.from_hf(tiny_config)
    try:
        params, _ = read_weights(folder, config)
    except (WeightsError, SourceError):
        return
    shapes = expected_shapes(config, None, 0)
    assert all(leaf.shape == shapes[path] for path, leaf in flat(params))


@pytest.mark.parametrize("head", [None, "classification"])
@pytest.mark.parametrize("stacked", [False, True])
def test_the_round_trip_is_bit_exact(make_checkpoint, make_tensors, config, tmp_path, head, stacked):
    labels = 3 if head else 0
    tensors = make_tensors(prefix="bert." if head else "", labels=labels)
    params, _ = read_weights(make_checkpoint(tensors=tensors), config, head, labels)
    write_weights(tmp_path / "out", stack_layers(params) if stacked else params, config, head)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor)


def test_bfloat16_parameters_are_written_as_such(make_checkpoint, config, tmp_path):
    params, _ = read_weights(make_checkpoint(), config)
    half = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), params)
    write_weights(tmp_path, half, config, None)
    again, _ = read_weights(tmp_path, config)
    assert same(again, jax.tree.map(lambda leaf: leaf.astype(np.float32), half))


def test_parameters_of_another_model_are_refused(make_checkpoint, config, tmp_path):
    params, _ = read_weights(make_checkpoint(), config)
    with pytest.raises(WeightsError, match="no head/classifier/kernel"):
        write_weights(tmp_path, params, config, "classification")


def test_reading_and_writing_hold_no_second_copy(tmp_path, tiny_config):
    tiny_config |= {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    config = BertConfig.from_hf(tiny_config)
    shapes = expected_shapes(config, None, 0)
    fresh = {}
    for path, shape in shapes.items():
        *branches, last = path.split("/")
        node = fresh
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = np.zeros(shape, np.float32)
    total = sum(leaf.nbytes for _, leaf in flat(fresh))
    largest = max(leaf.nbytes for _, leaf in flat(fresh))
    tracemalloc.start()
    try:
        write_weights(tmp_path, fresh, config, None)
        writing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        read_weights(tmp_path, config)
        reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert writing < 3 * largest + 2**21
    assert reading < total + 3 * largest + 2**21
    assert total > 6 * largest
