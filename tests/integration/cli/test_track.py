"""`akool-dagster track`."""

from __future__ import annotations

import json
from pathlib import Path

from akool_dagster.ledger import JobLedger
from tests.integration.cli.command import Command
from tests.scripted_api import job_id


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


def test_missing_jobs_are_polled_anew_only_when_asked_to(command: Command) -> None:
    command.lose(1)
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


def test_a_refused_id_does_not_stop_the_others_but_fails_the_command(command: Command) -> None:
    result = command("track", "b@d", job_id(1), "--from-file", "-", stdin=f"{job_id(2)}\n\nwörse\n{job_id(1)}\n")
    assert result.exit_code == 1
    assert list(command.tracked()) == [job_id(1), job_id(2)]
    assert "argument 1: 'b@d' is not a job id" in result.stderr
    assert "-, line 3: 'wörse' is not a job id" in result.stderr
    assert "refused: 2" in result.stderr
    assert result.stdout.startswith("2 new, 0 tracked already, 1 given twice;")


def test_a_table_without_its_header_is_refused_before_there_is_a_ledger(command: Command) -> None:
    result = command("track", "--from-file", "-", stdin=f"ID;status\n{job_id(1)};completed\n")
    assert result.exit_code == 1
    assert "-, line 1: the first line, 'ID;status', is a header without a column _id" in result.stderr
    assert "refused: 1 (see above). Nothing was tracked." in result.stderr
    assert not (command.home / "akool").exists()


def test_what_jobs_prints_as_json_can_be_tracked_again(command: Command) -> None:
    numbers = range(1, 4)
    command.lose(*numbers)
    printed = command("jobs", "--json", "--state", "missing").stdout
    result = command("track", "--from-file", "-", "--again", stdin=printed)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "0 new, 3 tracked already, 3 reopened;" in result.stdout
    assert list(command.tracked()) == [job_id(n) for n in numbers]


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_tracked(command: Command, tmp_path: Path) -> None:
    (utf_16 := tmp_path / "ids.txt").write_bytes(f"{job_id(1)}\n".encode("utf-16"))
    for source, why in (
        (tmp_path / "none.txt", "Cannot read {}: No such file"),
        (tmp_path, "Cannot read {}: Is a directory"),
        (utf_16, "{} is not UTF-8 text (byte 0). Nothing was tracked."),
    ):
        result = command("track", job_id(1), "--from-file", str(source))
        assert (result.exit_code, why.format(source) in result.stderr) == (1, True)
    assert not (command.home / "akool").exists()


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


def test_the_format_of_a_file_can_be_said_where_it_is_unclear(command: Command) -> None:
    text = f"ID\n{job_id(1)}\n"
    assert "--format says which" in command("track", "--from-file", "-", stdin=text).stderr
    assert command("track", "--from-file", "-", "--format", "lines", stdin=text).stdout.startswith("2 new,")
    assert "names no column _id" in command("track", "--from-file", "-", "--format", "csv", stdin=text).stderr
    assert "not a line of JSON" in command("track", "--from-file", "-", "--format", "json", stdin=text).stderr


def test_pruned_and_forgotten_ids_are_counted_and_stay(command: Command) -> None:
    command.answer(1, 4)
    with JobLedger.open(command.url) as ledger:
        account = ledger.account("akool")
        account.pruning.prune([job_id(1)], ledger.version())
        account.pruning.forget([job_id(2)])
    before = command.tracked()
    said = command("track", "--again", job_id(1), job_id(2)).stdout
    assert said.startswith("0 new, 2 tracked already, 1 pruned, 1 forgotten, 0 reopened (only missing")
    assert command.tracked() == before


def test_a_stored_video_whose_file_is_gone_is_fetched_again_when_asked_for(command: Command) -> None:
    command.answer(3, 3)
    with JobLedger.open(command.url) as ledger:
        ledger.account("akool").videos.store(job_id(3), {"path": f"akool/videos/d/{job_id(3)}.mp4", "bytes": 4})
    assert "1 tracked already;" in command("track", job_id(3)).stdout
    assert command.tracked()[job_id(3)].video_state == "stored"
    command.environment["AKOOL_STORAGE"] = "relative"
    noted = command("track", "--again", job_id(3))
    assert (noted.exit_code, "was not looked at" in noted.stderr) == (0, True)
    command.environment["AKOOL_STORAGE"] = None
    assert "1 reopened" in command("track", "--again", job_id(3)).stdout
    assert command.tracked()[job_id(3)].video_state == "pending"
