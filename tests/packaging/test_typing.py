"""The types that a user's own mypy sees, in the installed wheel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import akool_dagster
from tests.packaging.conftest import run, run_well

USERS_FILE = Path(__file__).with_name("public_api.py")


def mypy(installed: Path) -> list[str | Path]:
    """Return the command for mypy as a user runs it: strict, and without this repository's settings and plugins."""
    options = ["--strict", "--config-file=", "--no-incremental"]
    return [sys.executable, "-m", "mypy", *options, "--python-executable", installed / "python"]


def test_a_users_file_is_strictly_typed(installed: Path, tmp_path: Path) -> None:
    shutil.copyfile(USERS_FILE, tmp_path / "users_file.py")
    run_well([*mypy(installed), "users_file.py"], tmp_path)


def test_the_users_file_uses_every_public_name() -> None:
    text = USERS_FILE.read_text()
    assert [name for name in akool_dagster.__all__ if text.count(name) < 2] == []


def test_a_users_mistakes_are_found(installed: Path, tmp_path: Path) -> None:
    """Without this, a package whose types are lost would pass: everything would be ``Any``."""
    (tmp_path / "mistakes.py").write_text(
        "from akool_dagster import AkoolClient, JobLedger, TrackRequest, build_akool_definitions\n"
        "TrackRequest(job_id=1)\n"
        "JobLedger.create(2)\n"
        "JobLedger.create('sqlite:////data/ledger.sqlite').account('akool').track(['an-id'])\n"
        "build_akool_definitions(storage_root='/data')\n"
    )
    done = run([*mypy(installed), "mistakes.py"], tmp_path)
    lines = {line.split(":")[1] for line in done.stdout.splitlines() if " error: " in line}
    assert (done.returncode, lines) == (1, {"2", "3", "4", "5"}), done.stdout
