"""A table of results as Markdown, LaTeX (booktabs) or CSV."""

from __future__ import annotations

import csv
import io
import re

from jaxtune.reports.result_tables import Cell, ResultTable
from jaxtune.reports.table_description import SystemRow
from jaxtune.reports.tables import MISSING, code, escape, markdown_table

FORMATS = ("markdown", "latex", "csv")
_ENDINGS = {".md": "markdown", ".tex": "latex", ".csv": "csv"}


def format_of(path: str) -> str:
    """The format that a file name asks for; Markdown where it says nothing."""
    return next((kind for ending, kind in _ENDINGS.items() if path.endswith(ending)), "markdown")


def render(table: ResultTable, kind: str) -> str:
    """The table as text of one of ``FORMATS``."""
    return {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}[kind](table)


def notes(table: ResultTable) -> list[str]:
    """What a reader has to know of the marks that occur in the table."""
    d, cells = table.description, list(table.cells.values())
    marks = {_mark(cell) for cell in cells}
    found = [d.note] if d.note else []
    if any(cell.deviation is not None for cell in cells):
        found.append("mean ± standard deviation (n - 1) over the seeds " + ", ".join(map(str, d.seeds)))
    if any(cell.best for cell in cells):
        found.append("bold: the best of the measured rows")
    level = f"with p < {d.significance:g} by paired bootstrap and approximate randomisation ({table.resamples:,} draws)"
    if "*" in marks:
        found.append(f"*: better than {d.baseline}, {level}")
    if "†" in marks:
        found.append(f"†: worse than {d.baseline}, {level}")
    if any(cell.missing and cell.values for cell in cells):
        found.append("(1/3): so many of the seeds are finished")
    if any(cell.missing and not cell.values for cell in cells):
        found.append(f"{MISSING}: no run is finished")
    found += [f"{row.name}: {row.source}" for row in d.rows if row.source]
    return found


def to_markdown(table: ResultTable) -> str:
    """The table, the differences from the baseline with their intervals, and the runs behind each cell."""
    d = table.description
    header = ["system", *(escape(f"{task.name} {_plain(metric)}") for task, metric in table.columns)]
    rows = [
        [escape(row.name), *(_markdown_cell(cell, d.digits) for cell in table.row(row))] for row in d.rows
    ]
    parts = [f"## {escape(d.title)}\n" if d.title else "", markdown_table(header, rows)]
    if notes(table):
        parts.append("\n".join(f"- {escape(note)}" for note in notes(table)) + "\n")
    differences = [
        [
            escape(row.name),
            escape(f"{task.name} {_plain(metric)}"),
            f"{c.bootstrap.difference:+.4f}",
            f"{c.bootstrap.low:+.4f} … {c.bootstrap.high:+.4f}",
            _p(c.bootstrap.p_value),
            _p(c.randomisation.p_value),
        ]
        for row in d.rows
        for (task, metric), cell in zip(table.columns, table.row(row))
        if (c := cell.comparison) is not None
    ]
    if differences:
        header = ["system", "column", "difference", "95 % interval", "p (bootstrap)", "p (randomisation)"]
        parts.append(
            f"### Differences from {escape(str(d.baseline))}\n\n" + markdown_table(header, differences)
        )
    runs = [
        [escape(row.name), escape(task), ", ".join(map(code, names))] for row, task, names in _runs(table)
    ]
    if runs:
        parts.append("### Runs\n\n" + markdown_table(["system", "task", "runs"], runs))
    return "\n".join(part for part in parts if part)


