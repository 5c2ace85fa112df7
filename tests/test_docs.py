"""The pages stay true: links, commands, Python, YAML, and the fields and files they name."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import re
import shlex
import typing
from pathlib import Path

import pytest
import tyro

import jaxtune
from jaxtune import config
from jaxtune.cli import COMMANDS, USAGE, plan, smoke
from jaxtune.config import Experiment, from_dict
from jaxtune.models.registry import FAMILIES
from jaxtune.persistence.run_directory import FREE_FIELDS, RUN_FILES
from jaxtune.training import optimizers
from jaxtune.training.window import LogWindow

ROOT = Path(__file__).parents[1]
DOCS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCS}


def blocks(kind: str) -> list[tuple[str, str]]:
    """(where, content) of every fenced block of a language."""
    found = []
    for name, text in TEXTS.items():
        for match in re.finditer(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            found.append((f"{name}:{text[: match.start()].count(chr(10)) + 2}", match[1]))
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """Every command line: of shell blocks, of `…` in the text, of the command's own usage and examples."""
    found = [(where, line) for where, block in blocks("sh") for line in block.splitlines() if line.strip()]
    for name, text in TEXTS.items():
        for match in re.finditer(r"`((?:jaxtune|python|make|\.venv/bin/python) [^`]+)`", prose(text)):
            found.append((name, match[1]))
    for line in USAGE.splitlines():
        if match := re.search(
            r"(?<=\s)(jaxtune (train|evaluate|predict|generate|export|table|plan|sweep|info) .*)", line
        ):
            found.append(("jaxtune --help", match[1].removesuffix(". Ready-made experiments:")))
    for command in (*COMMANDS.values(), *plan.NAMES.values()):
        found += [(f"{command.__name__} --help", m) for m in re.findall(r"Example: (.+)", command.__doc__)]
    return found


SCRIPTS = sorted(path for path in (ROOT / "experiments").glob("*.py") if "PRESETS" in path.read_text())


def presets(script: Path) -> dict[str, tuple[str, Experiment]]:
    spec = importlib.util.spec_from_file_location("presets", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PRESETS


def parses(kind: object, words: list[str]) -> None:
    tyro.cli(kind, args=words)  # type: ignore[call-overload]


def check_jaxtune(words: list[str]) -> None:
    command, rest = words[0], words[1:]
    if not rest:  # spoken of, not called
        assert command in ("train", *plan.NAMES, *COMMANDS)
    elif command == "train":
        if "--config" in rest:
            at = rest.index("--config")
            rest = rest[:at] + rest[at + 2 :]
        parses(Experiment, rest)
    elif command in plan.NAMES:
        parses(plan.NAMES[command], rest if rest[0].startswith("-") else rest[1:])
    else:
        parses(COMMANDS[command], rest)


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), f"no module {words[1]}"
        return
    script = ROOT / words[0]
    assert script.is_file(), f"no script {words[0]}"
    if script in SCRIPTS:
        fields = [word for word in words[1:] if word != smoke.FLAG]
        tyro.extras.overridable_config_cli(presets(script), args=fields)
        return
    source = script.read_text(encoding="utf-8")
    for word in words[1:]:
        if word.startswith("--"):
            assert f'"{word}"' in source, f"{words[0]} has no {word}"


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        pattern = rf"^{name} \?=" if equals else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"the Makefile has no {name}"


@pytest.mark.parametrize(("where", "line"), commands())
def test_commands_parse(where, line, capsys):
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words.pop(0)
    program, rest = words[0], words[1:]
    if "PRESET" in rest or "…" in rest or "|" in rest:  # a form, not a command
        return
    status: object = None
    try:
        if program == "jaxtune":
            if rest and rest != ["--help"]:
                check_jaxtune(rest)
        elif program.endswith(("python", "python3")) and rest[:2] != ["-m", "venv"]:
            check_python(rest)
        elif program == "make":
            check_make(rest)
    except SystemExit as left:  # tyro's way to refuse, and to end after --help
        status = left.code
    assert status in (0, None), f"{where}: {line}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("name", TEXTS)
def test_links_resolve(name):
    text = prose(TEXTS[name])
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), f"{name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{name}: {target}"


@pytest.mark.parametrize(("where", "block"), blocks("python"))
def test_python_blocks_use_what_there_is(where, block):
    tree = ast.parse(block, where)
    names: dict[str, object] = {"jaxtune": jaxtune}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{where}: {node.module} has no {alias.name}"
                names[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "jaxtune"
        ):
            assert hasattr(jaxtune, node.attr), f"{where}: there is no jaxtune.{node.attr}"
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        is_ours = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
        if is_ours and call.func.value.id == "jaxtune":
            called: object = getattr(jaxtune, call.func.attr)
        else:
            called = names.get(call.func.id) if isinstance(call.func, ast.Name) else None
        if dataclasses.is_dataclass(called):
            fields = {field.name for field in dataclasses.fields(called)}
            given = {keyword.arg for keyword in call.keywords}
            assert given <= fields, f"{where}: {called} has no {given - fields}"


