"""GGUF files: the same model as the folder they were made from, and no trust in what they say."""

from __future__ import annotations

import struct

import gguf
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxtune.errors import SourceError, WeightsError
from jaxtune.hub.description import read_description
from jaxtune.hub.model_config import read_config
from jaxtune.hub.pretrained import load_pretrained
from jaxtune.hub.saving import save_pretrained
from jaxtune.hub.tensor_files.gguf_file import open_gguf
from jaxtune.hub.tensor_files.gguf_tensors import GgufTensors
from jaxtune.hub.tokenizers import load_tokenizer
from tests.hub.families import GPT2, LLAMA, tensors_of, write_family
from tests.hub.gguf_files import BYTE_LEVEL, write_gguf

WIDE = LLAMA | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
UNTIED = LLAMA | {"tie_word_embeddings": False}
QWEN2 = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = LLAMA | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 6}
GEMMA2 = LLAMA | {
    "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"],
    "head_dim": 6,
    "query_pre_attn_scalar": 6,
    "sliding_window": 4,
    "hidden_activation": "gelu_pytorch_tanh",
}
GEMMA3 = GEMMA2 | {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 7,
    "rope_theta": 1e6,
    "rope_local_base_freq": 10000.0,
}
CASES = {
    "llama": ("llama", LLAMA, {}),
    "untied": ("llama", UNTIED, {}),
    "attention bias": ("llama", LLAMA | {"attention_bias": True}, {}),
    "qwen2": ("qwen2", QWEN2, {}),
    "qwen3": ("qwen3", QWEN3, {}),
    "gemma2": (
        "gemma2",
        GEMMA2,
        {
            "gemma2.attention.sliding_window": 4,
            "gemma2.attn_logit_softcapping": 50.0,
            "gemma2.final_logit_softcapping": 30.0,
        },
    ),
    "gemma3": ("gemma3", GEMMA3, {"gemma3.attention.sliding_window": 4}),
    "gpt2": ("gpt2", GPT2, {}),
}
IDS = [[3, 17, 5, 59, 8, 21, 30, 2], [9, 9, 1, 4, 50, 51, 52, 53]]


def written(tmp_path, case):
    architecture, raw, extra = CASES[case]
    folder = write_family(tmp_path / "in", raw)
    return folder, write_gguf(tmp_path / "model.gguf", tensors_of(folder), raw, architecture, extra=extra)


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path, case):
    folder, file = written(tmp_path, case)
    ours, theirs = load_pretrained(file, "auto"), load_pretrained(folder, "auto")
    assert ours.head == "causal_lm"
    assert ours.report.missing == ours.report.unexpected == ()
    assert ours.config == theirs.config
    tolerance = 2e-7 if case.startswith("gemma") else 0  # a norm is stored as 1 + scale, which rounds
    for (path, one), (_, other) in zip(
        jax.tree_util.tree_leaves_with_path(ours.params),
        jax.tree_util.tree_leaves_with_path(theirs.params),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=str(path))
    np.testing.assert_allclose(ours(IDS), theirs(IDS), rtol=0, atol=100 * tolerance)


