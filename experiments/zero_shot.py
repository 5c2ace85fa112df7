#!/usr/bin/env python3
"""What a checkpoint does before any fine-tuning, on the test rows of an experiment, as a record for a table.

    python experiments/zero_shot.py --config config.yaml --output runs/zero-shot-en-de

It is evaluated just as a run of the same configuration is when it has finished.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jaxtune.config import load_yaml
from jaxtune.errors import JaxtuneError
from jaxtune.reports.records import RECORD, dump_record
from jaxtune.training.untrained import evaluate_untrained


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="an experiment, as a run's config.yaml")
    parser.add_argument("--output", required=True, help="folder for record.json")
    given = parser.parse_args(argv)
    try:
        experiment = load_yaml(Path(given.config).read_text(encoding="utf-8"), given.config)
        record = evaluate_untrained(experiment, Path(given.output).name)
    except (JaxtuneError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    target = Path(given.output) / RECORD
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(dump_record(record), encoding="utf-8")
    numbers = {name: x for name, x in record.metrics[record.split].items() if isinstance(x, int | float)}
    print("  ".join([str(target), *(f"{name} {x:.4f}" for name, x in numbers.items())]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