def test_the_example_in_the_readme_is_short():
    _, block = next(found for found in blocks("python") if found[0].startswith("README.md"))
    assert len([line for line in block.splitlines() if line.strip()]) <= 22


@pytest.mark.parametrize(("where", "block"), blocks("yaml"))
def test_yaml_blocks_are_configurations(where, block):
    import yaml

    from_dict(yaml.safe_load(block), where)


@pytest.mark.parametrize("name", TEXTS)
def test_fields_in_the_text_exist(name):
    hints = typing.get_type_hints(Experiment)
    named = set(
        re.findall(r"`(?:--)?((?:model|data|optim|train|mesh)\.[a-z_0-9-]+)[ `=]", prose(TEXTS[name]))
    )
    for path in named:
        section, field = path.replace("-", "_").split(".")
        fields = {f.name for f in dataclasses.fields(hints[section])}
        assert field in fields, f"{name}: there is no field {path}"


@pytest.mark.parametrize(
    "name", ["docs/architecture.md", "CONTRIBUTING.md", "README.md", "docs/checkpoints.md"]
)
def test_files_in_the_text_exist(name):
    text = prose(TEXTS[name]) if name != "docs/architecture.md" else TEXTS[name]
    pattern = r"\b((?:jaxtune|tests|experiments|benchmarks|models|hub|data|tasks|training|parallel|reports)/[\w./-]*\.(?:py|npz))"
    for path in re.findall(pattern, text):
        assert (ROOT / path).is_file() or (ROOT / "jaxtune" / path).is_file(), f"{name}: {path}"


def test_the_readme_lists_every_optimizer_schedule_task_and_source():
    readme = TEXTS["README.md"]
    from jaxtune.data.sources import KINDS

    hints = typing.get_type_hints(config.OptimConfig)
    assert set(typing.get_args(hints["name"])) == set(optimizers.DIRECTIONS)
    assert set(typing.get_args(hints["schedule"])) == set(optimizers.SCHEDULES)
    batchings = typing.get_args(typing.get_type_hints(config.DataConfig)["batching"])
    for word in [
        *optimizers.DIRECTIONS,
        *optimizers.SCHEDULES,
        *typing.get_args(config.TaskName),
        *batchings,
    ]:
        assert f"`{word}`" in readme, word
    for kind in KINDS:
        assert f"`{kind}:`" in readme, kind
    for command in ["train", *COMMANDS]:
        assert f"jaxtune {command}" in readme, command


def test_the_table_of_families_is_the_registry():
    rows = re.findall(r"^\| `([\w-]+)` \| ([\w-]+) \| (.*?) \|", TEXTS["docs/families.md"], re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", heads))) for name, kind, heads in rows}
    there = {name: (f.kind.replace("_", "-"), set(f.heads)) for name, f in FAMILIES.items()}
    assert told == there


def test_the_page_on_adding_a_family_shows_what_is_there():
    """And that a variant of Llama is a matter of few lines."""
    sources = [
        "jaxtune/models/families/smollm3.py",
        "tests/models/family_cases_decoders.py",
        "jaxtune/models/registry.py",
    ]
    files = [(ROOT / name).read_text(encoding="utf-8") for name in sources]
    found = [*blocks("python"), *blocks("text")]
    shown = [block for where, block in found if where.startswith("docs/adding-a-family.md")]
    assert shown[0] == files[0]
    assert len(shown) == 4
    for block in shown:
        assert any(block in text for text in files), block
    assert sum(len(block.splitlines()) for block in shown) <= 250
    assert "SMOLLM3,\n" in files[2]
    assert "| `smollm3` |" in TEXTS["docs/families.md"]


def test_every_preset_is_named():
    for script in SCRIPTS:
        for name in presets(script):
            assert f"`{name}`" in TEXTS["docs/tasks.md"], name


def test_every_file_of_a_run_is_explained():
    page = TEXTS["docs/run-directory.md"]
    for name in ["config.yaml", *RUN_FILES]:
        assert f"`{name}`" in page or f"`{name}/`" in page, name


def test_every_logged_field_is_explained():
    page = TEXTS["docs/run-directory.md"]
    window = LogWindow(sums={"loss": [1.0, 1.0], "accuracy": [1.0, 1.0]})
    for field in ["step", "epoch", "learning_rate", *window.line(peak=None)]:
        assert f"`{field}`" in page, field


def test_fields_that_may_change_are_listed():
    page = TEXTS["docs/checkpoints.md"]
    for field in FREE_FIELDS - {"version"}:
        assert f"`{field}`" in page, field


def test_no_page_speaks_of_a_place_on_somebodys_machine():
    for name, text in TEXTS.items():
        assert not re.search(r"(?<![\w.])/(work|home|tmp|root|Users)/", text), name
