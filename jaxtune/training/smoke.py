"""A preset made small enough to run anywhere, offline, in seconds: its own columns and options on rows of ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtune.config import DataConfig, Experiment, MeshConfig, ModelConfig
from jaxtune.errors import ConfigError
from jaxtune.hub.new_models import NEW, is_new
from jaxtune.hub.tokenizer_building import Recipe, build_tokenizer
from jaxtune.tasks.registry import TASKS, make_task

FIXTURES = Path(__file__).parent / "fixtures"
"""One file of rows per task, some thirty each, under the names that ``DataConfig`` gives its columns by default."""
SHARED = {"denoising": "masked_lm"}
"""Tasks that read the rows of another."""
STEPS = 8
SHARES = (2 / 3, 5 / 6)
"""Where the rows of validation and test begin."""
MOST_TOKENS, MOST_WRITTEN = 64, 16

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "bert": {**_SIZES, "max_position_embeddings": 512},
    "llama": {**_SIZES, "max_position_embeddings": 512},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
}
"""config.json of a model of two layers, by its model_type."""
MODEL_OF_HEAD = {"causal_lm": "llama", "seq2seq_lm": "t5"}
"""What stands in for a checkpoint; ``bert`` for every other head."""
TINY: Mapping[str, tuple[str, ...]] = {
    "bilstm": ("embedding_size=16", "hidden_size=32", "num_hidden_layers=2"),
    "textcnn": ("embedding_size=16", "num_filters=8"),
    "transformer": (
        *("d_model=32", "encoder_layers=2", "decoder_layers=2", "encoder_attention_heads=4"),
        *("decoder_attention_heads=4", "encoder_ffn_dim=64", "decoder_ffn_dim=64"),
    ),
}
"""Overrides that make a family small which starts by name."""
TOKENIZERS = {"llama": "bpe:500", "t5": "unigram:400", "bert": "wordpiece:400"}
SENTINELS = 32
CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def smoke_experiment(experiment: Experiment, folder: Path) -> Experiment:
    """The same experiment with a two-layer random model, a few rows of our own, and eight steps.

    Kept are the task and its options, the names of the columns, batching, optimizer and best metric. Nothing is
    fetched: rows, model and tokenizer are written to ``folder``.

    Raises:
        ConfigError: an option that the task does not have, or a task without rows.
    """
    task = make_task(experiment)
    rows = [*_renamed(read_fixture(experiment.task), task.columns_read, experiment.data.labels)]
    data = _data(experiment.data, rows, folder)
    texts = [text for row in rows for text in _texts(row)]
    train = dataclasses.replace(
        experiment.train,
        steps=STEPS,
        batch_size=min(experiment.train.batch_size, STEPS),
        log_every=STEPS // 2,
        accumulate=1,
        eval_every=None,
        save_every=None,
        patience=None,
    )
    return dataclasses.replace(
        experiment,
        name=f"{experiment.name}-smoke",
        output=str(folder / "runs"),
        resume="never",
        overwrite=True,
        model=_model(experiment.model, experiment.task, task.head, texts, folder),
        data=data,
        optim=dataclasses.replace(experiment.optim, learning_rate=3e-3, warmup=0.1),
        train=train,
        generation=dataclasses.replace(experiment.generation, beams=min(experiment.generation.beams, 2)),
        # So few rows do not divide over many devices.
        mesh=MeshConfig(devices=1),
    )


def read_fixture(task: str) -> list[dict[str, Any]]:
    """The rows for a task. Raises ConfigError if it has none."""
    path = FIXTURES / f"{SHARED.get(task, task)}.jsonl"
    if not path.is_file():
        there = ", ".join(name for name in TASKS if (FIXTURES / f"{SHARED.get(name, name)}.jsonl").is_file())
        raise ConfigError(f"--smoke has no rows for the task {task!r}; it has some for {there}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _renamed(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], labels: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows with the columns that an experiment names, and its declared labels in the place of ours.

    Args:
        columns: ``Task.columns_read``. A column that a fixture has under the very same name stays what it is
            (conversations in ``messages``), unless that is the name of an option.
    """
    options = {field.name for field in dataclasses.fields(DataConfig)}
    ours = sorted({str(label) for row in rows for label in _leaves(row.get("label"))})
    names = {label: labels[i % len(labels)] for i, label in enumerate(ours)} if labels else {}
    several = sum(option.startswith("data.choices") for option in columns)
    for row in rows:
        if several > 1:
            row = {**row, **_fewer_choices(row["choices"], row["label"], several)}
        own = {name: value for name, value in row.items() if name not in options}
        kept = set(own)
        for option, column in columns.items():
            name, _, place = option.removeprefix("data.").partition("[")
            if column in kept:
                continue
            if name == "label":
                own[column] = _named(row[name], names)
            elif name == "choices" and several > 1:
                own[column] = row[name][int(place.removesuffix("]") or 0)]
            else:
                own[column] = row[name]
        yield own


