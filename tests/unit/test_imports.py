"""The layers of the package: which room may import which, and who may import Dagster or click."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import akool_dagster

PACKAGE = Path(akool_dagster.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

LAYERS: dict[str, tuple[set[str], str]] = {
    "errors": (set(), "the base of every error"),
    "base": ({"errors"}, "no I/O"),
    "http": ({"base", "errors"}, "any server's: knows no endpoint of Akool's"),
    "storage": ({"base", "errors"}, "any file's: knows no ledger, table or video"),
    "ledger": ({"base", "errors"}, "records what it is told: no HTTP, no files"),
    "emulator": ({"base", "errors"}, "stands for Akool: shares no code with the client that it tests"),
    "api": ({"base", "errors", "http"}, "asks Akool: knows no ledger"),
    "polling": ({"base", "api", "ledger"}, "puts Akool's answers into the ledger"),
    "tables": ({"base", "errors", "ledger", "storage"}, "puts the ledger's rows into files: no HTTP"),
    "videos": ({"base", "errors", "api", "http", "ledger", "storage"}, "asks Akool for a newer URL: knows no table"),
    "planning": ({"base", "ledger", "polling"}, "decides from facts: no I/O"),
    "operations": ({"base", "errors", "ledger", "storage", "tables", "videos"}, "the operator's commands: no HTTP"),
    "settings": ({"api", "errors", "ledger", "storage"}, "checks what the environment says"),
    "cli": (
        {"base", "emulator", "errors", "ledger", "operations", "settings", "storage"},
        "starts without Dagster, whose import takes seconds",
    ),
}
"""Which rooms (or modules of the root) each may import, and what that keeps true; the lowest first."""
INTEGRATION = {"__init__", "assets", "definitions", "io_manager", "resources", "runs", "sensors"}
"""The modules of the root that are for Dagster. They may import every room but `cli` and `emulator`."""


def room_of(source: Path) -> str:
    """Return the room of a module, or the module's own name at the root."""
    return source.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(source: Path) -> Iterator[str]:
    """Yield the full name of everything that a module imports anywhere, and every attribute taken of Dagster."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dg":
            yield f"dagster.{node.attr}"


def named(source: Path) -> str:
    return str(source.relative_to(PACKAGE))


def test_the_table_of_layers_has_every_room_once_and_no_room_imports_a_higher_one() -> None:
    assert {room_of(source) for source in SOURCES} == LAYERS.keys() | INTEGRATION
    for number, (lower, _) in enumerate(LAYERS.values()):
        assert lower <= set(list(LAYERS)[:number])


@pytest.mark.parametrize("source", SOURCES, ids=named)
def test_a_module_imports_only_what_the_layers_allow(source: Path) -> None:
    room, names = room_of(source), list(imported(source))
    rooms = {name.split(".")[1] for name in names if name.startswith("akool_dagster.")} - {room, "__version__"}
    allowed, why = LAYERS.get(room, ((LAYERS.keys() | INTEGRATION) - {"cli", "emulator"}, "for Dagster"))
    assert rooms <= allowed, f"{room}: {why}"
    frameworks = {name.split(".")[0].split("_")[0] for name in names} & {"dagster", "click"}
    assert frameworks <= ({"dagster"} if room in INTEGRATION else {"click"} if room == "cli" else set())
    assert not [name for name in names if name.startswith("dagster") and "._" in name]


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    """Every import at the top of `__init__` is Python's own; Dagster's takes seconds."""
    top = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert [node.module for node in top if isinstance(node, ast.ImportFrom)] == ["importlib", "typing"]
    assert not [node for node in top if isinstance(node, ast.Import)]