def to_latex(table: ResultTable) -> str:
    """A ``table`` float with booktabs rules; the runs behind each cell are comments."""
    d = table.description
    lines = [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    caption = ". ".join(part.rstrip(".") for part in (d.title, "; ".join(notes(table))) if part)
    if caption:
        lines.append(rf"\caption{{{latex(caption)}.}}")
    lines += [rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}", r"\toprule"]
    above, rules, first = [""], [], 2
    for task in d.tasks:
        width = len(task.metrics)
        above.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(task.name)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    lines += [" & ".join(above) + r" \\", " ".join(rules)]
    lines += [" & ".join(["System", *(latex(_plain(metric)) for _, metric in table.columns)]) + r" \\"]
    previous: SystemRow | None = None
    for row in d.rows:
        if previous is None or previous.is_measured != row.is_measured:
            lines.append(r"\midrule")
        cells = [_latex_cell(cell, d.digits) for cell in table.row(row)]
        lines.append(" & ".join([latex(row.name), *cells]) + r" \\")
        previous = row
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    for row, name, runs in _runs(table):
        lines.append("% " + " ".join(f"{row.name}, {name}: {', '.join(runs)}".split()))
    return "\n".join(lines) + "\n"


def to_csv(table: ResultTable) -> str:
    """One line per cell, with all numbers at full precision."""
    names = [
        "system",
        "task",
        "metric",
        "mean",
        "std",
        "seeds",
        "missing_seeds",
        "values",
        "best",
        "published",
    ]
    names += ["baseline", "difference", "ci_low", "ci_high", "p_bootstrap", "p_randomisation", "runs"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in table.description.rows:
        for (task, metric), cell in zip(table.columns, table.row(row)):
            line = {
                "system": row.name,
                "task": task.name,
                "metric": metric,
                "mean": cell.mean,
                "std": cell.deviation,
                "seeds": " ".join(map(str, cell.values)),
                "missing_seeds": " ".join(map(str, cell.missing)),
                "values": " ".join(map(repr, cell.values.values())),
                "best": int(cell.best),
                "published": int(cell.published is not None),
                "runs": " ".join(cell.runs),
            }
            if (c := cell.comparison) is not None:
                line |= {
                    "baseline": table.description.baseline,
                    "difference": c.bootstrap.difference,
                    "ci_low": c.bootstrap.low,
                    "ci_high": c.bootstrap.high,
                    "p_bootstrap": c.bootstrap.p_value,
                    "p_randomisation": c.randomisation.p_value,
                }
            writer.writerow(line)
    return buffer.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "<": r"$<$",
    ">": r"$>$",
    "–": "--",
    "…": r"\dots{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex(text: str) -> str:
    """Free text that LaTeX shows literally, on one line."""
    return re.sub(r"[\\~^±†<>–…&%$#_{}]", lambda found: _LATEX[found[0]], " ".join(text.split()))


def _plain(metric: str) -> str:
    return metric.replace("_", " ")


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.1e}"


def _mark(cell: Cell) -> str:
    if cell.comparison is None or not cell.comparison.significant:
        return ""
    return "*" if cell.comparison.better else "†"


def _number(cell: Cell, digits: int) -> tuple[str, str, str]:
    """Mean, deviation and the share of the seeds, each empty where there is none."""
    mean, deviation = cell.mean, cell.deviation
    share = (
        f"({len(cell.values)}/{len(cell.values) + len(cell.missing)})" if cell.missing and cell.values else ""
    )
    return (
        MISSING if mean is None else f"{mean:.{digits}f}",
        "" if deviation is None else f"{deviation:.{digits}f}",
        share,
    )


def _markdown_cell(cell: Cell, digits: int) -> str:
    mean, deviation, share = _number(cell, digits)
    text = f"{mean} ± {deviation}" if deviation else mean
    text = f"**{text}**" if cell.best else text
    return text + escape(_mark(cell)) + (f" {share}" if share else "")


def _latex_cell(cell: Cell, digits: int) -> str:
    mean, deviation, share = _number(cell, digits)
    if mean == MISSING:
        return "--"
    text = rf"\textbf{{{mean}}}" if cell.best else mean
    text += rf" $\pm$ {deviation}" if deviation else ""
    mark = {"*": r"$^{*}$", "†": r"$^{\dagger}$", "": ""}[_mark(cell)]
    return text + mark + (f" {share}" if share else "")


def _runs(table: ResultTable) -> list[tuple[SystemRow, str, tuple[str, ...]]]:
    """The runs behind the cells of each row and task."""
    return [
        (row, task.name, cell.runs)
        for row in table.description.rows
        for task in table.description.tasks
        if (cell := table.cells[row.name, task.name, task.metrics[0]]).runs
    ]
