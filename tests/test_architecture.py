"""The walls of the house: imports go one way, files and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxtune"
FILES = sorted(PACKAGE.rglob("*.py"))

LEAVES = {"config", "directions", "errors", "files", "labels"}
MAY_IMPORT = {
    "__init__": {"hub", "training", *LEAVES},
    "cli": {"plan", "training", "generation", "reports", "parallel", *LEAVES},
    "plan": {"training", "tasks", "data", "parallel", "reports", "hub", "models", *LEAVES},
    "training": {
        "tasks",
        "data",
        "parallel",
        "persistence",
        "reports",
        "hub",
        "generation",
        "models",
        *LEAVES,
    },
    "tasks": {"hub", "generation", "models", *LEAVES},
    "data": {"hub", "models", *LEAVES},
    "parallel": {"hub", "models", *LEAVES},
    "reports": {"hub", "models", *LEAVES},
    "persistence": {"hub", *LEAVES},
    "hub": {"generation", "models", *LEAVES},
    "generation": {"models", *LEAVES},
    "models": set(),
    "config": {"errors"},
    "files": {"errors"},
    "directions": set(),
    "errors": set(),
    "labels": set(),
}
"""cli → plan → training → {tasks, data, parallel, persistence, reports} → hub → generation → models; config, directions, errors, files and labels are leaves."""

MOST_LINES = 500
MOST_LINES_OF_A_FUNCTION = 60

HEAVY = {"jax", "numpy", "flax", "optax", "transformers", "tensorflow_datasets", "sklearn", "matplotlib"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module an import names, also a relative one."""
    if not node.level:
        return node.module or ""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def imported(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, path)
            # `from jaxtune import files` imports a module, `from jaxtune import Experiment` a name.
            names = [alias.name for alias in node.names] if module == "jaxtune" else [""]
            yield from ((node.lineno, f"{module}.{name}".rstrip(".")) for name in names)


def rooms_imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of another room."""
    for line, name in imported(path, parsed(path)):
        top, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        if top == "jaxtune" and room in MAY_IMPORT and room != room_of(path):
            yield line, room


def test_every_room_has_a_rule():
    assert {room_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path):
    wrong = [
        f"{name_of(path)}:{line} imports {room}"
        for line, room in rooms_imported(path)
        if room not in MAY_IMPORT[room_of(path)]
    ]
    assert not wrong, f"{wrong}; {room_of(path)} may import {sorted(MAY_IMPORT[room_of(path)])}"


def test_there_is_no_cycle_between_rooms():
    edges: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for path in FILES:
        edges[room_of(path)] |= {room for _, room in rooms_imported(path)}
    while edges:
        # Take away what imports nothing that is left; a cycle never becomes so.
        free = {room for room, others in edges.items() if not others & set(edges)}
        assert free, f"these import each other in a circle: {edges}"
        edges = {room: others for room, others in edges.items() if room not in free}


@pytest.mark.parametrize("leaf", ["__init__", "config", "directions", "errors", "files", "labels"])
def test_what_everybody_imports_is_cheap(leaf):
    paths = [path for path in FILES if room_of(path) == leaf]
    assert paths
    for path in paths:
        top = ast.Module([node for node in parsed(path).body if not isinstance(node, ast.If)], [])
        for function in [n for n in ast.walk(top) if isinstance(n, ast.FunctionDef)]:
            function.body = [ast.Pass()]
        heavy = {name for _, name in imported(path, top) if name.split(".")[0] in HEAVY}
        assert not heavy, path


def test_torch_and_tensorflow_are_imported_nowhere():
    found = [
        f"{name_of(path)}:{line} {name}"
        for path in FILES
        for line, name in imported(path, parsed(path))
        if name.split(".")[0] in ("torch", "tensorflow")
    ]
    assert not found


def test_files_are_small():
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Lines of a function that hold code: no docstrings, blank lines or comments."""
    lines = set(range(function.lineno, (function.end_lineno or 0) + 1))
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return sum(1 for n in lines if source[n - 1].strip() and not source[n - 1].strip().startswith("#"))


def test_functions_are_short():
    long = {}
    for path in FILES:
        source = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = code_lines(node, source)
                if count > MOST_LINES_OF_A_FUNCTION:
                    long[f"{name_of(path)}:{node.lineno} {node.name}"] = count
    assert long == {}


def test_no_file_is_called_utils():
    assert not [
        name_of(path) for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")
    ]
