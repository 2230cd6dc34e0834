from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from akool_dagster.api.models import ResultRow
from akool_dagster.cli import SHOWN_JOBS, main
from akool_dagster.ledger import Job, JobLedger, Missed, Observation, TrackRequest, Unreadable
from akool_dagster.ledger.transitions import Limits
from akool_dagster.polling import look_again_ms, observation_of
from tests.scripted_api import job_id, row

NO_SETTINGS: dict[str, str | None] = dict.fromkeys(
    ["AKOOL_API_KEY", "AKOOL_BASE_URL", "AKOOL_STORAGE", "AKOOL_LEDGER_URL", "DAGSTER_HOME", "COLUMNS"]
)


class Command:
    """Runs ``akool-dagster`` in a Dagster home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"sqlite:///{home / 'akool' / 'ledger.sqlite'}"
        self.environment: dict[str, str | None] = {**NO_SETTINGS, "DAGSTER_HOME": str(home)}

    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner(env=self.environment).invoke(main, arguments, input=stdin, prog_name="akool-dagster")

    def tracked(self, account: str = "akool") -> dict[str, Job]:
        with JobLedger.open(self.url) as ledger:
            return {job.job_id: job for job in ledger.iter_jobs(account)}

    def record(self, *seen: Observation, limits: Limits | None = None) -> None:
        with JobLedger.create(self.url, limits=limits) as ledger:
            ledger.track("akool", [TrackRequest(job_id=one.job_id) for one in seen])
            ledger.record("akool", seen, look_again_ms)

    def answer(self, number: int, status: int, **fields: object) -> None:
        told = ResultRow.model_validate(row(job_id(number), status, **fields))
        self.record(observation_of(told, told.update_time or 0))

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        result = self("jobs", "--json", *arguments)
        assert result.exit_code == 0, result.output
        parsed: list[dict[str, Any]] = json.loads(result.stdout)
        return parsed


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


# track


def test_ids_on_the_command_line_are_tracked(command: Command) -> None:
    result = command("track", job_id(1), job_id(2))
    assert (result.exit_code, result.stderr) == (0, "")
    said = f"2 new, 0 tracked already; account akool, ledger {command.url}"
    assert result.stdout == f"{said}, which was made for it: there was none\n"
    assert list(command.tracked()) == [job_id(1), job_id(2)]
    assert command("track", job_id(3), job_id(4)).stdout == f"{said}\n"


def test_tracking_again_adds_nothing_and_says_so(command: Command) -> None:
    command("track", job_id(1))
    before = command.tracked()
    result = command("track", job_id(1), job_id(1), job_id(2))
    assert result.stdout.startswith("1 new, 1 tracked already, 1 given twice; account")
    assert command.tracked()[job_id(1)] == before[job_id(1)]


def test_labels_are_given_to_every_id_and_merged(command: Command) -> None:
    command("track", job_id(1), "--label", "campaign=spring", "--label", "formula=a=b")
    assert json.loads(command.tracked()[job_id(1)].labels) == {"campaign": "spring", "formula": "a=b"}
    result = command("track", job_id(1), "--label", "campaign=summer")
    assert "1 tracked already, 1 relabelled" in result.stdout
    assert json.loads(command.tracked()[job_id(1)].labels) == {"campaign": "summer", "formula": "a=b"}


@pytest.mark.parametrize("label", ["campaign", "=x", " =x", ""])
def test_a_label_that_is_no_pair_is_a_usage_error(command: Command, label: str) -> None:
    result = command("track", job_id(1), "--label", label)
    assert result.exit_code == 2
    assert "is not KEY=VALUE" in result.stderr
    assert not (command.home / "akool").exists()


def test_missing_jobs_are_polled_anew_only_when_asked_to(command: Command) -> None:
    command.record(Missed(job_id=job_id(1)), limits=Limits(misses=1, miss_grace_ms=0))
    assert command.tracked()[job_id(1)].state == "missing"
    assert "0 new, 1 tracked already;" in command("track", job_id(1)).stdout
    assert command.tracked()[job_id(1)].state == "missing"
    assert "0 new, 1 tracked already, 1 reopened;" in command("track", "--again", job_id(1)).stdout
    assert command.tracked()[job_id(1)].state == "pending"


def test_ids_come_from_a_file_of_any_format(command: Command, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(f"{job_id(1)}, {job_id(2)}\n")
    (tmp_path / "ids.csv").write_bytes(f'\ufeff"_id","labels"\r\n"{job_id(3)}","{{""k"": ""v""}}"\r\n'.encode())
    (tmp_path / "ids.jsonl").write_text(f'{{"_id": "{job_id(4)}"}}\n')
    for name in ("ids.txt", "ids.csv", "ids.jsonl"):
        result = command("track", "--from-file", str(tmp_path / name), "--label", "from=file")
        assert (result.exit_code, result.stderr) == (0, "")
    tracked = command.tracked()
    assert list(tracked) == [job_id(n) for n in (1, 2, 3, 4)]
    assert json.loads(tracked[job_id(3)].labels) == {"k": "v", "from": "file"}


def test_ids_come_from_standard_input(command: Command) -> None:
    result = command("track", "--from-file", "-", stdin=f"{job_id(1)}\n{job_id(2)}\n")
    assert result.stdout.startswith("2 new,")


def test_ids_from_the_command_line_and_a_file_are_taken_together(command: Command) -> None:
    result = command("track", job_id(1), "--from-file", "-", stdin=f"{job_id(1)}\n{job_id(2)}\n")
    assert result.stdout.startswith("2 new, 0 tracked already, 1 given twice;")


def test_a_refused_id_does_not_stop_the_others_but_fails_the_command(command: Command) -> None:
    result = command("track", "b@d", job_id(1), "--from-file", "-", stdin=f"{job_id(2)}\n\nwörse\n")
    assert result.exit_code == 1
    assert list(command.tracked()) == [job_id(1), job_id(2)]
    assert "argument 1: 'b@d' is not a job id" in result.stderr
    assert "-, line 3: 'wörse' is not a job id" in result.stderr
    assert "refused: 2" in result.stderr
    assert result.stdout.startswith("2 new,")


def test_a_table_without_its_header_is_refused_before_there_is_a_ledger(command: Command) -> None:
    result = command("track", "--from-file", "-", stdin=f"ID;status\n{job_id(1)};completed\n")
    assert result.exit_code == 1
    assert "-, line 1: the first line, 'ID;status', is a header without a column _id" in result.stderr
    assert "refused: 1 (see above). Nothing was tracked." in result.stderr
    assert not (command.home / "akool").exists()


def test_what_jobs_prints_as_json_can_be_tracked_again(command: Command) -> None:
    numbers = range(1, 4)
    command.record(*(Missed(job_id=job_id(n)) for n in numbers), limits=Limits(misses=1, miss_grace_ms=0))
    printed = command("jobs", "--json", "--state", "missing").stdout
    result = command("track", "--from-file", "-", "--again", stdin=printed)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "0 new, 3 tracked already, 3 reopened;" in result.stdout
    assert list(command.tracked()) == [job_id(n) for n in numbers]


def test_nothing_to_track_is_a_usage_error(command: Command) -> None:
    result = command("track")
    assert result.exit_code == 2
    assert "at least one ID, or --from-file" in result.stderr


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_tracked(command: Command, tmp_path: Path) -> None:
    for source, why in ((tmp_path / "none.txt", "No such file"), (tmp_path, "Is a directory")):
        result = command("track", job_id(1), "--from-file", str(source))
        assert result.exit_code == 1
        assert f"Cannot read {source}: {why}" in result.stderr
    assert not (command.home / "akool").exists()


def test_a_file_of_another_encoding_is_refused_whole(command: Command, tmp_path: Path) -> None:
    source = tmp_path / "ids.txt"
    source.write_bytes(f"{job_id(1)}\n".encode("utf-16"))
    result = command("track", "--from-file", str(source))
    assert result.exit_code == 1
    assert "is not UTF-8 text (byte 0). Nothing was tracked." in result.stderr


def test_accounts_are_kept_apart(command: Command) -> None:
    assert "account second," in command("track", "--account", "second", job_id(1)).stdout
    assert list(command.tracked("second")) == [job_id(1)]
    assert command.tracked() == {}
    assert command.json("--account", "second")[0]["_id"] == job_id(1)


def test_an_account_that_the_ledger_does_not_know_yet_is_noticed_beside_others(command: Command) -> None:
    assert command("track", job_id(1)).stderr == ""
    noticed = command("track", "--account", "akol", job_id(2))
    assert noticed.exit_code == 0
    assert noticed.stderr == "Note: the ledger had no jobs of akol yet, but of akool.\n"
    assert command("track", "--account", "akol", job_id(3)).stderr == ""


def test_an_account_that_cannot_be_a_prefix_is_a_usage_error(command: Command) -> None:
    for arguments in (["track", job_id(1)], ["jobs"], ["ledger", "check"]):
        for account in ("a/b", "my-team", "../akool", ""):
            result = command(*arguments, "--account", account)
            assert result.exit_code == 2
            shown = " ".join(result.stderr.split())
            assert f"{account!r} cannot be an account" in shown
            assert "1 to 64 letters, digits or '_'" in shown
    assert not (command.home / "akool").exists()


def test_a_ledger_that_cannot_be_written_is_an_error_of_one_sentence(command: Command) -> None:
    (command.home / "akool").write_text("a file where the folder should be")
    result = command("track", job_id(1))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert str(command.home / "akool") in result.stderr
    assert "Traceback" not in result.output


# jobs


def a_job_of_each_kind(command: Command) -> None:
    command.answer(1, 1)
    command.answer(2, 2)
    command.answer(3, 3)
    command.answer(4, 4, error_reason="[/bold] The input [image] was refused :smile:")
    command.record(Unreadable(job_id=job_id(5), error="status is not a 64-bit integer"))


def test_jobs_are_shown_as_a_table(command: Command) -> None:
    a_job_of_each_kind(command)
    result = command("jobs")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = {number: line for number in range(1, 6) for line in result.stdout.splitlines() if job_id(number) in line}
    for number, words in {
        1: ("pending", "queueing"),
        2: ("pending", "processing"),
        3: ("completed", "completed", "pending"),
        4: ("failed", "failed"),
        5: ("pending", "unseen", "status is not a"),
    }.items():
        assert all(word in lines[number] for word in words), lines[number]
    assert command.url in "".join(result.stdout.split())


def test_akools_own_words_are_shown_as_they_are(command: Command) -> None:
    a_job_of_each_kind(command)
    shown = " ".join(command("jobs", "--state", "failed").stdout.replace("│", " ").split())
    for words in ("[/bold] The", "[image]", ":smile:"):
        assert words in shown


def test_what_a_terminal_would_obey_is_written_out(command: Command) -> None:
    command.answer(1, 4, error_reason="bad \x1b]0;OWNED\x07 \x1b[2J \u202eface 只")
    command.record(Unreadable(job_id=job_id(2), error="odd \x1b[31m"))
    shown = command("jobs").stdout + command("ledger", "check").stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    words = " ".join(shown.replace("│", " ").split())
    assert r"bad \x1b]0;OWNED\x07 \x1b[2J \u202eface 只" in words
    assert words.count(r"odd \x1b[31m") == 2


def in_a_shell(command: Command, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which ``$AKOOL`` is the command."""
    akool = f"{sys.executable} -c 'from akool_dagster.cli import main; main()'"
    environment = {**os.environ, "DAGSTER_HOME": str(command.home), **variables}
    for name in ("AKOOL_STORAGE", "AKOOL_LEDGER_URL"):
        environment.pop(name, None)
    return subprocess.run(
        ["/bin/sh", "-c", line.replace("$AKOOL", akool)],
        capture_output=True,
        encoding="ascii",
        env=environment,
        timeout=60,
        check=False,
    )


