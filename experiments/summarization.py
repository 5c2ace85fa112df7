#!/usr/bin/env python3
"""Fine-tune an encoder-decoder to summarize.

    python experiments/summarization.py debian --train.steps 300
    python experiments/summarization.py jsonl --data.train jsonl:articles.jsonl --data.text article --data.target summary

Evaluations while training watch the loss; when the best model is known, a beam search summarizes validation and test,
and ROUGE is that of rouge-score. Every preset is a plain ``Experiment``: copy one, change what differs.
"""

import sys

from jaxtune import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from jaxtune.cli import presets_main
from jaxtune.config import GenerationConfig

T5 = ModelConfig(source="google/flan-t5-small")
BART = ModelConfig(source="facebook/bart-base")
T5_RECIPE = OptimConfig(learning_rate=5e-4, schedule="linear", warmup=0.05, weight_decay=0.0)
BART_RECIPE = OptimConfig(learning_rate=3e-5, schedule="linear", warmup=0.05)


def news(name: str, source: str, text: str, target: str, target_length: int) -> Experiment:
    """BART-base on articles of a newspaper."""
    return Experiment(
        name=name,
        task="summarization",
        model=BART,
        data=DataConfig(
            train=source, text=text, target=target, max_length=1024, max_target_length=target_length
        ),
        optim=BART_RECIPE,
        train=TrainConfig(epochs=1, batch_size=32, label_smoothing=0.1, eval_every=2000),
        generation=GenerationConfig(beams=4, length_penalty=2.0, no_repeat_ngram=3),
    )


PRESETS: dict[str, tuple[str, Experiment]] = {
    "debian": (
        "FLAN-T5-small on 60,733 Debian packages: the one line that a long description has (needs apt, for the data).",
        Experiment(
            name="debian",
            task="summarization",
            model=T5,
            data=DataConfig(
                train="tfds:debian_descriptions/summaries",
                text="document",
                target="summary",
                prefix="summarize: ",
                max_length=192,
                max_target_length=32,
            ),
            optim=T5_RECIPE,
            train=TrainConfig(steps=1500, batch_size=16, eval_every=500),
        ),
    ),
    "cnn-dailymail": (
        "BART-base on CNN/DailyMail: the highlights of an article (TFDS).",
        news("cnn-dailymail", "tfds:cnn_dailymail", "article", "highlights", 142),
    ),
    "xsum": (
        "BART-base on XSum: one sentence per article of the BBC (Hugging Face Hub).",
        news("xsum", "hf:EdinburghNLP/xsum", "document", "summary", 62),
    ),
    "jsonl": (
        "FLAN-T5-small on a file of your own, columns `text` and `target` or others you name: --data.train jsonl:FILE",
        Experiment(
            name="jsonl",
            task="summarization",
            model=T5,
            data=DataConfig(prefix="summarize: ", max_length=512),
            optim=T5_RECIPE,
            train=TrainConfig(epochs=3, batch_size=16),
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
