"""The ``jaxtune`` command: parse, call, print."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from jaxtune import files
from jaxtune.cli import plan, smoke
from jaxtune.cli.generate import Generate
from jaxtune.cli.output import check_output, columns, json_line, lines_of_stdin, print_lines, write_output
from jaxtune.cli.table import Table
from jaxtune.config import Experiment, MeshConfig, load_yaml
from jaxtune.errors import ConfigError, JaxtuneError, ProcessError
from jaxtune.parallel.distributed import LOST_EXIT_CODE, as_process, start_distributed

USER_ERROR = 2
INTERRUPTED = 130

_RunArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate a run on one of its splits, or on a file.

    Example: jaxtune evaluate runs/movie-reviews --split test --json

    Example: jaxtune evaluate runs/movie-reviews --data csv:reviews.csv
    """

    run: _RunArgument
    """Run directory."""
    split: str = "test"
    """Which split: train, validation or test."""
    data: str | None = None
    """Another labelled source instead, as csv:reviews.csv."""
    json: bool = False
    """Print JSON with every metric instead of a table."""

    def __call__(self) -> int:
        from jaxtune.training.run import open_run

        metrics = open_run(self.run).evaluate(self.split, data=self.data)
        if self.json:
            print(json.dumps(metrics, indent=2, ensure_ascii=False))
        else:
            width = max(map(len, metrics))
            for name, value in metrics.items():
                if isinstance(value, (int, float)):
                    print(f"{name:<{width}}  {value:.4f}")
        return 0


@dataclasses.dataclass(frozen=True)
class Predict:
    """Predict with a run: texts from the command line, a file, or lines from standard input.

    Example: jaxtune predict runs/movie-reviews --text "A film to see twice."

    Example: jaxtune predict runs/movie-reviews --input reviews.jsonl --output predictions.jsonl
    """

    run: _RunArgument
    """Run directory."""
    text: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """Texts to read."""
    input: str | None = None
    """File of records: .jsonl, .csv, .tsv, .parquet, or .txt with one text a line. Each is repeated beside its prediction."""
    output: str | None = None
    """File for the predictions, one JSON line a record; none prints them."""
    overwrite: bool = False
    """Replace the output file if it exists."""

    def __call__(self) -> int:
        from jaxtune.training.run import open_run

        texts = [text for given in self.text for text in given]
        if self.text and self.input:
            raise ConfigError("give either --text or --input, not both")
        if self.text and not texts:
            raise ConfigError("--text names no text; expected one or more")
        if self.output:
            check_output(self.output, self.overwrite)
        run = open_run(self.run)
        if self.input:
            predictions = run.predict_file(self.input)
        elif texts:
            predictions = run.predict(texts)
        else:
            lines = lines_of_stdin()
            answers = run.predict(lines)
            predictions = [{"text": line, "prediction": answer} for line, answer in zip(lines, answers)]
        if self.output:
            write_output(self.output, map(json_line, predictions))
            print(f"{len(predictions)} predictions written to {self.output}", file=sys.stderr)
        else:
            print_lines(map(json_line, predictions))
        return 0


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run's best model, or any checkpoint, as a Hugging Face folder: config.json, safetensors, tokenizer.

    Example: jaxtune export runs/movie-reviews my-model

    Example: jaxtune export model.Q4_K.gguf my-model --dtype bfloat16
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Run directory, or a checkpoint by any name: folder, .gguf file, org/name, pypi:…, gs://…"""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder to write."""
    modern_names: bool = False
    """Name every tensor as transformers does today, once, and leave out what the model does not use."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Type of the weights; none keeps each tensor's own."""
    overwrite: bool = False
    """Replace a checkpoint that is there."""

    def __call__(self) -> int:
        from jaxtune import load_pretrained, open_run, save_pretrained

        if files.exists(files.join(self.source, "config.yaml")):
            model = open_run(self.source).pretrained()
        else:
            # bfloat16 stays bfloat16: half the memory.
            model = load_pretrained(self.source, "auto", param_dtype="auto")
        save_pretrained(
            self.folder, model, overwrite=self.overwrite, modern_names=self.modern_names, dtype=self.dtype
        )
        print(f"{self.folder}: load it with transformers, or with jaxtune.load_pretrained", file=sys.stderr)
        return 0


