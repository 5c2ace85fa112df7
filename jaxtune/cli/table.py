"""``jaxtune table``."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Literal

import tyro

from jaxtune.cli.output import check_output, write_output
from jaxtune.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Table:
    """Compare runs: systems × tasks × seeds as mean ± deviation, with the best in bold and tests of significance.

    Example: jaxtune table sentiment --run

    Example: jaxtune table my-table.yaml --save docs/results/my-table --output my-table.md

    Example: jaxtune table sentiment --from docs/results/sentiment --format latex
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FILE")]
    """Table of experiments/tables by its name, or a .yaml file that describes one."""
    run: bool = False
    """First make the runs that are missing, one after the other, and go on with what was cut off."""
    format: Literal["markdown", "latex", "csv"] | None = None
    """How to write the table; none goes by the ending of the output file (.md, .tex, .csv)."""
    output: str | None = None
    """File for the table; none prints it."""
    overwrite: bool = False
    """Replace the output file if it exists."""
    runs_dir: str = "runs"
    """Folder of the run directories."""
    records: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Folder of records instead of runs."""
    save: str | None = None
    """Folder for the records of the finished runs: all that is needed to build the table again."""
    plots: str | None = None
    """Folder for learning curves across seeds, a PNG and an SVG per system and task."""
    resamples: int = 10_000
    """Draws of each test of significance."""

    def __call__(self) -> int:
        from jaxtune.reports.result_tables import build_table
        from jaxtune.reports.table_description import find_description, read_description
        from jaxtune.reports.table_formats import format_of, render
        from jaxtune.training.table_runs import (
            finished_records,
            launch_missing,
            load_records,
            save_records,
            table_runs,
            write_plots,
        )

        if self.records and (self.run or self.plots):
            raise ConfigError("--from builds from records alone; leave out --run and --plots")
        if self.resamples < 1:
            raise ConfigError(f"--resamples is {self.resamples}; expected at least 1")
        if self.output:
            check_output(self.output, self.overwrite)
        description = read_description(find_description(self.name))
        if self.records:
            records = load_records(self.records)
        else:
            runs = table_runs(description, self.runs_dir)
            if self.run:
                status = launch_missing(description, runs, self.runs_dir)
                if status:
                    return status
            records = finished_records(runs)
        table = build_table(description, records, resamples=self.resamples)
        text = render(table, self.format or format_of(self.output or ""))
        if self.save:
            save_records(self.save, records)
            print(f"{len(records)} records written to {self.save}", file=sys.stderr)
        if self.plots:
            count = write_plots(self.plots, description, runs)
            print(f"{count} learning curves written to {self.plots}", file=sys.stderr)
        missing = table.missing()
        if missing:
            hint = "" if self.records else "; --run makes them"
            print(f"{len(missing)} runs are not finished{hint}: {', '.join(missing)}", file=sys.stderr)
        if self.output:
            write_output(self.output, [text.removesuffix("\n")])
            print(f"table written to {self.output}", file=sys.stderr)
        else:
            print(text, end="", flush=True)
        return 0
