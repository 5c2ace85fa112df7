"""Any texts → tokens → packed rows → tokens → the same texts."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxtune.config import DataConfig, Experiment
from jaxtune.data.batches import build_batch, unpack
from jaxtune.data.planning import plan_evaluation, plan_training
from jaxtune.data.sources import open_source
from jaxtune.data.tokenizing import tokenize_records
from jaxtune.tasks.registry import make_task


@pytest.fixture(scope="module")
def tokenizer():
    """One token per UTF-8 byte, so that every text can be had back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({"[PAD]": 0} | {c: i for i, c in enumerate(alphabet, 1)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(
    lambda t: t.strip()
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(texts, min_size=1, max_size=40),
    st.sampled_from(["packed", "bucketed", "padded"]),
    st.integers(1, 12),
    st.booleans(),
)
def test_texts_come_back(tokenizer, tmp_path, rows, batching, batch_size, training):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text, "label": "ab"[i % 2]}) + "\n" for i, text in enumerate(rows))
    )
    task = make_task(Experiment(data=DataConfig(max_length=128, labels=("a", "b"))))
    done = tokenize_records(open_source(f"jsonl:{path}"), task, tokenizer)
    sizes = {"batching": batching, "batch_size": batch_size}
    if training:
        plan = plan_training(done.examples.lengths, seed=0, epochs=1, **sizes)
    else:
        plan = plan_evaluation(done.examples.lengths, **sizes)
    found = {}
    for step in plan.steps:
        batch = build_batch(done.examples, step)
        for example, tokens in unpack(batch):
            assert example not in found
            found[example] = tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False)
    assert found == dict(enumerate(rows))
