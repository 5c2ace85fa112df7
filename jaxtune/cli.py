"""The ``jaxtune`` command: parse, call, print."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from jaxtune import files
from jaxtune.config import Experiment, load_yaml
from jaxtune.errors import ConfigError, DataError, JaxtuneError, RunError

USER_ERROR = 2


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate a run on one of its splits, or on a file.

    Example: jaxtune evaluate runs/movie-reviews --split test --json
    """

    run: tyro.conf.Positional[str]
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

    run: tyro.conf.Positional[str]
    """Run directory."""
    text: tuple[str, ...] = ()
    """Texts to read."""
    input: str | None = None
    """File of records: .jsonl, .csv, .tsv, .parquet, or .txt with one text a line."""
    output: str | None = None
    """File for the predictions, one JSON line a record; none prints them."""
    overwrite: bool = False
    """Replace the output file if it exists."""

    def __call__(self) -> int:
        from jaxtune.training.run import open_run

        if self.text and self.input:
            raise ConfigError("give either --text or --input, not both")
        if self.output and files.exists(self.output) and not self.overwrite:
            raise RunError(f"{self.output} exists; choose another --output, or replace it with --overwrite")
        run = open_run(self.run)
        if self.input:
            predictions = run.predict_file(self.input)
        else:
            texts = list(self.text) or _lines_of_stdin()
            predictions = run.predict(texts)
        lines = [json.dumps(p, ensure_ascii=False) for p in predictions]
        if self.output:
            files.write_text(self.output, "".join(f"{line}\n" for line in lines))
            print(f"{len(lines)} predictions written to {self.output}", file=sys.stderr)
        else:
            print("\n".join(lines))
        return 0


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run's best model as a Hugging Face folder: config.json, model.safetensors, tokenizer.

    Example: jaxtune export runs/movie-reviews my-model
    """

    run: tyro.conf.Positional[str]
    """Run directory."""
    folder: tyro.conf.Positional[str]
    """Folder to write."""
    overwrite: bool = False
    """Replace a checkpoint that is there."""

    def __call__(self) -> int:
        from jaxtune.training.run import open_run

        open_run(self.run).export(self.folder, overwrite=self.overwrite)
        print(f"{self.folder}: load it with transformers, or with jaxtune.load_pretrained", file=sys.stderr)
        return 0


@dataclasses.dataclass(frozen=True)
class Info:
    """Show what jaxtune sees: versions, devices, the precision it would take and why; or the state of a run.

    Example: jaxtune info
    Example: jaxtune info runs/movie-reviews
    """

    run: tyro.conf.Positional[str | None] = None
    """Run directory; none shows the machine."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        from jaxtune.training.run import describe_machine, open_run

        facts = describe_machine() if self.run is None else open_run(self.run).describe()
        if self.json:
            print(json.dumps(facts, indent=2, ensure_ascii=False))
        else:
            _print_facts(facts)
        return 0


COMMANDS: dict[str, Any] = {"evaluate": Evaluate, "predict": Predict, "export": Export, "info": Info}

USAGE = """\
usage: jaxtune COMMAND …

Fine-tune language models in JAX/Flax: Hugging Face checkpoints in, Hugging Face checkpoints out.

  train      fine-tune a checkpoint       jaxtune train --config experiment.yaml --optim.learning-rate 3e-5
  evaluate   metrics of a run on a split  jaxtune evaluate runs/movie-reviews --split test --json
  predict    predict with a run           jaxtune predict runs/movie-reviews --text "A film to see twice."
  export     a run as a Hugging Face folder  jaxtune export runs/movie-reviews my-model
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
    if name not in COMMANDS:
        print(f"jaxtune: no command {name!r}; there are: train, {', '.join(COMMANDS)}", file=sys.stderr)
        return USER_ERROR
    command = tyro.cli(COMMANDS[name], prog=f"jaxtune {name}", args=rest)
    return guarded(command)


def presets_main(presets: Mapping[str, tuple[str, Experiment]], argv: Sequence[str] | None = None) -> int:
    """Entry point of an experiment script: ``script PRESET [--field value …]``.

    Args:
        presets: name → (one line of description, experiment).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    experiment = tyro.extras.overridable_config_cli(dict(presets), args=argv)
    return guarded(lambda: run_training(experiment))


def run_training(experiment: Experiment) -> int:
    """Train, and say where the result lies and what can be done with it."""
    from jaxtune.training.run import train
    from jaxtune.training.stop_signals import EXIT_CODES

    run = train(experiment)
    return EXIT_CODES[run.interrupted] if run.interrupted is not None else 0


def guarded(work: Callable[[], int]) -> int:
    """Run a command; a ``JaxtuneError`` becomes its message and exit status 2."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("jaxtune").setLevel(logging.INFO)
    try:
        return work()
    except JaxtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 0


def _train_command(argv: list[str]) -> int:
    """``jaxtune train [--config FILE] [--field value …]``: the file first, then the fields given beside it."""
    default, rest = Experiment(), []
    iterator = iter(argv)
    for word in iterator:
        name, equals, value = word.partition("=")
        if name not in ("--config", "-c"):
            rest.append(word)
            continue
        path = value if equals else next(iterator, "")
        if not path or not files.exists(path):
            raise ConfigError(f"--config {path}: no such file; expected a YAML file, as a run's config.yaml")
        default = load_yaml(files.read_text(path), path)
    description = (
        "Fine-tune a checkpoint. Fields come from --config FILE (YAML) and then from the command line.\n\n"
        "Example: jaxtune train --model.source bert-base-uncased --data.train csv:reviews.csv --name reviews\n"
        "Example: jaxtune train --config runs/reviews/config.yaml --name reviews-2 --optim.learning-rate 3e-5"
    )
    experiment = tyro.cli(
        Experiment, prog="jaxtune train", args=rest, default=default, description=description
    )
    return run_training(experiment)


def _lines_of_stdin() -> list[str]:
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError("nothing to predict: give --text, --input FILE, or lines on standard input")
    lines = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not lines:
        raise DataError("nothing to predict: standard input is empty; give --text, --input FILE, or lines")
    return lines


def _print_facts(facts: Mapping[str, Any]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        print(f"{name:<{width}}  {shown}")


if __name__ == "__main__":
    sys.exit(main())