def test_an_encoding_without_akools_letters_is_no_failure(command: Command) -> None:
    command.answer(1, 4, prompt="\u4e00\u53ea\u8239", error_reason="bad f\u4e00ce")
    as_json = in_a_shell(command, "$AKOOL jobs --json", PYTHONIOENCODING="cp1252")
    assert (as_json.returncode, as_json.stderr) == (0, "")
    assert json.loads(as_json.stdout)[0]["payload"]["prompt"] == "\u4e00\u53ea\u8239"
    table = in_a_shell(command, "$AKOOL jobs", PYTHONIOENCODING="cp1252")
    assert (table.returncode, table.stderr) == (0, "")
    assert r"bad f\u4e00ce" in table.stdout


@pytest.mark.parametrize(
    ("line", "closed"),
    [
        ("$AKOOL jobs >&-", "output"),
        ("$AKOOL jobs --json >&-", "output"),
        ("$AKOOL track --from-file - <&-", "input"),
    ],
)
def test_a_closed_stream_is_named_in_a_sentence(command: Command, line: str, closed: str) -> None:
    command("track", job_id(1))
    done = in_a_shell(command, line)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: Standard {closed} is closed: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("state", "numbers"), [("pending", [1, 2, 5]), ("completed", [3]), ("failed", [4]), ("missing", [])]
)
def test_jobs_can_be_narrowed_to_a_state(command: Command, state: str, numbers: list[int]) -> None:
    a_job_of_each_kind(command)
    ids = [job_id(number) for number in numbers]
    assert [job["_id"] for job in command.json("--state", state)] == ids
    shown = command("jobs", "--state", state).stdout
    assert [job_id(n) for n in range(1, 6) if job_id(n) in shown] == ids


