"""The peer: Hugging Face Trainer on jaxtune's own split, with the recipe of the preset.

Runs in an environment with torch, transformers and accelerate; imports nothing of jaxtune.

    python benchmarks/peer_hf_trainer.py MODEL DATA [--seeds 0 1 2] [--out peer.json]

MODEL is a Hugging Face folder (config.json, model.safetensors, tokenizer); DATA a folder with
train.jsonl, validation.jsonl and test.jsonl, a line {"id": …, "text": …, "label": …} per example.
Trains once per seed (the seed also draws the head), evaluates after every epoch, and writes test
accuracies after the last epoch and after the epoch that was best on the validation split.

    python benchmarks/peer_hf_trainer.py MODEL --loss-curve 20 --batches batches.npz --head head.npz

instead takes given batches in their order, without dropout, and writes the loss of every step:
batches.npz holds input_ids, attention_mask and token_type_ids, integers [N, B, S], and labels [N, B];
head.npz holds classifier.weight [C, D] and classifier.bias [C]. The schedule spans the N steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

SPLITS = ("train", "validation", "test")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class LearningRates(TrainerCallback):
    """Notes the learning rate each step really used (Trainer logs the one of the next step)."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.values.append(float(optimizer.param_groups[0]["lr"]))


class AfterEpochs(TrainerCallback):
    """Evaluates every split given after every epoch, outside the time that counts as training."""

    def __init__(self, splits: dict[str, list[dict]]) -> None:
        self.splits = splits
        self.trainer: Trainer | None = None
        self.epochs: list[dict[str, float]] = []
        self.seconds = 0.0

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        assert self.trainer is not None
        start = time.perf_counter()
        result: dict[str, float] = {"epoch": state.epoch, "step": state.global_step}
        for name, examples in self.splits.items():
            predicted = self.trainer.predict(examples)
            result[f"{name}_accuracy"] = float(
                (predicted.predictions.argmax(-1) == predicted.label_ids).mean()
            )
            result[f"{name}_loss"] = float(predicted.metrics["test_loss"])
        self.epochs.append(result)
        self.seconds += time.perf_counter() - start
        model.train()


