from __future__ import annotations

import ast
from pathlib import Path

import pytest

from akool_dagster import storage

BELOW = ("akool_dagster.base", "akool_dagster.errors", "akool_dagster.storage")


@pytest.mark.parametrize("source", sorted(Path(storage.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_the_storage_knows_nothing_of_ledger_tables_or_dagster(source: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [str(node.module) for node in nodes]
    assert [name for name in names if name.startswith(("akool", "dagster")) and not name.startswith(BELOW)] == []