@dataclasses.dataclass(frozen=True)
class Info:
    """Show what jaxtune sees: versions, devices, the precision it would take and why; or the state of a run.

    Example: jaxtune info

    Example: jaxtune info runs/movie-reviews

    Example: jaxtune info runs/movie-reviews --sharding --mesh.fsdp 8 --mesh.tensor 4
    """

    run: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """Run directory; none shows the machine."""
    json: bool = False
    """Print JSON."""
    sharding: bool = False
    """Show instead where the run's parameters lie on its mesh, or on that of --mesh."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """Another mesh for --sharding; no devices are needed."""

    def __call__(self) -> int:
        from jaxtune.training.run import describe_machine

        if self.sharding:
            return self._print_sharding()
        facts = describe_machine() if self.run is None else _describe_run(self.run)
        if self.json:
            print(json.dumps(facts, indent=2, ensure_ascii=False))
        else:
            _print_facts(facts)
        return 0

    def _print_sharding(self) -> int:
        from jaxtune.training.run import open_run

        if self.run is None:
            raise ConfigError("--sharding needs a run directory: jaxtune info runs/movie-reviews --sharding")
        rows = open_run(self.run).sharding(None if self.mesh == MeshConfig() else self.mesh)
        if self.json:
            print(json.dumps(rows, indent=2, ensure_ascii=False))
        else:
            print_lines(columns(rows))
        return 0


COMMANDS: dict[str, Any] = {
    "evaluate": Evaluate,
    "predict": Predict,
    "generate": Generate,
    "export": Export,
    "table": Table,
    "info": Info,
}

USAGE = """\
usage: jaxtune COMMAND …

Fine-tune language models in JAX/Flax: Hugging Face checkpoints in, Hugging Face checkpoints out.

  train      fine-tune a checkpoint       jaxtune train --config experiment.yaml --optim.learning-rate 3e-5
  evaluate   metrics of a run on a split  jaxtune evaluate runs/movie-reviews --split test --json
  predict    predict with a run           jaxtune predict runs/movie-reviews --text "A film to see twice."
  generate   continue or answer texts     jaxtune generate my-model --prompt "The capital of France is"
  export     a run, or any checkpoint, as a Hugging Face folder  jaxtune export runs/movie-reviews my-model
  table      runs, tasks and seeds, compared  jaxtune table sentiment --run --format latex
  plan       which mesh, before any TPU is rented  jaxtune plan llama-3-8b --topology v5e:16x16 --sweep
  sweep      step times of every mesh of this machine  jaxtune sweep runs/movie-reviews --over mesh
  info       versions, devices, or a run  jaxtune info runs/movie-reviews

Each command explains itself: jaxtune train --help. Ready-made experiments: python experiments/classification.py --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``jaxtune`` command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else USER_ERROR
    if argv[0] == "--version":
        from jaxtune import __version__

        print(__version__)
        return 0
    name, rest = argv[0], argv[1:]
    if name == "train":
        return guarded(lambda: _train_command(rest))
    if name in plan.NAMES:
        return guarded(lambda: plan.command_of(name, rest)())
    if name not in COMMANDS:
        there = ("train", *COMMANDS, *plan.NAMES)
        print(f"jaxtune: no command {name!r}; there are: {', '.join(there)}", file=sys.stderr)
        return USER_ERROR
    kind = COMMANDS[name]
    command = tyro.cli(kind, prog=f"jaxtune {name}", args=rest, description=inspect.getdoc(kind))
    return guarded(command)


