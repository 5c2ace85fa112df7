#!/usr/bin/env python3
"""Fine-tune an encoder-decoder to translate, or train a small Transformer from scratch.

    python experiments/translation.py debian-en-de --train.steps 300
    python experiments/translation.py transformer-debian-en-de
    python experiments/translation.py parallel --data.train parallel:train.en,train.de --data.prefix "translate English to German: "

Evaluations while training watch the loss; when the best model is known, a beam search translates validation and test,
and BLEU, chrF and TER are those of sacreBLEU. Every preset is a plain ``Experiment``: copy one, change what differs.
"""

import dataclasses
import sys

from jaxtune import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from jaxtune.cli import presets_main

T5 = ModelConfig(source="google/flan-t5-small")
MARIAN = ModelConfig(source="Helsinki-NLP/opus-mt-en-de")
SMALL_TRANSFORMER = ModelConfig(
    source="new:transformer:small",
    overrides=("normalize_before=true",),
    tokenizer="bpe:8000",
    normalizer="none",
)

T5_RECIPE = OptimConfig(learning_rate=5e-4, schedule="linear", warmup=0.05, weight_decay=0.0)
SCRATCH_RECIPE = OptimConfig(
    learning_rate=1e-3, schedule="inverse_sqrt", warmup=400, weight_decay=0.01, beta2=0.98
)

ENGLISH_GERMAN = DataConfig(
    train="tfds:debian_descriptions/en-de", text="en", target="de", max_length=128, max_target_length=160
)
ENGLISH_FRENCH = dataclasses.replace(ENGLISH_GERMAN, train="tfds:debian_descriptions/en-fr", target="fr")


def t5(name: str, data: DataConfig, language: str, train: TrainConfig) -> Experiment:
    """FLAN-T5-small, told in words what to do."""
    data = dataclasses.replace(data, prefix=f"translate English to {language}: ")
    return Experiment(name=name, task="translation", model=T5, data=data, optim=T5_RECIPE, train=train)


def from_scratch(name: str, data: DataConfig) -> Experiment:
    """A Transformer of 9 million parameters that has seen nothing else."""
    return Experiment(
        name=name,
        task="translation",
        model=SMALL_TRANSFORMER,
        data=data,
        optim=SCRATCH_RECIPE,
        train=TrainConfig(steps=1500, batch_size=48, label_smoothing=0.1, eval_every=500),
    )


DEBIAN = TrainConfig(steps=1500, batch_size=16, eval_every=500)
WMT = TrainConfig(epochs=1, batch_size=128, label_smoothing=0.1, eval_every=2000)

PRESETS: dict[str, tuple[str, Experiment]] = {
    "debian-en-de": (
        "FLAN-T5-small on 18,768 descriptions of Debian packages, English to German (needs apt, for the data).",
        t5("debian-en-de", ENGLISH_GERMAN, "German", DEBIAN),
    ),
    "debian-en-fr": (
        "FLAN-T5-small on 29,738 descriptions of Debian packages, English to French (needs apt, for the data).",
        t5("debian-en-fr", ENGLISH_FRENCH, "French", DEBIAN),
    ),
    "transformer-debian-en-de": (
        "A Transformer of 9 million parameters from random weights on the same German descriptions.",
        from_scratch("transformer-debian-en-de", ENGLISH_GERMAN),
    ),
    "wmt16-en-de": (
        "FLAN-T5-small on WMT 2016, English to German (TFDS).",
        t5(
            "wmt16-en-de",
            DataConfig(train="tfds:wmt16_translate/de-en", text="en", target="de"),
            "German",
            WMT,
        ),
    ),
    "opus-en-fr": (
        "FLAN-T5-small on OPUS Books, English to French (Hugging Face Hub).",
        t5(
            "opus-en-fr",
            DataConfig(
                train="hf:Helsinki-NLP/opus_books:en-fr", text="translation.en", target="translation.fr"
            ),
            "French",
            WMT,
        ),
    ),
    "parallel": (
        "Marian (opus-mt-en-de) on two files of your own, line by line: --data.train parallel:FILE,FILE",
        Experiment(
            name="parallel",
            task="translation",
            model=MARIAN,
            data=DataConfig(text="source", target="target"),
            optim=OptimConfig(learning_rate=5e-5),
            train=TrainConfig(epochs=3, batch_size=32),
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
