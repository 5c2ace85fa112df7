"""Writes trainer_tiny.npz: twenty losses of Hugging Face Trainer on the tiny BERT of bert_tiny.npz.

    python tests/goldens/make_trainer_goldens.py [--out tests/goldens]

runs under torch, transformers and accelerate (nothing of jaxtune) and trains through
benchmarks/peer_hf_trainer.py. Float32, no dropout. The label is told by the first token, so there is
something to learn. The recipe is that of the benchmark, but with a rate and a weight decay at
which a mistake in any part of it shows within twenty steps.

Keys:
    input_ids, attention_mask, token_type_ids   int8 [N, B, S]
    labels                                      int8 [N, B]
    losses, grad_norms, learning_rates          float64 [N]; norms before clipping
    recipe          learning_rate, warmup, weight_decay as a JSON string
    versions        torch, transformers and accelerate, as a JSON string
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import accelerate
import numpy as np
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

HERE = Path(__file__).parent
STEPS, BATCH, LENGTH, LABELS = 20, 16, 24, 3
RECIPE = {"learning_rate": 1e-2, "warmup": 0.1, "weight_decay": 0.1}


def peer() -> ModuleType:
    """benchmarks/peer_hf_trainer.py."""
    path = HERE.parents[1] / "benchmarks" / "peer_hf_trainer.py"
    spec = importlib.util.spec_from_file_location("peer_hf_trainer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_batches(vocab_size: int) -> dict[str, np.ndarray]:
    """Texts of 4 to 24 tokens, every third a sentence pair."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, LENGTH + 1, (STEPS, BATCH))
    labels = rng.integers(0, LABELS, (STEPS, BATCH))
    mask = np.arange(LENGTH) < lengths[..., None]
    tokens = rng.integers(1 + LABELS, vocab_size, mask.shape)
    tokens[..., 0] = 1 + labels
    types = np.arange(LENGTH) >= lengths[..., None] // 2
    types[:, np.arange(BATCH) % 3 != 0] = False
    batches = {
        "input_ids": tokens * mask,
        "attention_mask": mask,
        "token_type_ids": types & mask,
        "labels": labels,
    }
    return {name: array.astype(np.int8) for name, array in batches.items()}


def write_model(golden: Any, folder: Path) -> None:
    """The tiny BERT as a Hugging Face folder, its head as head.npz beside it."""
    config = BertConfig(**json.loads(str(golden["config"])))
    model = BertForSequenceClassification(config)
    weights = {n.removeprefix("weight/"): golden[n] for n in golden.files if n.startswith("weight/")}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    model.save_pretrained(folder)
    np.savez(folder / "head.npz", **{n: weights[n] for n in ("classifier.weight", "classifier.bias")})


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden file of the Trainer parity test.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    args = parser.parse_args()
    trainer = peer()
    tiny = np.load(HERE / "bert_tiny.npz")
    batches = make_batches(json.loads(str(tiny["config"]))["vocab_size"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_model(tiny, folder)
        np.savez(folder / "batches.npz", **batches)
        files = ["--batches", str(folder / "batches.npz"), "--head", str(folder / "head.npz")]
        recipe = [
            word for name, value in RECIPE.items() for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        result = trainer.loss_curve(trainer.parse([str(folder), "--loss-curve", str(STEPS), *files, *recipe]))
    golden = {name: np.array(result[name]) for name in ("losses", "grad_norms", "learning_rates")}
    golden["recipe"] = np.array(json.dumps(RECIPE))
    golden["versions"] = np.array(
        json.dumps({module.__name__: module.__version__ for module in (torch, transformers, accelerate)})
    )
    path = args.out / "trainer_tiny.npz"
    np.savez_compressed(path, **batches, **golden)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
    for name in ("losses", "grad_norms", "learning_rates"):
        print(name, np.array2string(golden[name], precision=5))


if __name__ == "__main__":
    main()
