"""Beam search against exhaustive search, a plain reference, and transformers."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import special

from jaxtune.generation import beam
from jaxtune.generation.batches import make_batches
from jaxtune.generation.beam import beam_batch
from jaxtune.generation.settings import GenerationSettings
from tests.generation.tiny_models import END, model_of_case, next_logits, ragged, tiny_gpt2

LENGTHS = [4, 1, 13, 7]


def log_probs(model, params, text):
    return special.log_softmax(next_logits(model, params, text).astype(np.float64))


def without_padding(row, ends):
    row = [int(token) for token in row]
    at = next((i for i, token in enumerate(row) if token in ends), None)
    return row if at is None else row[: at + 1]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_with_a_beam_for_every_text_it_finds_the_best(penalty):
    """Five words, three steps, one of the words ends: all texts can be counted."""
    size, end, steps = 5, 4, 3
    model, params = tiny_gpt2(vocab_size=size)
    prompt = [1, 2, 3]
    every = {}
    for length in range(1, steps + 1):
        for words in itertools.product(range(size), repeat=length):
            if end in words[:-1] or (length < steps and words[-1] != end):
                continue
            score = sum(log_probs(model, params, prompt + list(words[:i]))[words[i]] for i in range(length))
            every[words] = score / length**penalty
    best = sorted(every, key=lambda words: -every[words])[:6]
    settings = GenerationSettings(
        max_new_tokens=steps, eos_token_ids=(end,), num_beams=25, num_return_sequences=6,
        length_penalty=penalty, early_stopping="never",
    )  # fmt: skip
    (batch,) = make_batches([prompt], 1, 1, 0, left=True)
    found, scores = beam_batch(model, params, batch, settings)
    assert [tuple(without_padding(row, {end})) for row in found[0]] == best
    np.testing.assert_allclose(scores[0], [every[words] for words in best], rtol=1e-4)


def diverse_reference(model, params, prompt, groups, beams, steps, penalty):
    """Vijayakumar et al. 2018 in loops, without end tokens: beams of every group, best first."""
    state = [[([], 0.0)] for _ in range(groups)]
    for _ in range(steps):
        taken = []
        for g in range(groups):
            candidates = []
            for words, score in state[g]:
                row = log_probs(model, params, prompt + words)
                for token in range(len(row)):
                    cost = penalty * taken.count(token)
                    candidates.append(([*words, token], score + row[token] - cost))
            candidates.sort(key=lambda c: -c[1])
            state[g] = candidates[:beams]
            taken += [words[-1] for words, _ in state[g]]
    merged = [found for group in state for found in group]
    return sorted(merged, key=lambda c: -c[1])


def test_diverse_beams_follow_the_paper():
    model, params = tiny_gpt2(vocab_size=9)
    settings = GenerationSettings(
        max_new_tokens=4, num_beams=6, num_beam_groups=3, diversity_penalty=0.7, num_return_sequences=6,
        length_penalty=0.0,
    )  # fmt: skip
    prompts = ragged(np.random.default_rng(4), LENGTHS, 9)
    (batch,) = make_batches(prompts, 1, 8, 0, left=True)
    found, scores = beam_batch(model, params, batch, settings)
    for row, (i, _) in enumerate(batch.rows):
        expected = diverse_reference(model, params, prompts[i], 3, 2, 4, 0.7)
        assert found[row].tolist() == [words for words, _ in expected]
        np.testing.assert_allclose(scores[row], [score for _, score in expected], rtol=1e-4)


def test_diverse_beams_are_more_diverse():
    tiny = tiny_gpt2()
    plain = GenerationSettings(max_new_tokens=1, num_beams=4, num_return_sequences=4)
    diverse = dataclasses.replace(plain, num_beam_groups=4, diversity_penalty=100.0)
    (batch,) = make_batches([[1, 2]], 1, 1, 0, left=True)
    # Four groups of one beam, each of which may hardly repeat a word: the four likeliest words.
    assert beam_batch(*tiny, batch, diverse)[0].tolist() == beam_batch(*tiny, batch, plain)[0].tolist()
    more = dataclasses.replace(diverse, max_new_tokens=6)
    firsts = {row[0] for row in beam_batch(*tiny, batch, more)[0][0].tolist()}
    assert len(firsts) == 4


@pytest.mark.parametrize("name", ["gpt2", "t5", pytest.param("bart", marks=pytest.mark.slow)])
def test_a_prompt_gets_the_same_beams_in_any_company(name):
    """Also of encoder-decoders, whose beams share one set of cross-attention keys."""
    model, params = model_of_case(name)
    seq2seq = hasattr(model, "start")
    prompts = ragged(np.random.default_rng(2), LENGTHS, model.config.vocab_size)
    settings = GenerationSettings(
        max_new_tokens=8, eos_token_ids=(7, 9), num_beams=3, num_return_sequences=2,
        decoder_start_token_id=0 if seq2seq else None,
    )  # fmt: skip
    (batch,) = make_batches(prompts, 1, 8, 0, left=not seq2seq)
    found, scores = beam_batch(model, params, batch, settings)
    for row, (i, _) in enumerate(batch.rows):
        (alone,) = make_batches([prompts[i]], 1, 1, 0, left=not seq2seq)
        by_itself, its_scores = beam_batch(model, params, alone, settings)
        np.testing.assert_array_equal(by_itself[0], found[row])
        np.testing.assert_allclose(its_scores[0], scores[row], rtol=1e-5)
        assert (np.diff(scores[row]) <= 0).all()


def test_a_second_call_compiles_nothing(monkeypatch):
    traced = []
    original = beam.read_beams
    monkeypatch.setattr(beam, "read_beams", lambda *args: traced.append(1) or original(*args))
    tiny = tiny_gpt2(initializer_range=0.26)
    settings = GenerationSettings(max_new_tokens=6, num_beams=2)
    rng = np.random.default_rng(0)
    for length_penalty, new in ((1.0, 6), (0.5, 9), (2.0, 3)):
        (batch,) = make_batches(ragged(rng, LENGTHS, END), 1, 4, 0, left=True)
        changed = dataclasses.replace(settings, length_penalty=length_penalty, max_new_tokens=new)
        beam_batch(*tiny, batch, changed)
        first = len(traced) if new == 6 else first
    assert len(traced) == first


def test_eight_devices_share_the_rows():
    model, params = tiny_gpt2()
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    placed = jax.device_put(params, NamedSharding(mesh, P()))
    settings = GenerationSettings(max_new_tokens=6, num_beams=3, eos_token_ids=(END,))
    (batch,) = make_batches(ragged(np.random.default_rng(5), LENGTHS, END), 1, 4, 0, left=True, mesh=mesh)
    np.testing.assert_array_equal(
        beam_batch(model, placed, batch, settings)[0], beam_batch(model, params, batch, settings)[0]
    )


MANY = tuple(range(5, 250, 9))
SEARCHES = [
    *(
        {"early_stopping": early, "length_penalty": penalty, "eos_token_ids": (7, 60, 100)}
        for early in (True, False, "never")
        for penalty in (-1.0, 0.0, 2.0)
    ),
    {"eos_token_ids": MANY},
    {"eos_token_ids": MANY, "min_new_tokens": 5, "no_repeat_ngram_size": 2},
    {"eos_token_ids": (END,), "repetition_penalty": 1.3},
    {"eos_token_ids": (7,), "num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.5},
    {"eos_token_ids": (7,), "num_beams": 1, "num_return_sequences": 1, "no_repeat_ngram_size": 2},
]


@pytest.fixture(scope="module")
def peer():
    """A random GPT-2, ours and transformers' with the same weights."""
    torch = pytest.importorskip("torch")
    import transformers

    config = transformers.GPT2Config(
        vocab_size=END + 1, n_embd=32, n_layer=2, n_head=4, n_inner=64, n_positions=128,
        bos_token_id=END, eos_token_id=END,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    model, params = tiny_gpt2()
    backbone = jax.tree.map(np.asarray, params["backbone"])
    state = theirs.state_dict()

    def put(name, array):
        state[name].copy_(torch.tensor(np.array(array)))

    put("transformer.wte.weight", backbone["word"]["embedding"][: END + 1])
    put("transformer.wpe.weight", backbone["position"]["embedding"])
    for i, layer in backbone["layers"].items():
        attention = layer["attention"]
        inputs = [attention[name] for name in ("query", "key", "value")]
        for theirs_name, ours in (("weight", "kernel"), ("bias", "bias")):
            put(f"transformer.h.{i}.attn.c_attn.{theirs_name}", np.concatenate([x[ours] for x in inputs], -1))
            put(f"transformer.h.{i}.attn.c_proj.{theirs_name}", attention["output"][ours])
            put(f"transformer.h.{i}.mlp.c_fc.{theirs_name}", layer["mlp_up"][ours])
            put(f"transformer.h.{i}.mlp.c_proj.{theirs_name}", layer["mlp_down"][ours])
    return model, params, theirs


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_equal_to_transformers(peer, search):
    """Twenty ragged prompts; n-best, end tokens and penalties beyond what the goldens hold."""
    import torch

    from jaxtune.generation.decode import decode_batch

    model, params, theirs = peer
    chosen = {"max_new_tokens": 16, "num_beams": 4, "num_return_sequences": 3, **search}
    settings = GenerationSettings(pad_token_id=0, **chosen)
    prompts = ragged(np.random.default_rng(7), [*range(1, 21)], END)
    (batch,) = make_batches(prompts, 1, 32, 0, left=True)
    real = len(batch.rows)
    ends = list(chosen.pop("eos_token_ids"))
    with torch.no_grad():
        out = theirs.generate(
            torch.tensor(batch.tokens[:real]).long(),
            attention_mask=torch.tensor(batch.segment_ids[:real]).long(),
            do_sample=False, eos_token_id=ends, pad_token_id=0, **chosen,
        )  # fmt: skip
    expected = [without_padding(row, ends) for row in out[:, batch.tokens.shape[1] :].tolist()]
    if settings.num_beams > 1:
        rows = beam_batch(model, params, batch, settings)[0][:real].reshape(len(expected), -1)
    else:
        rows = decode_batch(model, params, batch, settings)[:real]
    assert [without_padding(row, ends) for row in rows] == expected
