"""Greedy decoding and sampling: what is chosen, and that neither batch, cut nor mesh changes it."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from jaxtune.generation import decode
from jaxtune.generation.batches import bucket, make_batches, row_bucket
from jaxtune.generation.decode import decode_batch, programs
from jaxtune.generation.logits import numbers_of, rules_of
from jaxtune.generation.settings import GenerationSettings
from tests.generation.tiny_models import END, next_logits, ragged, tiny_gpt2

LENGTHS = [4, 1, 13, 7, 2]
GREEDY = GenerationSettings(max_new_tokens=12, eos_token_ids=(END,), pad_token_id=END)
SAMPLED = dataclasses.replace(GREEDY, temperature=1.5, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def tiny():
    return tiny_gpt2()


@pytest.fixture(scope="module")
def prompts():
    return ragged(np.random.default_rng(0), LENGTHS, END)


def texts(tiny, prompts, settings, batch_size=8, copies=1, watch=None, every=1):
    """New tokens by (prompt, copy)."""
    found = {}
    for batch in make_batches(prompts, copies, batch_size, END, left=True):
        rows = decode_batch(*tiny, batch, settings, watch, every)
        found |= {row: tokens.tolist() for row, tokens in zip(batch.rows, rows)}
    return found


def nobody_stops(tokens, done):
    return np.zeros(len(done), bool)


def test_greedy_is_the_likeliest_word_of_the_whole_text_each_time(tiny, prompts):
    model, params = tiny
    found = texts(tiny, prompts, GREEDY)
    for i, prompt in enumerate(prompts):
        text = list(prompt)
        for token in found[i, 0]:
            assert token == int(next_logits(model, params, text).argmax())
            text.append(token)


def test_a_row_ends_with_its_end_token_and_padding_follows(tiny, prompts):
    free = texts(tiny, prompts, GREEDY)
    # Whatever the first text says as its fifth token now ends every text.
    end = free[0, 0][4]
    found = texts(tiny, prompts, dataclasses.replace(GREEDY, eos_token_ids=(end,)))
    longest = max(row.index(end) + 1 if end in row else GREEDY.max_new_tokens for row in free.values())
    for key, row in free.items():
        length = row.index(end) + 1 if end in row else len(row)
        assert found[key] == (row[:length] + [END] * len(row))[:longest]


def test_two_end_tokens_and_a_loop_that_ends_early(tiny, prompts):
    one = texts(tiny, prompts[:1], GREEDY)[0, 0]
    found = texts(tiny, prompts[:1], dataclasses.replace(GREEDY, eos_token_ids=(END, one[2])))
    assert found[0, 0] == one[: one.index(one[2]) + 1]


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("every", [1, 5])
def test_cut_into_pieces_it_says_the_same(tiny, prompts, settings, every):
    seen = []

    def watch(tokens, done):
        seen.append(tokens.shape[1])
        return nobody_stops(tokens, done)

    assert texts(tiny, prompts, settings, watch=watch, every=every) == texts(tiny, prompts, settings)
    assert seen == ([*range(1, 13)] if every == 1 else [1, 6, 11, 12])


def test_a_stopped_row_gets_padding(tiny, prompts):
    def watch(tokens, done):
        return np.arange(len(done)) == 0 if tokens.shape[1] >= 3 else nobody_stops(tokens, done)

    (batch,) = make_batches(prompts, 1, 8, END, left=True)
    free = decode_batch(*tiny, batch, GREEDY)
    stopped = decode_batch(*tiny, batch, GREEDY, watch)
    assert stopped[0].tolist() == [*free[0][:3].tolist(), *[END] * 9]
    np.testing.assert_array_equal(stopped[1:5], free[1:5])


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_prompt_gets_the_same_text_in_any_company(tiny, prompts, settings):
    together = texts(tiny, prompts, settings)
    by_two = texts(tiny, prompts[::-1], settings, batch_size=2)
    for i, prompt in enumerate(prompts):
        assert texts(tiny, [prompt], settings)[0, 0] == together[i, 0]
        assert by_two[len(prompts) - 1 - i, 0] == together[i, 0]


def test_samples_differ_between_copies_equal_prompts_and_seeds(tiny, prompts):
    copies = texts(tiny, prompts[:1], SAMPLED, copies=3)
    twice = texts(tiny, [prompts[0], prompts[1], prompts[0]], SAMPLED)
    assert len({tuple(row) for row in copies.values()}) == 3
    assert twice[0, 0] == copies[0, 0]
    assert twice[2, 0] == copies[0, 1]
    assert texts(tiny, prompts[:1], dataclasses.replace(SAMPLED, seed=4))[0, 0] != copies[0, 0]


def test_words_are_drawn_as_often_as_the_model_says(tiny, prompts):
    model, params = tiny
    settings = dataclasses.replace(GREEDY, max_new_tokens=1, temperature=2.0, top_k=6)
    drawn = [row[0] for row in texts(tiny, prompts[2:3], settings, batch_size=2048, copies=2048).values()]
    logits = next_logits(model, params, prompts[2]).astype(np.float64)
    likely = np.argsort(-logits)[:6]
    expected = np.exp(logits[likely] / 2.0)
    expected *= len(drawn) / expected.sum()
    counts = [drawn.count(token) for token in likely]
    assert sum(counts) == len(drawn)
    assert stats.chisquare(counts, expected).pvalue > 0.01


def test_a_second_call_compiles_nothing(prompts, monkeypatch):
    traced = []

    def counted(name):
        original = getattr(decode, name)

        def call(*args):
            traced.append(name)
            return original(*args)

        monkeypatch.setattr(decode, name, call)

    counted("read_prompts")
    counted("read_tokens")
    tiny = tiny_gpt2(initializer_range=0.25)  # a model that nobody has used before
    texts(tiny, prompts, SAMPLED)
    # One prefill, and one decode; jax reads the body of a loop again where types had to settle.
    assert traced.count("read_prompts") == 1
    before = list(traced)
    assert 1 <= before.count("read_tokens") <= 2
    others = ragged(np.random.default_rng(9), [3, 11, 5, 6, 2], END)
    changed = dataclasses.replace(
        SAMPLED, temperature=0.3, top_p=0.5, seed=8, max_new_tokens=9, eos_token_ids=(END,)
    )
    texts(tiny, others, changed)
    texts(tiny, others, changed, watch=nobody_stops, every=4)
    texts(tiny_gpt2(seed=1, initializer_range=0.25), others, changed)
    assert traced == before
    texts(tiny, ragged(np.random.default_rng(9), [20], END), changed)
    assert traced.count("read_prompts") == 2


def test_buckets():
    assert [bucket(n) for n in (1, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65, 96, 97, 1000)] == [
        16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96, 96, 128, 1024,
    ]  # fmt: skip
    assert [row_bucket(n, None) for n in (1, 2, 3, 5, 16)] == [1, 2, 4, 8, 16]


def test_the_cache_is_not_copied(tiny, prompts):
    (batch,) = make_batches(prompts, 1, 8, END, left=True)
    run = programs(tiny[0], rules_of(GREEDY), 16, None, None)
    state, given = run.prefill(
        tiny[1], batch.tokens, batch.segment_ids, batch.draws, np.uint32(0), numbers_of(GREEDY)
    )
    after = run.decode(tiny[1], state, given, np.int32(4), np.zeros(len(batch.tokens), bool))
    assert int(after.step) == 4
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.cache.layers))


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_eight_devices_share_the_rows(tiny, prompts, settings):
    model, params = tiny
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    placed = jax.device_put(params, NamedSharding(mesh, P()))
    (batch,) = make_batches(prompts, 1, 8, END, left=True, mesh=mesh)
    assert len(batch.tokens) == 8
    np.testing.assert_array_equal(
        decode_batch(model, placed, batch, settings), decode_batch(model, params, batch, settings)
    )
    run = programs(model, rules_of(settings), 16, None, mesh)
    rows = jax.device_put((batch.tokens, batch.segment_ids, batch.draws), NamedSharding(mesh, P("data")))
    state, _ = run.prefill(placed, *rows, np.uint32(0), numbers_of(settings))
    for leaf in jax.tree.leaves(state.cache.layers):
        assert leaf.sharding.shard_shape(leaf.shape)[0] == 1


def test_the_cache_follows_parameters_split_over_heads(tiny, prompts):
    """Rows over one axis of the mesh, heads and features over the other; the same tokens."""
    model, params = tiny
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "tensor"))

    def split(path, leaf):
        inward = path[-2].key in ("query", "key", "value", "mlp_up") and leaf.ndim == 2
        return jax.device_put(leaf, NamedSharding(mesh, P(None, "tensor") if inward else P()))

    placed = jax.tree_util.tree_map_with_path(split, params)
    (batch,) = make_batches(prompts, 1, 8, END, left=True, mesh=mesh)
    np.testing.assert_array_equal(
        decode_batch(model, placed, batch, GREEDY), decode_batch(model, params, batch, GREEDY)
    )
    run = programs(model, rules_of(GREEDY), 16, None, mesh)
    rows = jax.device_put((batch.tokens, batch.segment_ids, batch.draws), NamedSharding(mesh, P("data")))
    state, _ = run.prefill(placed, *rows, np.uint32(0), numbers_of(GREEDY))
    for leaf in jax.tree.leaves(state.cache.layers):
        size, _, heads, _ = leaf.sharding.shard_shape(leaf.shape)
        assert (size, heads) == (len(batch.tokens) // 2, 1)
