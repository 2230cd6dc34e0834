"""Wrong uses of ``akool-dagster`` and settings that are wrong: one sentence each, and nothing is made."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.integration.cli.command import Command
from tests.scripted_api import job_id


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["track"], "at least one ID, or --from-file"),
        *((["track", "x", "--label", label], "is not KEY=VALUE") for label in ("campaign", "=x", " =x", "")),
        (["jobs", "--state", "done"], "Invalid value for '--state'"),
        *((["jobs", "--account", account], f"{account!r} cannot be an account") for account in ("a/b", "../akool", "")),
        (["track", "x", "--account", "my-team"], "'my-team' cannot be an account"),
        (["ledger", "check", "--account", "my-team"], "1 to 64 letters, digits or '_'"),
        (["ledger", "prune"], "Missing option '--older-than'"),
        (["ledger", "forget"], "Missing argument 'ID...'"),
    ],
)
def test_a_wrong_use_is_said_and_makes_no_ledger(command: Command, arguments: list[str], words: str) -> None:
    result = command(*arguments)
    assert (result.exit_code, words in " ".join(result.stderr.split())) == (2, True), result.stderr
    assert not (command.home / "akool").exists()


@pytest.mark.parametrize(
    "arguments", [["jobs"], ["jobs", "--json"], *(["ledger", one] for one in ("adopt", "prune --older-than 9"))]
)
def test_a_command_without_a_ledger_says_how_to_make_one(command: Command, arguments: list[str]) -> None:
    result = command(*" ".join(arguments).split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"Error: There is no ledger at {command.url}" in result.stderr
    assert "akool-dagster ledger init" in result.stderr
    assert not (command.home / "akool").exists()


@pytest.mark.parametrize("arguments", [["jobs"], ["track", "x"], ["ledger", "init"]])
def test_without_settings_the_variables_are_named(command: Command, arguments: list[str]) -> None:
    command.environment["DAGSTER_HOME"] = None
    result = command(*arguments)
    assert (result.exit_code, "Neither AKOOL_LEDGER_URL nor DAGSTER_HOME is set" in result.stderr) == (1, True)


def test_a_ledger_that_cannot_be_written_is_an_error_of_one_sentence(command: Command) -> None:
    (command.home / "akool").write_text("a file where the folder should be")
    result = command("track", job_id(1))
    assert (result.exit_code, result.stderr.startswith("Error: ")) == (1, True)
    assert str(command.home / "akool") in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", ["-h", "--help", "track -h", "jobs -h", "ledger init -h"])
def test_every_command_has_help(command: Command, arguments: str) -> None:
    result = command(*arguments.split())
    assert (result.exit_code, "Usage: akool-dagster" in result.stdout) == (0, True)


def test_the_installed_command_says_its_version_unless_its_output_is_closed(command: Command) -> None:
    assert command("--version").stdout.strip().endswith(version("akool-dagster"))
    script = Path(sys.executable).with_name("akool-dagster")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AKOOL_")}
    environment["DAGSTER_HOME"] = str(command.home)
    line = ["/bin/sh", "-c", f"{script} jobs >&-"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Standard output is closed: ")
    assert len(done.stderr.splitlines()) == 1
