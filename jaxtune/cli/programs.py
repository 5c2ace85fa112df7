"""The command line of a program that takes part in a table: an experiment in, a record out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtune.config import Experiment, load_yaml
from jaxtune.errors import JaxtuneError
from jaxtune.reports.records import RECORD, RunRecord, dump_record


def record_main(
    description: str | None,
    evaluate: Callable[[Experiment, str], RunRecord],
    *,
    shown: Sequence[str] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Entry point of a program row (see ``docs/tables.md``): ``--config FILE --output FOLDER``.

    Args:
        description: help text.
        evaluate: ``(experiment, name) -> record``; raises JaxtuneError for what the user can put right.
        shown: metrics to print; none prints all numbers.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="an experiment, as a run's config.yaml")
    parser.add_argument("--output", required=True, help="folder for record.json")
    given = parser.parse_args(argv)
    target = Path(given.output) / RECORD
    try:
        experiment = load_yaml(Path(given.config).read_text(encoding="utf-8"), given.config)
        record = evaluate(experiment, target.parent.name)
    except (JaxtuneError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(dump_record(record), encoding="utf-8")
    found = record.metrics[record.split].items()
    numbers = {
        name: x for name, x in found if isinstance(x, int | float) and (shown is None or name in shown)
    }
    print("  ".join([str(target), *(f"{name} {x:.4f}" for name, x in numbers.items())]), file=sys.stderr)
    return 0
