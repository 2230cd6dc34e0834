"""`akool-dagster jobs`, and what commands do about closed streams and narrow encodings."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest

from akool_dagster.cli import main
from akool_dagster.cli.jobs import SHOWN_JOBS
from akool_dagster.ledger import Job, JobLedger, TrackRequest, Unreadable
from tests.integration.cli.command import Command
from tests.integration.operations.helpers import answered
from tests.scripted_api import job_id


def words_of(table: str) -> str:
    return " ".join(table.replace("│", " ").split())


def test_jobs_are_shown_as_a_table_with_akools_own_words_as_they_are(command: Command) -> None:
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
    assert all(word in words_of(result.stdout) for word in ("[/bold] The", "[image]", ":smile:"))


def test_what_a_terminal_would_obey_is_written_out(command: Command) -> None:
    command.answer(1, 4, error_reason="bad \x1b]0;OWNED\x07 \x1b[2J \u202eface 只")
    command.record(Unreadable(job_id=job_id(2), error="odd \x1b[31m"))
    shown = command("jobs").stdout + command("ledger", "check").stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    words = words_of(shown)
    assert r"bad \x1b]0;OWNED\x07 \x1b[2J \u202eface 只" in words
    assert words.count(r"odd \x1b[31m") == 2


def test_an_encoding_without_akools_letters_is_no_failure(command: Command) -> None:
    command.answer(1, 4, prompt="\u4e00\u53ea\u8239", error_reason="bad f\u4e00ce")
    as_json = command("jobs", "--json", charset="cp1252")
    assert (as_json.exit_code, as_json.stderr) == (0, "")
    assert json.loads(as_json.stdout)[0]["payload"]["prompt"] == "\u4e00\u53ea\u8239"
    table = command("jobs", charset="cp1252")
    assert (table.exit_code, table.stderr) == (0, "")
    assert r"bad f\u4e00ce" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "closed"),
    [(["jobs"], "stdout"), (["jobs", "--json"], "stdout"), (["track", "--from-file", "-"], "stdin")],
)
def test_a_closed_stream_is_named_in_a_sentence(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], closed: str
) -> None:
    command("track", job_id(1))
    monkeypatch.setenv("DAGSTER_HOME", str(command.home))
    monkeypatch.setattr(sys, closed, None)  # what Python does with a stream that is closed at the start
    with pytest.raises(click.ClickException, match=r"^Standard (input|output) is closed: "):
        main.main(arguments, standalone_mode=False)


def test_jobs_can_be_narrowed_to_a_state(command: Command) -> None:
    command.have_one_of_each_kind()
    for state, numbers in {"pending": [1, 2, 5], "completed": [3], "failed": [4], "missing": []}.items():
        assert [job["_id"] for job in command.json("--state", state)] == [job_id(number) for number in numbers]
        shown = command("jobs", "--state", state).stdout
        assert [number for number in range(1, 6) if job_id(number) in shown] == numbers


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


def test_a_ledger_of_its_own_is_used_when_its_url_is_set(command: Command, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"
    command.environment["AKOOL_LEDGER_URL"] = url
    assert f"ledger {url}" in command("track", job_id(1)).stdout
    assert not (command.home / "akool").exists()