def blocks_of(kind, rows, columns, seed=0):
    """Random blocks whose scales are small numbers."""
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // elements, size), np.uint8)
    scales = rng.normal(0, 0.05, (len(blocks), 2)).astype(np.float16).view(np.uint8)
    if kind == "Q4_K":  # d and dmin come first
        blocks[:, :4] = scales
    else:  # Q6_K: d comes last
        blocks[:, -2:] = scales[:, :2]
    return blocks.reshape(rows, columns // elements * size)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "F16", "BF16"])
def test_quantised_types(tmp_path, kind):
    folder = write_family(tmp_path / "in", WIDE)
    tensors = tensors_of(folder)
    dtype = gguf.GGMLQuantizationType[kind]
    matrices = {name: kind for name, tensor in tensors.items() if tensor.ndim == 2}
    file = write_gguf(tmp_path / "model.gguf", tensors, WIDE, "llama", quantise=matrices)
    for name in matrices:
        tensors[name] = gguf.quants.dequantize(gguf.quants.quantize(tensors[name], dtype), dtype)
    check_same(load_pretrained(file, "auto"), tensors)
    words = "model.embed_tokens.weight"
    assert not np.array_equal(tensors_of(folder)[words], tensors[words])


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_types_with_super_blocks(tmp_path, kind):
    raw = WIDE | {"hidden_size": 256, "head_dim": 64, "intermediate_size": 256}
    tensors = tensors_of(write_family(tmp_path / "in", raw))
    blocks = {
        name: (blocks_of(kind, *tensor.shape, seed=i), kind)
        for i, (name, tensor) in enumerate(tensors.items())
        if tensor.ndim == 2
    }
    file = write_gguf(tmp_path / "model.gguf", tensors, raw, "llama", blocks=blocks)
    for name, (data, _) in blocks.items():
        values = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
        heads = 4 if ".q_proj" in name else 2 if ".k_proj" in name else None
        if heads:  # the blocks lie as llama.cpp's rows do
            values = (
                values.reshape(heads, len(values) // heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
            )
        tensors[name] = values
    check_same(load_pretrained(file, "auto"), tensors)


def check_same(model, tensors):
    """Every parameter is the tensor of Hugging Face's name."""
    backbone = model.params["backbone"]
    np.testing.assert_array_equal(backbone["word"]["embedding"][:60], tensors["model.embed_tokens.weight"])
    for i, layer in backbone["layers"].items():
        at = f"model.layers.{i}"
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            kernel = layer["attention"][ours]["kernel"]
            np.testing.assert_array_equal(
                kernel.T, tensors[f"{at}.self_attn.{theirs}_proj.weight"], err_msg=ours
            )
        np.testing.assert_array_equal(layer["mlp_down"]["kernel"].T, tensors[f"{at}.mlp.down_proj.weight"])


@pytest.mark.parametrize("kind", ["Q5_0", "Q5_1", "Q3_K", "IQ4_NL"])
def test_other_types_are_named(tmp_path, kind):
    raw = WIDE | {"hidden_size": 256, "head_dim": 64, "intermediate_size": 256}
    tensors = tensors_of(write_family(tmp_path / "in", raw))
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    name = "model.layers.1.mlp.up_proj.weight"
    data = np.zeros((256, 256 // elements * size), np.uint8)
    file = write_gguf(tmp_path / "model.gguf", tensors, raw, "llama", blocks={name: (data, kind)})
    match = rf"tensor blk\.1\.ffn_up\.weight is of type {kind}; expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K"
    with pytest.raises(WeightsError, match=match):
        load_pretrained(file, "auto")


def test_rows_are_dequantised_where_they_are_asked_for(tmp_path):
    raw = WIDE | {"vocab_size": 60}
    tensors = tensors_of(write_family(tmp_path / "in", raw))
    name = "model.layers.0.self_attn.q_proj.weight"
    file = write_gguf(tmp_path / "model.gguf", tensors, raw, "llama", quantise={name: "Q8_0"})
    tensor = GgufTensors(file).open(name)
    whole = tensor.rows(0, 64)
    for start, stop in ((0, 1), (7, 30), (63, 64), (5, 5)):
        np.testing.assert_array_equal(tensor.rows(start, stop), whole[start:stop])


def test_an_architecture_that_is_not_supported_lists_those_that_are(tmp_path):
    file = write_gguf(tmp_path / "model.gguf", {}, LLAMA, "mamba")
    with pytest.raises(
        WeightsError, match=r"general\.architecture 'mamba' is not supported; supported: llama, qwen2"
    ):
        load_pretrained(file)


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"llama.expert_count": 8}, r"llama\.expert_count is not supported"),
        ({"llama.rope.dimension_count": 2}, r"rope\.dimension_count=2 is not supported; use 4"),
        ({"llama.rope.scaling.type": "longrope"}, r"rope\.scaling\.type='longrope' is not supported"),
        ({"llama.rope.scaling.type": "linear"}, r"lacks llama\.rope\.scaling\.factor"),
        ({"split.count": 3}, r"one of 3 parts"),
        (
            {"llama.attention.key_length": 1 << 30},
            r"4 heads of 1073741824 are \d+ rows, and blk\.0\.attn_q\.weight has 16",
        ),
        (
            {"llama.block_count": 1 << 24},
            r"llama\.block_count is 16777216, and the layers of its tensors say 2",
        ),
        (
            {"llama.embedding_length": 1 << 30},
            r"llama\.embedding_length is 1073741824, and token_embd\.weight say 16",
        ),
        (
            {"llama.feed_forward_length": 25},
            r"llama\.feed_forward_length is 25, and blk\.0\.ffn_up\.weight say 24",
        ),
    ],
)
def test_settings_that_are_not_supported_are_named(tmp_path, extra, match):
    tensors = tensors_of(write_family(tmp_path / "in", LLAMA))
    file = write_gguf(tmp_path / "model.gguf", tensors, LLAMA, "llama", extra=extra)
    with pytest.raises(WeightsError, match=match):
        load_pretrained(file)


@pytest.mark.parametrize(
    ("extra", "scaling"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 32,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
    ],
)
def test_rotary_scaling(tmp_path, extra, scaling):
    tensors = tensors_of(write_family(tmp_path / "in", LLAMA))
    extra = {f"llama.{name}": value for name, value in extra.items()}
    file = write_gguf(tmp_path / "model.gguf", tensors, LLAMA, "llama", extra=extra)
    assert read_config(file)["rope_scaling"] == scaling
    assert load_pretrained(file).config.rotaries[0].kind == scaling["rope_type"]


