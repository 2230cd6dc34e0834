"""`akool-dagster emulator`."""

from __future__ import annotations

import pytest

from tests.integration.cli.command import Command


def test_the_emulator_explains_its_options(command: Command) -> None:
    result = command("emulator", "--help")
    assert result.exit_code == 0
    options = (
        "--port",
        "--seed",
        "--jobs",
        "--speed",
        "--fault ",
        "--fault-rate",
        "--max-ids-per-call",
        "--list-faults",
    )
    assert all(option in result.stdout for option in options)


def test_the_emulator_lists_its_faults(command: Command) -> None:
    result = command("emulator", "--list-faults")
    assert result.exit_code == 0
    assert "429,retry_after=" in result.stdout
    assert "poison_id,code=1003,http_status=200,job_id=" in result.stdout


def test_a_fault_the_emulator_does_not_have_is_said_in_a_sentence(command: Command) -> None:
    result = command("emulator", "--fault", "no_such")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: There is no fault 'no_such'. The faults are" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--speed", "0"], ["--jobs", "-1"], ["--port", "70000"], ["--fault-rate", "1.5"], ["--max-ids-per-call", "0"]],
)
def test_the_emulator_refuses_numbers_that_cannot_be(command: Command, arguments: list[str]) -> None:
    assert command("emulator", *arguments).exit_code == 2