def _fewer_choices(choices: Sequence[str], right: int, count: int) -> dict[str, Any]:
    """As many choices as there are columns, the right one among them."""
    wrong = [choice for i, choice in enumerate(choices) if i != right][: count - 1]
    place = right % (len(wrong) + 1)
    return {"choices": [*wrong[:place], choices[right], *wrong[place:]], "label": place}


def _leaves(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _named(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names.get(str(value), value)


def _data(data: DataConfig, rows: Sequence[Mapping[str, Any]], folder: Path) -> DataConfig:
    """Files of the three splits, and lengths that take no time."""
    starts = [0, *(round(share * len(rows)) for share in SHARES), len(rows)]
    sources = {}
    for name, start, end in zip(("train", "validation", "test"), starts, starts[1:]):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[start:end]), encoding="utf-8")
        sources[name] = f"jsonl:{path}"
    return dataclasses.replace(
        data,
        train=sources["train"],
        validation=sources["validation"],
        test=sources["test"],
        max_length=min(data.max_length, MOST_TOKENS),
        max_target_length=min(data.max_target_length, MOST_WRITTEN),
        max_question_length=min(data.max_question_length, MOST_TOKENS // 2),
        doc_stride=min(data.doc_stride, MOST_TOKENS // 4),
        # Other sources, and what speaks of the preset's own rows.
        mix=(),
        augment=(),
        fold=None,
        shots=None,
        stratify=False,
        rows=None,
        row_length=None,
        limit=None,
    )


def _texts(value: Any) -> Iterator[str]:
    """Every string in a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _model(model: ModelConfig, task: str, head: str, texts: Sequence[str], folder: Path) -> ModelConfig:
    """The preset's family if it starts from random weights, else one that has the head; two layers of it."""
    family = model.source.removeprefix(NEW).partition(":")[0]
    if is_new(model.source) and family in TINY:
        recipe = model.tokenizer if model.tokenizer and Recipe.parse(model.tokenizer) else "bpe:500"
        return dataclasses.replace(model, overrides=(*model.overrides, *TINY[family]), tokenizer=recipe)
    kind = MODEL_OF_HEAD.get(head, "bert")
    path = folder / "model" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"model_type": kind, **MODELS[kind]}), encoding="utf-8")
    tokenizer = TOKENIZERS[kind]
    if task in ("causal_lm", "denoising"):
        tokenizer = str(folder / "tokenizer")
        _tokenizer(TOKENIZERS[kind], texts, head).save_pretrained(tokenizer)
    return dataclasses.replace(model, source=f"{NEW}{path}", overrides=(), tokenizer=tokenizer)


def _tokenizer(spec: str, texts: Sequence[str], head: str) -> Any:
    """A tokenizer with what cannot be learnt from texts: a chat template, or sentinels as T5's."""
    recipe = Recipe.parse(spec)
    assert recipe is not None
    if head == "causal_lm":
        tokenizer = build_tokenizer(recipe, texts, model_kind="decoder")
        tokenizer.chat_template = CHAT
        return tokenizer
    tokenizer = build_tokenizer(recipe, texts, model_kind="encoder_decoder")
    sentinels = [f"<extra_id_{i}>" for i in range(SENTINELS)]
    tokenizer.add_special_tokens({"additional_special_tokens": sentinels})
    return tokenizer