def test_an_unknown_state_is_a_usage_error(command: Command) -> None:
    assert command("jobs", "--state", "done").exit_code == 2


def test_json_has_every_field_of_every_job(command: Command) -> None:
    a_job_of_each_kind(command)
    command("track", job_id(3), "--label", "campaign=Frühling")
    found = command.json()
    assert [job["_id"] for job in found] == [job_id(n) for n in range(1, 6)]
    job, kept = found[2], command.tracked()[job_id(3)]
    assert set(job) == {"_id" if name == "job_id" else name for name in Job.__dataclass_fields__}
    assert job["labels"] == {"campaign": "Frühling"}
    assert job["payload"]["video_url"] == f"https://cdn.example/{job_id(3)}.mp4"
    assert job["poll_alone"] is False
    assert job["settled_at"] is not None
    moment = datetime.fromisoformat(job["settled_at"])
    assert moment.utcoffset() == timedelta(0)
    assert round(moment.timestamp() * 1000) == kept.settled_at
    assert found[0]["payload"]["status"] == 1
    assert (found[4]["payload"], found[4]["settled_at"]) == (None, None)


def test_no_jobs_are_an_empty_list(command: Command) -> None:
    command("ledger", "init")
    assert command.json() == []
    assert command("jobs").exit_code == 0


