from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import akool_dagster

PACKAGE = Path(akool_dagster.__file__).parent
SHELL = {"assets", "definitions", "io_manager", "resources", "runs", "sensors"}
"""The modules of the Dagster shell; every other one is core."""
CORE = ["api", "http", "ledger", "polling", "planning.sentences", "tables", "storage", "settings", "cli", "operations"]
CORE += ["emulator", "videos.landing", "videos.fetch"]
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(source: Path) -> str:
    return ".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dagster_names(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported from Dagster, and the attributes that are taken of it."""
    aliases = {"dagster"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name == "dagster" and alias.asname}
    yield from (name for name in imported_modules(tree) if name.split(".")[0] == "dagster")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield f"dagster.{node.attr}"


@pytest.mark.parametrize("source", SOURCES, ids=module_name)
def test_nothing_private_of_dagster_is_used(source: Path) -> None:
    private = [name for name in dagster_names(ast.parse(source.read_text())) if "._" in name]
    assert private == []


@pytest.mark.parametrize(
    "source", [one for one in SOURCES if one.parent != PACKAGE or one.stem not in SHELL], ids=module_name
)
def test_no_core_module_names_dagster(source: Path) -> None:
    assert list(dagster_names(ast.parse(source.read_text()))) == []


def test_the_scan_finds_what_it_looks_for() -> None:
    code = "import dagster as dg\nfrom dagster._core.x import y\nimport dagster._utils\ndg._core\ndg.asset"
    private = {name for name in dagster_names(ast.parse(code)) if "._" in name}
    assert private == {"dagster._core.x.y", "dagster._utils", "dagster._core"}
    assert all(list(dagster_names(ast.parse((PACKAGE / f"{name}.py").read_text()))) for name in SHELL)


def test_importing_the_core_imports_no_dagster() -> None:
    code = f"""
import importlib, sys
for name in {CORE!r}:
    importlib.import_module("akool_dagster." + name)
print(sorted(name for name in sys.modules if name.partition(".")[0].startswith("dagster")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