def presets_main(presets: Mapping[str, tuple[str, Experiment]], argv: Sequence[str] | None = None) -> int:
    """Entry point of an experiment script: ``script PRESET [--field value …] [--smoke]``.

    Args:
        presets: name → (one line of description, experiment).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    fields = [word for word in argv if word != smoke.FLAG]
    if fields and fields[0] in presets:  # its own --help; the list of all presets says it once
        text, experiment = presets[fields[0]]
        presets = {**presets, fields[0]: (f"{text}\n\n{smoke.HELP}", experiment)}
    experiment = tyro.extras.overridable_config_cli(dict(presets), args=fields, description=smoke.HELP)
    if smoke.FLAG not in argv:
        return guarded(lambda: run_training(experiment))
    keep = any(word.partition("=")[0] == "--output" for word in fields)
    return guarded(lambda: smoke.run_smoke(experiment, keep=keep))


def run_training(experiment: Experiment) -> int:
    """Train, as one of several processes where there are any, and return the exit status."""
    start_distributed()
    from jaxtune.training.stop_signals import exit_code
    from jaxtune.training.train import train

    try:
        run = train(experiment)
    except KeyboardInterrupt:
        print(
            "interrupted at once, without a save; the same command goes on from the newest checkpoint, if there is one",
            file=sys.stderr,
        )
        return INTERRUPTED
    return exit_code(experiment, run.interrupted)


_USERS_DISK = {
    errno.ENOSPC: "Make room, then start the same command again.",
    errno.EDQUOT: "Your quota is used up: make room, then start the same command again.",
    errno.EROFS: "Choose a place that can be written (--output, or JAXTUNE_CACHE for the cache).",
    errno.EACCES: "Choose a place that you may use (--output, or JAXTUNE_CACHE for the cache).",
    errno.EPERM: "Choose a place that you may use (--output, or JAXTUNE_CACHE for the cache).",
}
"""What a user can do where a disk or its owner refuses, whatever file of ours it was."""


def guarded(work: Callable[[], int]) -> int:
    """Run a command; what the user can put right becomes a message and exit status 2, never a traceback."""
    _log_to_stderr()
    return as_process(lambda: _with_messages(work))


def _with_messages(work: Callable[[], int]) -> int:
    try:
        return work()
    except ProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        return LOST_EXIT_CODE
    except JaxtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _USERS_DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}. {_USERS_DISK[error.errno]}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("jaxtune").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Leaves out the tracebacks that Orbax logs of a failed save: our error says what happened."""
    return record.name not in ("absl", "asyncio") or record.levelno >= logging.CRITICAL


def _train_command(argv: list[str]) -> int:
    """``jaxtune train [--config FILE] [--field value …]``: the file first, then the fields given beside it."""
    default, rest = Experiment(), []
    iterator = iter(argv)
    for word in iterator:
        name, equals, value = word.partition("=")
        if name not in ("--config", "-c"):
            rest.append(word)
            continue
        default = _read_config(value if equals else next(iterator, ""))
    description = (
        "Fine-tune a checkpoint. Fields come from --config FILE (YAML) and then from the command line.\n\n"
        "Example: jaxtune train --model.source bert-base-uncased --data.train csv:reviews.csv --name reviews\n\n"
        "Example: jaxtune train --config runs/reviews/config.yaml --name reviews-2 --optim.learning-rate 3e-5"
    )
    experiment = tyro.cli(
        Experiment, prog="jaxtune train", args=rest, default=default, description=description
    )
    return run_training(experiment)


def _read_config(path: str) -> Experiment:
    expected = "expected a YAML file, as a run's config.yaml"
    if not path:
        raise ConfigError(f"--config names no file; {expected}")
    if files.is_dir(path):
        inside = files.join(path, "config.yaml")
        hint = f"; did you mean {inside}?" if files.exists(inside) else ""
        raise ConfigError(f"--config {path} is a folder; {expected}{hint}")
    if not files.exists(path):
        raise ConfigError(f"--config {path}: no such file; {expected}")
    try:
        return load_yaml(files.read_text(path), path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: not valid UTF-8 at byte {error.start}; {expected}") from None


def _describe_run(path: str) -> dict[str, Any]:
    """Where a run stands, and which kernels compute attention in it on this machine."""
    from jaxtune.plan.program import attention_of
    from jaxtune.plan.reading import raw_config_of, with_precision_for
    from jaxtune.training.run import open_run

    run = open_run(path)
    facts = run.describe()
    try:
        experiment = with_precision_for(run.config, accelerated=False)
        facts["attention"] = attention_of(experiment, raw_config_of(experiment, path))
    except JaxtuneError as error:  # of a run that has not begun, or was made for other machines
        facts["attention"] = f"not known here: {error}"
    return facts


def _print_facts(facts: Mapping[str, Any]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = [f"{k} {v}" for k, v in value.items()]
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        print(f"{name:<{width}}  {'none' if shown in (None, '') else shown}")
