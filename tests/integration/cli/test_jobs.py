"""`akool-dagster jobs`, and what every command does about its streams and settings."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from akool_dagster.cli.jobs import SHOWN_JOBS
from akool_dagster.ledger import Job, JobLedger, TrackRequest, Unreadable
from tests.integration.cli.command import Command
from tests.integration.operations.helpers import answered
from tests.scripted_api import job_id


def test_jobs_are_shown_as_a_table(command: Command) -> None:
    command.have_one_of_each_kind()
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
    command.have_one_of_each_kind()
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


def test_an_encoding_without_akools_letters_is_no_failure(command: Command) -> None:
    command.answer(1, 4, prompt="\u4e00\u53ea\u8239", error_reason="bad f\u4e00ce")
    as_json = command.in_a_shell("$AKOOL jobs --json", PYTHONIOENCODING="cp1252")
    assert (as_json.returncode, as_json.stderr) == (0, "")
    assert json.loads(as_json.stdout)[0]["payload"]["prompt"] == "\u4e00\u53ea\u8239"
    table = command.in_a_shell("$AKOOL jobs", PYTHONIOENCODING="cp1252")
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
    done = command.in_a_shell(line)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: Standard {closed} is closed: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("state", "numbers"), [("pending", [1, 2, 5]), ("completed", [3]), ("failed", [4]), ("missing", [])]
)
def test_jobs_can_be_narrowed_to_a_state(command: Command, state: str, numbers: list[int]) -> None:
    command.have_one_of_each_kind()
    ids = [job_id(number) for number in numbers]
    assert [job["_id"] for job in command.json("--state", state)] == ids
    shown = command("jobs", "--state", state).stdout
    assert [job_id(n) for n in range(1, 6) if job_id(n) in shown] == ids


def test_an_unknown_state_is_a_usage_error(command: Command) -> None:
    assert command("jobs", "--state", "done").exit_code == 2


def test_json_has_every_field_of_every_job(command: Command) -> None:
    command.have_one_of_each_kind()
    command("track", job_id(3), "--label", "campaign=Frühling")
    found = command.json()
    assert [job["_id"] for job in found] == [job_id(n) for n in range(1, 6)]
    job, kept = found[2], command.tracked()[job_id(3)]
    assert set(job) == {"_id" if name == "job_id" else name for name in Job.__dataclass_fields__}
    assert job["labels"] == {"campaign": "Frühling"}
    assert job["payload"]["video_url"] == f"https://cdn.example/{job_id(3)}.mp4?Signature=kept"
    assert job["call_size"] is None
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
    command.record(replace(answered(job_id(2), 3), video_expires_at=2**63 - 1))
    found = command.json()
    assert [job["_id"] for job in found] == [job_id(n) for n in (1, 2, 3)]
    assert found[1]["video_expires_at"] == 2**63 - 1


def test_a_long_table_is_cut_and_says_so(command: Command) -> None:
    with JobLedger.create(command.url) as ledger:
        ledger.account("akool").track([TrackRequest(job_id=job_id(n)) for n in range(SHOWN_JOBS + 7)])
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