def read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    """Rows of one split."""
    with (folder / f"{split}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def thinned(rows: list[dict], limit: int | None) -> list[dict]:
    """At most ``limit`` rows, from all over the split: files are often sorted by label."""
    return rows if limit is None else rows[:: max(1, len(rows) // limit)][:limit]


def tokenize(rows: list[dict], labels: list, tokenizer, max_length: int) -> list[dict]:
    """Unpadded examples, as Trainer and its padding collator take them."""
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length)
    return [
        {name: encoded[name][i] for name in encoded} | {"labels": labels.index(row["label"])}
        for i, row in enumerate(rows)
    ]


def arguments(options: argparse.Namespace, seed: int, folder: str, **more) -> TrainingArguments:
    """The recipe. Whatever is not stated here is Trainer's default (AdamW, epsilon 1e-8)."""
    return TrainingArguments(
        output_dir=folder,
        seed=seed,
        data_seed=seed,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=128,
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        max_grad_norm=1.0,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def run_seed(
    options: argparse.Namespace, seed: int, examples: dict[str, list[dict]], labels: list, tokenizer
) -> dict:
    """One training from the checkpoint, with its accuracies and times."""
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=len(labels), dtype=torch.float32
    )
    after = AfterEpochs({name: examples[name] for name in ("validation", "test")})
    with tempfile.TemporaryDirectory() as folder:
        limits = (
            {"max_steps": options.max_steps} if options.max_steps else {"num_train_epochs": options.epochs}
        )
        after.trainer = trainer = Trainer(
            model=model,
            args=arguments(options, seed, folder, logging_steps=50, **limits),
            train_dataset=examples["train"],
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            callbacks=[after],
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start - after.seconds
    best = max(after.epochs, key=lambda epoch: epoch["validation_accuracy"])
    steps = trainer.state.global_step
    return {
        "seed": seed,
        "test_accuracy": after.epochs[-1]["test_accuracy"],
        "test_accuracy_of_best_epoch": best["test_accuracy"],
        "validation_accuracy": after.epochs[-1]["validation_accuracy"],
        "epochs": after.epochs,
        "steps": steps,
        "train_seconds": seconds,
        "examples_per_second": steps * options.batch_size / seconds,
        "evaluation_seconds": after.seconds,
        "losses": [[row["step"], row["loss"]] for row in trainer.state.log_history if "loss" in row],
    }


def accuracy_runs(options: argparse.Namespace) -> dict:
    """All seeds, and their means."""
    rows = {split: thinned(read_split(options.data, split), options.limit) for split in SPLITS}
    labels = sorted({row["label"] for row in rows["train"]})
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    examples = {split: tokenize(rows[split], labels, tokenizer, options.max_length) for split in SPLITS}
    runs = []
    for seed in options.seeds:
        runs.append(run_seed(options, seed, examples, labels, tokenizer))
        print({key: value for key, value in runs[-1].items() if key not in ("epochs", "losses")}, flush=True)
    accuracies = [run["test_accuracy"] for run in runs]
    return {
        "labels": labels,
        "rows": {split: len(rows[split]) for split in SPLITS},
        "test_accuracy": accuracies,
        "test_accuracy_mean": float(np.mean(accuracies)),
        "test_accuracy_of_best_epoch_mean": float(
            np.mean([run["test_accuracy_of_best_epoch"] for run in runs])
        ),
        "runs": runs,
    }


def loss_curve(options: argparse.Namespace) -> dict:
    """Loss of every step on given batches, without dropout, from a given head."""
    batches, head = np.load(options.batches), np.load(options.head)
    steps, options.batch_size, length = batches["input_ids"].shape
    if options.loss_curve > steps:
        raise SystemExit(f"{options.batches} holds {steps} batches, asked for {options.loss_curve}")
    steps = options.loss_curve
    config = AutoConfig.from_pretrained(options.model, num_labels=len(head["classifier.bias"]))
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.classifier_dropout = 0.0
    model = AutoModelForSequenceClassification.from_pretrained(
        options.model, config=config, dtype=torch.float32
    )
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(head["classifier.weight"]))
        model.classifier.bias.copy_(torch.from_numpy(head["classifier.bias"]))
    flat = {name: batches[name][:steps].reshape(-1, length).astype(np.int64) for name in INPUTS}
    targets = batches["labels"][:steps].reshape(-1).astype(np.int64)
    examples = [
        {name: flat[name][i] for name in INPUTS} | {"labels": int(targets[i])} for i in range(len(targets))
    ]
    rates = LearningRates()
    with tempfile.TemporaryDirectory() as folder:
        more = {"max_steps": steps, "logging_steps": 1, "train_sampling_strategy": "sequential"}
        trainer = Trainer(
            model=model,
            args=arguments(options, 0, folder, **more),
            train_dataset=examples,
            data_collator=default_data_collator,
            callbacks=[rates],
        )
        trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    return {
        "steps": [row["step"] for row in logged],
        "losses": [row["loss"] for row in logged],
        "grad_norms": [float(row["grad_norm"]) for row in logged],
        "learning_rates": rates.values,
    }


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument(
        "data", nargs="?", type=Path, help="folder with train.jsonl, validation.jsonl, test.jsonl"
    )
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument(
        "--warmup", type=float, default=0.1, help="share of all steps, or a number of steps from 1 on"
    )
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--max-steps", type=int, help="stop after so many steps (for a quick look)")
    parser.add_argument("--limit", type=int, help="use only so many rows of each split (for a quick look)")
    parser.add_argument("--threads", type=int, help="threads of torch; none leaves its own choice")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--loss-curve", type=int, metavar="N", help="write the losses of N steps on --batches"
    )
    parser.add_argument("--batches", type=Path, help="npz, see above")
    parser.add_argument("--head", type=Path, help="npz, see above")
    options = parser.parse_args(argv)
    if options.loss_curve is None and options.data is None:
        parser.error("DATA is needed: a folder with train.jsonl, validation.jsonl and test.jsonl")
    if options.loss_curve is not None and not (options.batches and options.head):
        parser.error("--loss-curve needs --batches and --head")
    return options


def main(argv: list[str]) -> None:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    result = accuracy_runs(options) if options.loss_curve is None else loss_curve(options)
    recipe = (
        "epochs",
        "batch_size",
        "learning_rate",
        "warmup",
        "weight_decay",
        "max_length",
        "max_steps",
        "limit",
    )
    result["recipe"] = {name: getattr(options, name) for name in recipe}
    result["versions"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
    }
    result["machine"] = {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    shown = {key: value for key, value in result.items() if key not in ("runs", "versions", "machine")}
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