def llama3_factors(head_dim, factor, context):
    """As convert_hf_to_gguf.py computes ``rope_freqs``."""
    found = []
    for frequency in 1.0 / 500000.0 ** (np.arange(0, head_dim, 2) / head_dim):
        wavelength = 2 * np.pi / frequency
        if wavelength < context / 4:
            found.append(1.0)
        elif wavelength > context:
            found.append(factor)
        else:
            smooth = (context / wavelength - 1) / 3
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_factors_become_its_settings(tmp_path, factor):
    raw = LLAMA | {"head_dim": 64, "rope_theta": 500000.0}
    tensors = tensors_of(write_family(tmp_path / "in", raw))
    plain = {"rope_freqs.weight": llama3_factors(64, factor, 8192)}
    file = write_gguf(tmp_path / "model.gguf", tensors, raw, "llama", plain=plain)
    assert read_config(file)["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert load_pretrained(file, "auto").report.unexpected == ()


def test_other_factors_are_refused_by_name(tmp_path):
    raw = LLAMA | {"head_dim": 64, "rope_theta": 500000.0}
    tensors = tensors_of(write_family(tmp_path / "in", raw))
    plain = {"rope_freqs.weight": np.linspace(1, 2, 32).astype(np.float32)}
    file = write_gguf(tmp_path / "model.gguf", tensors, raw, "llama", plain=plain)
    with pytest.raises(WeightsError, match=r"rope_freqs\.weight holds other factors"):
        load_pretrained(file)


# Damage


def test_a_cut_file_is_named(tmp_path):
    _, file = written(tmp_path, "llama")
    whole = file.read_bytes()
    for size in (0, 3, 4, 20, 100, 700, len(whole) // 2, len(whole) - 40):
        file.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"model\.gguf is not a sound GGUF file"):
            load_pretrained(file)


def test_what_lies_about_lengths_ends_at_once(tmp_path):
    """A list that claims 2^60 elements, and a text, and a tensor."""
    key = struct.pack("<Q", 1) + b"k"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    for kind in (
        struct.pack("<IIQ", 9, 0, 1 << 60),
        struct.pack("<IIQ", 9, 8, 1 << 60),
        struct.pack("<IQ", 8, 1 << 60),
    ):
        (tmp_path / "model.gguf").write_bytes(head + key + kind + b"\0" * 64)
        with pytest.raises(WeightsError, match=r"claims \d+ bytes, \d+ are left"):
            open_gguf(tmp_path / "model.gguf")
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + b"\0" * 64)
    with pytest.raises(WeightsError, match="tensor t ends at byte"):
        open_gguf(tmp_path / "model.gguf")
    for version, match in ((1, "its version is 1"), (3 << 24, "big-endian")):
        (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
        with pytest.raises(WeightsError, match=match):
            open_gguf(tmp_path / "model.gguf")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_error_of_ours_or_changes_only_numbers(tmp_path, data):
    file = tmp_path / "model.gguf"
    if not (tmp_path / "whole.gguf").exists():
        written(tmp_path, "llama")
        file.rename(tmp_path / "whole.gguf")
    whole = bytearray((tmp_path / "whole.gguf").read_bytes())
    whole[data.draw(st.integers(0, min(len(whole) - 1, 3000)))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(whole)
    try:
        load_pretrained(file, "auto").tokenizer  # noqa: B018
    except (WeightsError, SourceError):
        return


# Tokenizers


def test_byte_level_tokenizer(tmp_path):
    _, file = written(tmp_path, "llama")
    tokenizer = load_tokenizer(file)
    ids = tokenizer("ab ab<|end|>a<tool>b")["input_ids"]
    assert ids == [12, 13, 0, 1, 14, 2]
    assert tokenizer.decode(ids) == "ab ab<|end|>a<tool>b"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab aba<tool>b"
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token) == ("<|end|>", 0, None)
    assert len(tokenizer) == 16
    assert read_description(str(file)).tokenizer("ab")["input_ids"] == [12]


@pytest.mark.parametrize(
    ("pre", "text", "want"),
    [
        ("gpt-2", "a12", ["a", "12"]),
        ("smollm", "a12", ["a", "1", "2"]),
        ("llama-bpe", "a1234", ["a", "123", "4"]),
        ("qwen2", "a12", ["a", "1", "2"]),
        ("qwen2", "e\u0301", ["Ã©"]),
        ("gpt-2", "e\u0301", ["e", "Ìģ"]),
    ],
)
def test_how_text_is_split_follows_the_file(tmp_path, pre, text, want):
    """Every byte, and some words that only appear where the text was not split inside them."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "12", "123", "1234", "Ã©", "Ìģ"]
    metadata = BYTE_LEVEL | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": ["1 2", "12 3", "123 4", "Ã ©", "Ì ģ"],
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.add_bos_token": False,
    }
    file = write_gguf(tmp_path / "model.gguf", {}, LLAMA, "llama", tokenizer=metadata)
    assert load_tokenizer(file).tokenize(text) == want


def test_tokens_around_a_text(tmp_path):
    for bos, eos, want in ((True, False, [9, 12]), (True, True, [9, 12, 10]), (False, False, [12])):
        metadata = BYTE_LEVEL | {
            "tokenizer.ggml.bos_token_id": 9,
            "tokenizer.ggml.eos_token_id": 10,
            "tokenizer.ggml.add_bos_token": bos,
            "tokenizer.ggml.add_eos_token": eos,
        }
        file = write_gguf(tmp_path / "model.gguf", {}, LLAMA, "llama", tokenizer=metadata)
        assert load_tokenizer(file)("ab")["input_ids"] == want


PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *[f"<0x{i:02X}>" for i in range(256)],
    "▁",
    "a",
    "b",
    "c",
    "▁a",
    "ab",
    "▁ab",
    "bc",
]
SCORES = [0.0] * 259 + [-9.0, -9.0, -9.0, -9.0, -3.0, -2.0, -1.0, -4.0]
SENTENCEPIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": SCORES,
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 8],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}


def test_sentencepiece_tokenizer(tmp_path):
    file = write_gguf(tmp_path / "model.gguf", {}, LLAMA, "llama", tokenizer=SENTENCEPIECE)
    tokenizer = load_tokenizer(file)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("ab abc é")["input_ids"])
    assert pieces == ["<s>", "▁ab", "▁ab", "c", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer("ab abc é")["input_ids"], skip_special_tokens=True) == "ab abc é"
    # "bc" has a lower score than "ab", so it is not merged first; without "▁a" before it, it is.
    assert tokenizer.tokenize("cbc") == ["▁", "c", "bc"]
    without = SENTENCEPIECE | {
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
    }
    file = write_gguf(tmp_path / "model.gguf", {}, LLAMA, "llama", tokenizer=without)
    assert load_tokenizer(file).tokenize("ab ab") == ["ab", "▁ab"]


def test_gemmas_pieces_merge_in_their_order(tmp_path):
    """Its scores say nothing; runs of spaces are spelled as spaces in some files."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "b", "c", "bc", "ab", "  "]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [-1000.0] * len(pieces),
        "tokenizer.ggml.token_type": [3, 3, 3, 2, *[1] * 7],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
    }
    file = write_gguf(tmp_path / "model.gguf", {}, GEMMA2, "gemma2", tokenizer=metadata)
    tokenizer = load_tokenizer(file)
    ids = tokenizer("abc  a")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "a", "bc", "▁▁", "a"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "abc  a"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"tokenizer.ggml.model": "bert"},
            "tokenizer.ggml.model 'bert', which is not supported; expected one of gpt2",
        ),
        (
            {"tokenizer.ggml.pre": "martian"},
            "tokenizer.ggml.pre 'martian' is not supported; expected one of gpt-2",
        ),
        ({"tokenizer.ggml.eos_token_id": 16}, "eos_token is 16, and there are 16 tokens"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "no list tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": ["a zz"]}, "the tokenizer in .* cannot be read"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path, change, match):
    file = write_gguf(tmp_path / "model.gguf", {}, LLAMA, "llama", tokenizer=BYTE_LEVEL | change)
    with pytest.raises(SourceError, match=match):
        load_tokenizer(file)


def test_a_chat_template_comes_along(tmp_path):
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    metadata = BYTE_LEVEL | {"tokenizer.chat_template": template}
    file = write_gguf(tmp_path / "model.gguf", {}, LLAMA, "llama", tokenizer=metadata)
    chat = [{"role": "user", "content": "ab"}]
    assert load_tokenizer(file).apply_chat_template(chat, tokenize=False) == "[user] ab"


# Saving


def test_a_gguf_file_is_saved_as_a_folder_of_today(tmp_path):
    folder, file = written(tmp_path, "untied")
    save_pretrained(tmp_path / "out", load_pretrained(file, "auto"))
    want, saved = tensors_of(folder), tensors_of(tmp_path / "out")
    assert want.keys() == saved.keys()
    for name, tensor in want.items():
        np.testing.assert_array_equal(saved[name], tensor)
    assert load_tokenizer(tmp_path / "out")("ab ab")["input_ids"] == [12, 13]
    again = load_pretrained(tmp_path / "out", "auto")
    np.testing.assert_array_equal(again(IDS), load_pretrained(file, "auto")(IDS))
