"""README.md and generations.md of tpu/: links, names of scripts, commands, and a source for every row."""

from __future__ import annotations

import re

import pytest

from tests.tpu.cloud_stand_in import TPU

PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(TPU.glob("*.md"))}


def shell_lines(text: str) -> list[str]:
    return [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    text = PAGES[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"https://", target):
            continue
        page = TPU / path if path else TPU / name
        assert page.exists(), target
        headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target
    for label in re.findall(r"\]\[(\w+)\]", text):
        assert f"\n[{label}]: https://" in text, label


def test_the_readme_speaks_of_every_script_and_of_no_other():
    text = PAGES["README.md"]
    scripts = {path.relative_to(TPU).as_posix() for path in [*TPU.glob("*.sh"), *TPU.glob("docker/*.sh")]}
    sourced = {"settings.sh", "gcloud_commands.sh"}
    for script in scripts - sourced:
        assert f"`{script}`" in text or f"`{script}`," in text, script
    for script in re.findall(r"\btpu/((?:docker/)?\w+\.sh)", text):
        assert script in scripts, script


def test_commands_of_the_readme_name_options_that_there_are():
    for line in shell_lines(PAGES["README.md"]):
        script, *options = line.split()
        if not script.startswith("tpu/"):
            continue
        usage = (TPU.parent / script).read_text() + (TPU / "gcloud_commands.sh").read_text()
        for option in options:
            assert not option.startswith("--") or f"{option})" in usage or f"== {option} " in usage, line


def test_every_generation_has_its_sources_and_values_that_the_settings_take():
    rows = [line for line in PAGES["generations.md"].splitlines() if re.match(r"\| v\d", line)]
    assert len(rows) == 4
    pattern = re.search(r"expect ACCELERATOR_TYPE '([^']+)'", (TPU / "settings.sh").read_text())
    assert pattern is not None
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        kinds = re.findall(r"`([^`]+)`", cells[1])
        assert kinds
        assert all(re.fullmatch(pattern[1].strip("^$"), kind) for kind in kinds), row
        assert "[runtimes]" in cells[-1]
        assert "[zones]" in cells[-1]
        assert "[count]" in cells[-1]


def test_the_readme_lists_a_plan_per_chip():
    table = PAGES["README.md"].split("PLAN-TABLE")[1].split("\n## ")[0]
    chips = re.findall(r"^\| (v\w+) \|.*--topology (v\w+):", table, re.MULTILINE)
    assert {chip for chip, _ in chips} >= {"v4", "v5e", "v5p", "v6e"}
    assert all(chip == planned for chip, planned in chips)
