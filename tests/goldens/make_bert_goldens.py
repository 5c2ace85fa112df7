"""Writes the golden files that the model tests compare with: what torch makes of BERT.

    python tests/goldens/make_bert_goldens.py FOLDER [--out tests/goldens]

runs under torch and transformers (nothing of jaxtune) and writes, from the Hugging Face folder
FOLDER of MiniLM-L6, ``minilm.npz``, and from a small random BERT ``bert_tiny.npz``. All in float32,
without dropout, with plain ("eager") attention.

Keys of both files:
    input_ids, attention_mask, token_type_ids   int32 [B, S], the last row a sentence pair
    labels                                      int32 [B], of the classification loss
    hidden          float32 [R, D], last hidden states of the real tokens, row by row
                    (``hidden_full[attention_mask == 1]``)
    pooled          float32 [B, D]
    head/weight     float32 [C, D], head/bias [C]: rng(0).normal(size) * 0.02, the weight drawn first
    logits          float32 [B, C] with that head
    loss            float32 [], mean cross-entropy of the logits and labels
    total_norm      float64 [], norm of the gradients of all parameters together
    names           the Hugging Face names that have a gradient, as "bert.pooler.dense.weight"
    norm/NAME       float64 [], norm of the gradient by parameter NAME
    grad/NAME       that gradient: whole if it has at most 1536 elements, else [64] of its elements
    at/NAME         int64 [64], where those lie in the flattened gradient (only if not whole)
    versions        torch and transformers
Beside these in bert_tiny.npz:
    config          config.json as a JSON string
    weight/NAME     all parameters
    ACT/hidden, ACT/logits, ACT/loss, ACT/total_norm
                    the same weights with another hidden_act: gelu_new, relu
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

LABELS = 3
WHOLE = 1536
SAMPLES = 64
SENTENCES = [
    ("A gripping film, beautifully shot and acted.", None),
    ("Dull.", None),
    ("It is never a good sign when the audience laughs at the tragic parts of a movie.", None),
    ("Does the plot make sense?", "Not for a single minute!"),
]


def head(hidden_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [C, D] and bias [C] of the seeded head."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(LABELS, hidden_size)) * 0.02
    bias = rng.normal(size=LABELS) * 0.02
    return torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32)


def run(model: BertForSequenceClassification, inputs: dict[str, np.ndarray], labels: np.ndarray) -> dict:
    """Forward and backward pass; the keys of the module's text, gradients whole under "grad/"."""
    tensors = {name: torch.tensor(value, dtype=torch.long) for name, value in inputs.items()}
    model.zero_grad()
    body = model.bert(**tensors)
    logits = model.classifier(body.pooler_output)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels, dtype=torch.long))
    loss.backward()
    grads = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: np.linalg.norm(grad.astype(np.float64)) for name, grad in grads.items()}
    return {
        "hidden": body.last_hidden_state.detach().numpy()[inputs["attention_mask"] == 1],
        "pooled": body.pooler_output.detach().numpy(),
        "logits": logits.detach().numpy(),
        "loss": loss.detach().numpy(),
        "total_norm": np.sqrt(sum(norm**2 for norm in norms.values())),
        "names": np.array(sorted(grads)),
        **{f"norm/{name}": norm for name, norm in norms.items()},
        **{f"grad/{name}": grad for name, grad in grads.items()},
    }


def sampled(golden: dict) -> dict:
    """The golden with its large gradients cut down to some elements."""
    rng = np.random.default_rng(1)
    result = dict(golden)
    for name in golden["names"]:
        grad = golden[f"grad/{name}"]
        if grad.size > WHOLE:
            # Elements that are zero for certain (rows of words that do not occur) would prove nothing.
            nonzero = np.flatnonzero(grad)
            at = np.sort(rng.choice(nonzero, SAMPLES, replace=False))
            result[f"grad/{name}"], result[f"at/{name}"] = grad.reshape(-1)[at], at
    return result


def seeded(config: BertConfig, source: str | None = None) -> BertForSequenceClassification:
    """A classifier in evaluation mode with the seeded head, from a folder or at random."""
    config.num_labels = LABELS
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    if source is None:
        model = BertForSequenceClassification(config)
    else:
        model = BertForSequenceClassification.from_pretrained(
            source, config=config, attn_implementation="eager"
        )
    model = model.float().eval()
    with torch.no_grad():
        for parameter, value in zip(
            (model.classifier.weight, model.classifier.bias), head(config.hidden_size)
        ):
            parameter.copy_(value)
    return model


def make_minilm(folder: str) -> dict:
    """Keys of minilm.npz."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = [tokenizer(*(text for text in pair if text)) for pair in SENTENCES]
    padded = tokenizer.pad(encoded, return_tensors="np")
    inputs = {
        name: padded[name].astype(np.int32) for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    labels = np.array([0, 1, 2, 1], np.int32)
    model = seeded(BertConfig.from_pretrained(folder), folder)
    return {**inputs, "labels": labels, **sampled(run(model, inputs, labels)), **_head_keys(model)}


def make_tiny() -> dict:
    """Keys of bert_tiny.npz."""
    config = BertConfig(
        vocab_size=101,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        layer_norm_eps=1e-12,
        # Large enough for the activations to leave the range in which all kinds of GELU agree.
        initializer_range=0.5,
    )
    model = seeded(config)
    rng = np.random.default_rng(2)
    with torch.no_grad():
        # Fresh biases are 0 and norms 1: a swapped or forgotten one would not be seen.
        for parameter in model.bert.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.tensor(rng.normal(size=parameter.shape) * 0.1, dtype=torch.float32))
    lengths = np.array([12, 3, 17, 9])
    mask = (np.arange(17) < lengths[:, None]).astype(np.int32)
    types = np.zeros_like(mask)
    types[3, 5:9] = 1
    inputs = {
        "input_ids": (rng.integers(1, 101, mask.shape) * mask).astype(np.int32),
        "attention_mask": mask,
        "token_type_ids": types,
    }
    labels = np.array([2, 0, 1, 1], np.int32)
    golden = {**inputs, "labels": labels, **sampled(run(model, inputs, labels)), **_head_keys(model)}
    golden["config"] = json.dumps(config.to_dict())
    for name, parameter in model.named_parameters():
        golden[f"weight/{name}"] = parameter.detach().numpy()
    for activation in ("gelu_new", "relu"):
        config.hidden_act = activation
        other = seeded(config)
        other.load_state_dict(model.state_dict())
        result = run(other, inputs, labels)
        for key in ("hidden", "logits", "loss", "total_norm"):
            golden[f"{activation}/{key}"] = result[key]
    return golden


def _head_keys(model: BertForSequenceClassification) -> dict:
    return {
        "head/weight": model.classifier.weight.detach().numpy(),
        "head/bias": model.classifier.bias.detach().numpy(),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden files of the BERT tests.")
    parser.add_argument(
        "folder", help="Hugging Face folder of MiniLM-L6 (config.json, model.safetensors, tokenizer)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    args = parser.parse_args()
    torch.set_num_threads(2)
    for name, golden in (("minilm", make_minilm(args.folder)), ("bert_tiny", make_tiny())):
        path = args.out / f"{name}.npz"
        np.savez_compressed(path, **golden)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, loss {golden['loss']:.6f}")


if __name__ == "__main__":
    main()
