"""What the README tells a new user to copy works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from akool_dagster import JobLedger
from akool_dagster.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AKOOL_API_KEY", "a-key")
    monkeypatch.setenv("AKOOL_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.sqlite")
    monkeypatch.setenv("AKOOL_STORAGE", str(tmp_path / "storage"))


def test_the_definitions_to_copy_load_as_they_stand() -> None:
    (block,) = (block for block in blocks("python") if "build_akool_definitions" in block)
    module: dict[str, Any] = {}
    exec(block, module)  # noqa: S102
    (defs,) = (value for value in module.values() if isinstance(value, dg.Definitions))  # Dagster loads no two
    dg.Definitions.validate_loadable(defs)
    assert len(block.splitlines()) <= 15


def test_the_tracking_to_copy_tracks(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("python") if "TrackRequest" in block)
    url = f"sqlite:///{tmp_path}/copied.sqlite"
    exec(block.replace("sqlite:////data/akool/ledger.sqlite", url), {})  # noqa: S102
    with JobLedger.open(url) as ledger:
        assert ledger.account("akool").counts().pending == 1


def test_every_command_named_is_there() -> None:
    named = set(re.findall(r"akool-dagster ((?:ledger )?[a-z]+)", README))
    assert {"track", "jobs", "ledger check", "ledger adopt"} <= named
    for command in named:
        assert CliRunner().invoke(main, [*command.split(), "--help"]).exit_code == 0, command


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert len(links) > 15
    assert [link for link in links if "://" not in link and not (ROOT / link).is_file()] == []


def test_the_readme_can_be_read_in_ten_minutes() -> None:
    assert len(README.splitlines()) <= 150
