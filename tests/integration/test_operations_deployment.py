"""A deployment whose ledger was lost, restored, replaced or moved: refused until the user says what to do."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from akool_dagster.cli import main
from tests.deployment import Deployment, emulated, failure_of, free_abandoned_generators, object_id
from tests.landed_tables import revisions_of, rows_of

DAY_SECONDS = 86_400
YESTERDAY = int(time.time()) - DAY_SECONDS


def day_of(job_id: str) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(int(job_id[:8], 16)))


@pytest.fixture
def landed(deployment: Deployment) -> Deployment:
    """A deployment with a completed, a failed and a pending job, landed."""
    done, failed, pending = (object_id(YESTERDAY, serial) for serial in (1, 2, 3))
    deployment.emulator.add_job(emulated(done, video_duration=1.0, deduction_credit=30))
    deployment.emulator.add_job(emulated(failed, outcome="failed"))
    deployment.emulator.add_job(emulated(pending, processing_polls=99))
    deployment.track(done, failed, pending, campaign="spring")
    deployment.rebuild(landing_interval_seconds=0)
    deployment.settle()
    assert deployment.land("akool_land_results", day_of(done)).success
    return deployment


def command(deployment: Deployment, *arguments: str, stdin: str = "") -> Result:
    environment = {"AKOOL_LEDGER_URL": deployment.ledger_url, "AKOOL_STORAGE": str(deployment.root)}
    return CliRunner(env=environment).invoke(main, ["ledger", *arguments], input=stdin, prog_name="akool-dagster")


def succeed(deployment: Deployment, *arguments: str) -> str:
    result = command(deployment, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def lose_the_ledger(deployment: Deployment, backup: Path | None = None) -> None:
    file = deployment.folder / "ledger.sqlite"
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    if backup is not None:
        shutil.copy(backup, file)


def back_up(deployment: Deployment) -> Path:
    backup = deployment.folder / "backup.sqlite"
    with deployment.ledger() as ledger:
        ledger.close()
        shutil.copy(deployment.folder / "ledger.sqlite", backup)
    return backup


def land_what_is_asked_for(deployment: Deployment) -> None:
    """Land every day, as the ticks ask for it: here without the wait that they keep between two landings."""
    deployment.tick()
    asked = deployment.tick()
    assert asked.requests or "wait (such as" in asked.message
    for day in {day_of(row["_id"]) for row in rows_of(deployment.root)["statuses"]} or {day_of(object_id(YESTERDAY))}:
        for job in ("akool_land_results", "akool_land_videos"):
            result = deployment.land(job, day)
            assert result.success, failure_of(result)


def test_a_lost_ledger_is_made_anew_restored_and_adopted_and_no_row_disappears(
    landed: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    before, revisions, files = rows_of(landed.root), revisions_of(landed.root), landed.files()
    lose_the_ledger(landed)
    assert "ledger init" in landed.tick().message
    succeed(landed, "init")
    day = day_of(before["results"][0]["_id"])
    refused = failure_of(landed.land("akool_land_results", day))
    assert "ledger restore" in refused
    assert "ledger adopt" in refused
    free_abandoned_generators(caplog)
    assert command(landed, "adopt", "--yes").exit_code == 1  # before it knows the jobs
    output = succeed(landed, "restore")
    assert "3 added" in output
    assert "ledger adopt" in output
    assert landed.files() == files  # nothing in the storage root has changed so far
    assert "is ledger" in succeed(landed, "adopt", "--yes")
    land_what_is_asked_for(landed)
    after = rows_of(landed.root)
    assert {name: after[name] for name in after if name != "statuses"} == {
        name: before[name] for name in before if name != "statuses"
    }
    assert [row["_id"] for row in after["statuses"]] == [row["_id"] for row in before["statuses"]]
    assert all(revision > revisions[name] for name, revision in revisions_of(landed.root).items())
    assert succeed(landed, "check", "--files").endswith("Everything is in order.\n")


def test_a_ledger_restored_from_an_older_backup_is_brought_up_to_the_tables(landed: Deployment) -> None:
    backup = back_up(landed)
    later = object_id(YESTERDAY, 9)
    landed.emulator.add_job(emulated(later, video_duration=1.0))
    landed.track(later)
    land_what_is_asked_for(landed)
    before = rows_of(landed.root)
    lose_the_ledger(landed, backup)
    checked = command(landed, "check")
    assert checked.exit_code == 1
    assert later in checked.output
    assert "ledger restore" in checked.output
    assert "1 added" in succeed(landed, "restore", "--dry-run")
    assert "1 added" in succeed(landed, "restore", "--dry-run")  # nothing was written
    assert "ledger adopt" not in succeed(landed, "restore")  # the root is still its own
    land_what_is_asked_for(landed)
    assert rows_of(landed.root)["results"] == before["results"]
    assert rows_of(landed.root)["videos"] == before["videos"]
    assert command(landed, "check").exit_code == 0


def test_the_former_ledger_is_refused_once_another_has_adopted_its_root(landed: Deployment) -> None:
    former = back_up(landed)
    lose_the_ledger(landed)
    for step in (["init"], ["restore"], ["adopt", "--yes"]):
        succeed(landed, *step)
    land_what_is_asked_for(landed)
    files = landed.files()
    lose_the_ledger(landed, former)
    day = day_of(rows_of(landed.root)["results"][0]["_id"])
    for job in ("akool_land_results", "akool_land_videos"):
        assert "belongs to ledger" in failure_of(landed.land(job, day))
    assert "identity" in command(landed, "check").output
    assert landed.files() == files


def test_adopting_asks_first_and_a_no_changes_nothing(landed: Deployment) -> None:
    lose_the_ledger(landed)
    succeed(landed, "init")
    succeed(landed, "restore")
    files = landed.files()
    with landed.ledger() as ledger:
        revision = ledger.revision()
    result = command(landed, "adopt", stdin="n\n")
    assert result.exit_code == 1
    with landed.ledger() as ledger:
        assert ledger.ledger_id in result.output
        assert ledger.revision() == revision
    assert landed.files() == files


def test_without_an_answer_to_its_question_adopting_says_how_not_to_be_asked(landed: Deployment) -> None:
    lose_the_ledger(landed)
    succeed(landed, "init")
    succeed(landed, "restore")
    files = landed.files()
    result = command(landed, "adopt", stdin="")
    assert (result.exit_code, landed.files()) == (1, files)
    assert "Error: Not confirmed. Nothing was changed. Where nobody is asked, add --yes." in result.output


def test_restoring_says_that_what_never_landed_must_be_tracked_again(landed: Deployment) -> None:
    words = "Jobs that never landed are in no table: track them again"
    assert words not in succeed(landed, "restore")
    lose_the_ledger(landed)
    succeed(landed, "init")
    assert words in succeed(landed, "restore", "--dry-run")
    assert words in succeed(landed, "restore")
    assert words in succeed(landed, "restore")  # nothing is added any more, but the adoption is to come
    succeed(landed, "adopt", "--yes")
    assert words not in succeed(landed, "restore")


@pytest.mark.parametrize(
    "key", ["2025-1-9", "2025-10-0:9", "2025-10-09-1300", "2025-10-09-13:30", "2025-13-01", "all", ""]
)
def test_what_is_no_partitions_key_is_refused_before_anything_is_opened(landed: Deployment, key: str) -> None:
    lose_the_ledger(landed)
    result = command(landed, "restore", "--partition", "2025-10-09", "--partition", key)
    assert result.exit_code == 2
    assert f"{key!r} is no partition's key: those are like 2025-10-09, or 2025-10-09-13:00" in result.output
    assert "no ledger" not in result.output


@pytest.mark.parametrize(
    "arguments", [["--account", "unknown"], ["--partition", "2025-10-09"], ["--partition", "2025-10-09-13:00"]]
)
def test_when_nothing_was_read_the_last_line_says_that_nothing_was_restored(
    landed: Deployment, arguments: list[str]
) -> None:
    for dry_run in ([], ["--dry-run"]):
        result = command(landed, "restore", *arguments, *dry_run)
        assert result.exit_code == 1
        assert result.output.splitlines()[-1] == "Nothing was restored: no table was read."
        assert ("Is the storage mounted" in result.output) == ("--account" in arguments)


def test_a_table_that_has_files_but_none_of_the_partition_is_named(landed: Deployment) -> None:
    old = object_id(YESTERDAY - DAY_SECONDS, 8)
    landed.emulator.add_job(emulated(old, outcome="failed"))
    landed.track(old)
    landed.settle()
    day = day_of(old)
    assert "though they have others: videos." in succeed(landed, "restore", "--partition", day)  # no job completed
    for table in ("credits", "durations"):
        (landed.root / "akool" / table / f"{day}.parquet").unlink()
    output = succeed(landed, "restore", "--partition", day)  # only something to know
    assert f"these tables have no file of {day}, though they have others: credits, durations, videos." in output
    assert "no file of" not in succeed(landed, "restore")


def test_a_root_that_starts_anew_in_an_empty_place_is_adopted_and_filled(
    landed: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    before = rows_of(landed.root)
    landed.root.rename(landed.folder / "old")
    day = day_of(before["results"][0]["_id"])
    assert "ledger adopt" in failure_of(landed.land("akool_land_results", day))
    free_abandoned_generators(caplog)
    assert "has no ledger.json" in command(landed, "check").output
    succeed(landed, "adopt", "--yes")
    land_what_is_asked_for(landed)
    assert rows_of(landed.root)["results"] == before["results"]
    missing = command(landed, "check", "--files")
    assert missing.exit_code == 1
    assert "1 stored videos are not in" in missing.output
    assert "nothing is to be done" in succeed(landed, "adopt", "--yes")


def test_another_deployments_root_is_neither_restored_from_nor_adopted(landed: Deployment) -> None:
    other = Deployment(landed.folder / "other", landed.emulator, landed.instance)
    other.folder.mkdir()
    job_id = object_id(YESTERDAY, 77)
    landed.emulator.add_job(emulated(job_id, outcome="failed"))
    other.track(job_id)
    other.tick()
    assert other.land("akool_land_results", day_of(job_id)).success
    files, counted = landed.files(), other.tick().message
    shutil.rmtree(other.root)
    shutil.copytree(landed.root, other.root)  # AKOOL_STORAGE set wrong
    for step in (["restore"], ["adopt", "--yes"], ["prune", "--older-than", "1"]):
        result = command(other, *step)
        assert result.exit_code == 1, step
        assert "Nothing was" in result.output
    with other.ledger() as ledger:
        assert [job.job_id for job in ledger.iter_jobs("akool")] == [job_id], counted
    assert other.files() == files


def test_a_pruned_day_is_not_landed_empty_and_restoring_lands_it_again(landed: Deployment) -> None:
    old = object_id(int(time.time()) - 40 * DAY_SECONDS, 5)
    landed.emulator.add_job(emulated(old, outcome="failed", extra_fields={"error_reason": "no face"}))
    landed.track(old)
    landed.settle()
    before = rows_of(landed.root)
    output = succeed(landed, "prune", "--older-than", "30")
    assert "1 payloads dropped" in output
    for job in ("akool_land_results", "akool_land_videos"):
        refused = failure_of(landed.land(job, day_of(old)))
        assert f"1 jobs of {day_of(old)}" in refused
        assert f"restore --partition {day_of(old)}" in refused
    assert rows_of(landed.root) == before
    assert "1 filled" in succeed(landed, "restore", "--partition", day_of(old))
    assert landed.land("akool_land_results", day_of(old)).success
    assert rows_of(landed.root) == before


def test_videos_that_are_due_are_stored_before_a_pruned_day_is_refused(landed: Deployment) -> None:
    old, late = (object_id(int(time.time()) - 3 * DAY_SECONDS, serial) for serial in (5, 6))
    landed.emulator.add_job(emulated(old, outcome="failed"))
    landed.track(old)
    landed.settle()
    succeed(landed, "prune", "--older-than", "1")
    landed.emulator.add_job(emulated(late, video_duration=1.0))
    landed.track(late)
    landed.tick()
    assert "pruned" in failure_of(landed.land("akool_land_videos", day_of(old)))
    assert landed.video(late).read_bytes() == landed.emulator.video_bytes(late)
    with landed.ledger() as ledger:
        assert [job.video_state for job in ledger.iter_jobs("akool") if job.job_id == late] == ["stored"]


def test_a_paid_video_whose_url_no_table_has_is_asked_for_and_not_given_up(deployment: Deployment) -> None:
    job_id = object_id(YESTERDAY, 4)
    deployment.emulator.add_job(emulated(job_id, video_duration=1.0))
    deployment.rebuild(tables=("statuses",))
    deployment.track(job_id)
    deployment.tick()
    assert deployment.land("akool_land_results", day_of(job_id)).success
    lose_the_ledger(deployment)
    for step in (["init"], ["restore"], ["adopt", "--yes"]):
        succeed(deployment, *step)
    assert deployment.land("akool_land_videos", day_of(job_id)).success
    assert deployment.video(job_id).read_bytes() == deployment.emulator.video_bytes(job_id)