def test_one_job_with_an_impossible_time_does_not_hide_the_others(command: Command) -> None:
    command("track", job_id(1), job_id(2), job_id(3))
    with JobLedger.open(command.url) as ledger:
        told = observation_of(ResultRow.model_validate(row(job_id(2))), 0)
        ledger.record("akool", [replace(told, video_expires_at=2**63 - 1)], look_again_ms)
    found = command.json()
    assert [job["_id"] for job in found] == [job_id(n) for n in (1, 2, 3)]
    assert found[1]["video_expires_at"] == 2**63 - 1


def test_a_long_table_is_cut_and_says_so(command: Command) -> None:
    with JobLedger.create(command.url) as ledger:
        ledger.track("akool", [TrackRequest(job_id=job_id(n)) for n in range(SHOWN_JOBS + 7)])
    shown = command("jobs").stdout
    assert "... and 7 more" in shown
    assert job_id(SHOWN_JOBS - 1) in shown
    assert job_id(SHOWN_JOBS) not in shown
    assert len(command.json()) == SHOWN_JOBS + 7


def test_without_a_ledger_jobs_say_how_to_make_one(command: Command) -> None:
    for arguments in (["jobs"], ["jobs", "--json"]):
        result = command(*arguments)
        assert result.exit_code == 1
        assert f"Error: There is no ledger at {command.url}" in result.stderr
        assert "akool-dagster ledger init" in result.stderr
        assert result.stdout == ""
    assert not (command.home / "akool").exists()


