#!/usr/bin/env python3
"""Adapt an encoder-decoder to a kind of text: it learns to repair damaged texts, as T5 and BART were made.

    python experiments/denoising.py t5-reviews
    python experiments/denoising.py bart-reviews --data.permute-sentences

Every preset is a plain ``Experiment``: copy one, change what differs.
"""

import sys

from jaxtune import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from jaxtune.cli import presets_main

REVIEWS = DataConfig(train="tfds:vader_icwsm2014/movie")

PRESETS: dict[str, tuple[str, Experiment]] = {
    "t5-reviews": (
        "FLAN-T5-small on the sentences of movie reviews: spans are cut out and told.",
        Experiment(
            name="t5-reviews",
            task="denoising",
            model=ModelConfig(source="google/flan-t5-small"),
            data=REVIEWS,
            optim=OptimConfig(name="adafactor", learning_rate=1e-3, schedule="constant", weight_decay=0.0),
            train=TrainConfig(epochs=1, batch_size=32, eval_at_start=True),
        ),
    ),
    "bart-reviews": (
        "BART on the sentences of movie reviews: spans of words become masks, the whole text is told.",
        Experiment(
            name="bart-reviews",
            task="denoising",
            model=ModelConfig(source="facebook/bart-base"),
            data=REVIEWS,
            optim=OptimConfig(learning_rate=3e-5),
            train=TrainConfig(epochs=1, batch_size=32, eval_at_start=True),
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
