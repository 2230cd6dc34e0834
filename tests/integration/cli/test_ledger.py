"""The commands `akool-dagster ledger ...`."""

from __future__ import annotations

import json

from akool_dagster.ledger import JobLedger
from akool_dagster.storage import StorageRoot
from tests.integration.cli.command import Command
from tests.integration.operations.helpers import land, read_rows
from tests.scripted_api import job_id


def test_the_ledger_is_created_once(command: Command) -> None:
    first, second = command("ledger", "init"), command("ledger", "init")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == second.stdout
    assert f"is ready at {command.url}" in first.stdout


def test_a_check_without_a_ledger_does_not_say_that_it_counted_tables(command: Command) -> None:
    assert "account akool: table files were not looked at\n" in command("ledger", "check").stdout
    assert json.loads(command("ledger", "check", "--json").stdout)["table_files"] is None
    command("ledger", "init")
    assert "account akool: 0 table files\n" in command("ledger", "check").stdout


def test_a_check_is_for_machines_too(command: Command) -> None:
    command.have_one_of_each_kind()
    result = command("ledger", "check", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"], report["counts"]["states"]["completed"]) == (1, False, 1)
    problem = next(finding for finding in report["findings"] if finding["level"] == "problem")
    assert "status is not a 64-bit integer" in problem["what"]
    assert problem["hint"]


def test_a_lost_ledger_is_replaced_with_one_command(command: Command) -> None:
    command.have_one_of_each_kind()
    root = StorageRoot(str(command.home / "akool"))
    with JobLedger.open(command.url) as ledger:
        land(ledger.account("akool"), root)
    (command.home / "akool" / "ledger.sqlite").unlink()
    command("ledger", "init")
    assert command("ledger", "check").exit_code == 1
    asked = command("ledger", "adopt", stdin="n\n")
    assert (asked.exit_code, "Not confirmed. Nothing was changed." in asked.stderr) == (1, True)
    assert command.tracked() == {}
    done = command("ledger", "adopt", "--yes")
    assert done.exit_code == 0, done.output
    assert "Jobs: 5 added, 0 settled, 0 moved to the partition of their rows" in done.stdout
    assert len(command.tracked()) == 5
    again = command("ledger", "adopt", "--yes")
    assert "'s already. It has 5 table files. Adopting again does no harm." in again.stdout
    assert "5 known as they are" in again.stdout


def test_old_jobs_are_pruned_and_a_job_is_forgotten(command: Command) -> None:
    command.answer(3, 4)
    command.answer(4, 4)
    root = StorageRoot(str(command.home / "akool"))
    assert command("ledger", "adopt", "--yes").exit_code == 0
    refused = command("ledger", "prune", "--older-than", "1")
    assert (refused.exit_code, "Nothing was pruned" in refused.stderr) == (1, True)
    with JobLedger.open(command.url) as ledger:
        land(ledger.account("akool"), root)
    would = command("ledger", "prune", "--older-than", "1", "--dry-run")
    assert "2 jobs of 1 partitions would be pruned; 0 were kept" in would.stdout
    done = command("ledger", "prune", "--older-than", "1")
    assert (done.exit_code, "2 jobs of 1 partitions pruned" in done.stdout) == (0, True)
    asked = command("ledger", "forget", job_id(3))
    assert (asked.exit_code, "add --yes" in asked.stderr) == (1, True)
    done = command("ledger", "forget", "--yes", job_id(3), "nobody")
    assert "2 jobs forgotten: 4 rows of 4 table files and 0 files of videos removed." in done.stdout
    assert "Neither the ledger nor a table knew: nobody." in done.stdout
    assert "Not touched: Dagster's event log, backups" in done.stdout
    assert [row["_id"] for row in read_rows(root, "akool", "results")] == [job_id(4)]
    assert command("ledger", "check").exit_code == 0


def test_every_ledger_command_says_which_ledger_and_storage_root_it_used(command: Command) -> None:
    command.answer(3, 4)
    for arguments in (["init"], ["check"], ["adopt", "--yes"], ["forget", "--yes", "x"]):
        result = command("ledger", *arguments)
        assert (result.exit_code, command.url in result.stdout) == (0, True), result.output
        assert str(command.home / "akool") in result.stdout
    pruned = command("ledger", "prune", "--older-than", "9").stdout  # refused: nothing has landed
    assert pruned.startswith("Account akool, ledger ")
    assert f" at {command.url}, storage root {command.home / 'akool'}" in pruned


def test_the_advice_for_another_account_names_it(command: Command) -> None:
    command("track", "--account", "brand", job_id(1))
    (command.home / "akool" / "brand").mkdir()
    (command.home / "akool" / "brand" / "ledger.json").write_text('{"ledger": "another"}')
    result = command("ledger", "check", "--account", "brand")
    assert "akool-dagster ledger adopt --account brand" in result.stdout