def test_without_settings_the_variables_are_named(command: Command) -> None:
    command.environment["DAGSTER_HOME"] = None
    for arguments in (["jobs"], ["track", job_id(1)], ["ledger", "init"]):
        result = command(*arguments)
        assert result.exit_code == 1
        assert "Neither AKOOL_LEDGER_URL nor DAGSTER_HOME is set" in result.stderr


def test_a_ledger_of_its_own_is_used_when_its_url_is_set(command: Command, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"
    command.environment["AKOOL_LEDGER_URL"] = url
    assert f"ledger {url}" in command("track", job_id(1)).stdout
    assert not (command.home / "akool").exists()


# ledger, emulator, the command itself


def test_the_ledger_is_created_once(command: Command) -> None:
    first, second = command("ledger", "init"), command("ledger", "init")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == second.stdout
    assert f"is ready at {command.url}" in first.stdout


def test_every_ledger_command_says_which_ledger_and_storage_root_it_used(command: Command) -> None:
    command("ledger", "init")
    for arguments, code in (
        (["check"], 0),
        (["restore"], 1),
        (["adopt", "--yes"], 0),
        (["prune", "--older-than", "9"], 0),
    ):
        result = command("ledger", *arguments)
        assert (result.exit_code, command.url in result.stdout) == (code, True), result.output
        assert str(command.home / "akool") in result.stdout


def test_a_check_is_for_machines_too(command: Command) -> None:
    a_job_of_each_kind(command)
    result = command("ledger", "check", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"], report["counts"]["states"]["completed"]) == (1, False, 1)
    (problem,) = (finding for finding in report["findings"] if finding["level"] == "problem")
    assert "status is not a 64-bit integer" in problem["what"]
    assert problem["todo"]


def test_the_commands_of_another_account_name_it(command: Command) -> None:
    command("track", "--account", "brand", job_id(1))
    assert "Give the prefix" in command("ledger", "check").stdout
    refused = command("ledger", "prune", "--older-than", "9", "--account", "brand")
    assert refused.exit_code == 1
    assert "ledger check --account brand" in refused.stderr


@pytest.mark.parametrize("arguments", [["check"], ["restore"], ["adopt"], ["prune", "--older-than", "30"]])
def test_without_a_ledger_the_ledger_commands_say_how_to_make_one(command: Command, arguments: list[str]) -> None:
    result = command("ledger", *arguments)
    assert result.exit_code == 1
    assert "ledger init" in result.output
    assert "If there was one before, restore its newest backup" in result.output
    for step in ("init", "restore", "adopt"):
        assert f"`akool-dagster ledger {step}`" in result.output
    assert not (command.home / "akool").exists()


def test_a_check_without_a_ledger_does_not_say_that_it_counted_tables(command: Command) -> None:
    assert "account akool: table files were not looked at\n" in command("ledger", "check").stdout
    assert json.loads(command("ledger", "check", "--json").stdout)["table_files"] is None
    command("ledger", "init")
    assert "account akool: 0 table files\n" in command("ledger", "check").stdout


@pytest.mark.parametrize(
    ("step", "options"), [("restore", ["--dry-run"]), ("adopt", ["--yes"]), ("prune", ["--dry-run"])]
)
def test_the_help_says_how_to_look_first_and_how_not_to_be_asked(
    command: Command, step: str, options: list[str]
) -> None:
    words = command("ledger", step, "--help").stdout.split("Options:")[0]
    assert all(option in words for option in options)


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


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["track", "-h"], ["jobs", "-h"], ["ledger", "init", "-h"]])
def test_every_command_has_help(command: Command, arguments: list[str]) -> None:
    result = command(*arguments)
    assert result.exit_code == 0
    assert "Usage: akool-dagster" in result.stdout


def test_the_installed_command_says_its_version() -> None:
    script = Path(sys.executable).with_name("akool-dagster")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith(version("akool-dagster"))
