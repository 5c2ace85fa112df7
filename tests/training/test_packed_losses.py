"""Packed or one example per row: the same texts under the same masks have the same loss and gradient."""

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxtune.config import DataConfig, Experiment, TrainConfig
from jaxtune.data.examples import Examples
from jaxtune.data.loader import Batches, lengths_of
from jaxtune.data.planning import plan_evaluation
from jaxtune.hub.description import Description
from jaxtune.models.layers import Policy
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of
from jaxtune.tasks.registry import make_task
from jaxtune.training.step import make_forward

WORDS = [f"w{i}" for i in range(60)]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", *(f"<extra_id_{i}>" for i in range(8))]
ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
SEQ2SEQ = {"d_model": 32, "decoder_start_token_id": 0}
CASES = {
    "masked_lm-bert": ENCODER,
    "causal_lm-gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 4},
    "denoising-t5": {**SEQ2SEQ, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4},
    "denoising-bart": {
        **SEQ2SEQ,
        **{"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
        **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    },
}


def tokenizer_of(model_type):
    special = [name for name in SPECIAL if model_type == "t5" or "extra" not in name]
    names = [*special, *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if model_type != "gpt2":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{name: f"<{name.split('_')[0]}>" for name in ("pad_token", "unk_token", "mask_token")},
        eos_token="</s>",
    )


def set_up(case, **data):
    """Task, examples and a random model in which words matter."""
    name, model_type = case.split("-")
    tokenizer = tokenizer_of(model_type)
    raw = {"model_type": model_type, "vocab_size": len(tokenizer), **CASES[case]}
    config = family_of(model_type).config_class.from_hf(raw).with_dropout(0.0)
    asked = Experiment(
        task=name, data=DataConfig(max_length=24, **data), train=TrainConfig(label_smoothing=0.1)
    )
    task = make_task(asked).for_model(Description(raw, config, tokenizer))
    rng = np.random.default_rng(0)
    records = [{"text": " ".join(rng.choice(WORDS, n))} for n in rng.integers(3, 40, 60)]
    made = task.tokenize(records, tokenizer, str)
    examples = Examples.from_list(piece for pieces in made for piece in pieces)
    model = build_model(config, task.head, policy=Policy(matmul_precision="highest"))
    # BERT's, GPT-2's and BART's first weights are so small that a text hardly shows; T5's are not.
    factor = 1.0 if model_type == "t5" else 3.0
    params = jax.tree.map(lambda leaf: leaf * factor, init_params(model, jax.random.key(0)))
    return task, examples, model, params


def over_all_batches(of_batch, task, examples, params, batching):
    """The sum of ``of_batch(params, batch)`` over all batches, and their plan."""
    lengths, decoder_lengths = lengths_of(examples, task.dynamic)
    plan = plan_evaluation(lengths, batching=batching, batch_size=16, decoder_lengths=decoder_lengths)
    found = [of_batch(params, batch) for batch in Batches(examples, plan, dynamic=task.dynamic, prefetch=0)]
    return jax.tree.map(
        lambda *leaves: np.sum([np.asarray(leaf, np.float64) for leaf in leaves], axis=0), *found
    ), plan


@pytest.mark.parametrize("case", CASES)
def test_packing_changes_no_loss(case):
    task, examples, model, params = set_up(case)
    forward = make_forward(model)

    @jax.jit
    def sums(params, batch):
        logits = forward(params, batch, None)
        per_example = {name: values.sum() for name, values in task.outputs(logits, batch).items()}
        return task.loss(logits, batch) | per_example

    packed, plan = over_all_batches(sums, task, examples, params, "packed")
    alone, _ = over_all_batches(sums, task, examples, params, "padded")
    assert max(len(row) for step in plan.steps for row in step.rows) > 1, "rows are shared"
    assert packed["loss"][1] == alone["loss"][1] > 60
    assert packed["accuracy"] == alone["accuracy"]
    np.testing.assert_allclose(packed["loss"][0], alone["loss"][0], rtol=1e-5)
    np.testing.assert_allclose(packed["loss_sum"], alone["loss_sum"], rtol=1e-5)
    assert packed["count"] == alone["count"] == packed["loss"][1], "each label is one example's"
    assert packed["right"] == alone["right"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_packing_changes_no_gradient(case):
    task, examples, model, params = set_up(case)
    forward = make_forward(model)
    gradient = jax.jit(
        jax.grad(lambda params, batch: task.loss(forward(params, batch, None), batch)["loss"][0])
    )
    packed, _ = over_all_batches(gradient, task, examples, params, "packed")
    alone, _ = over_all_batches(gradient, task, examples, params, "padded")
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(alone))
    for one, other in zip(jax.tree.leaves(packed), jax.tree.leaves(alone)):
        np.testing.assert_allclose(one, other, atol=1e-5 * scale)


def test_logits_are_those_of_the_masked_words_alone():
    """And the same as they are among those of all words."""
    task, examples, model, params = set_up("masked_lm-bert", whole_word=True)
    plan = plan_evaluation(examples.lengths, batching="packed", batch_size=16)
    batch = next(Batches(examples, plan, dynamic=task.dynamic, prefetch=0))
    forward = jax.jit(lambda params, batch: make_forward(model)(params, batch, None))
    few = np.asarray(forward(params, batch))
    rows, length = batch["tokens"].shape
    assert few.shape[:2] == batch["at"].shape == (rows, task.dynamic.most_labels(length, plan.slots))
    every = np.asarray(forward(params, {name: batch[name] for name in batch if name != "at"}))
    np.testing.assert_allclose(
        few, np.take_along_axis(every, batch["at"][..., None], 1), rtol=1e-5, atol=1e-5
    )
