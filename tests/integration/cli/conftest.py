from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.in_memory import folder_in_memory
from tests.integration.cli.command import Command


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)
