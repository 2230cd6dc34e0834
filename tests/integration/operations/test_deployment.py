"""A deployment whose ledger was lost, restored, replaced or moved: no row is lost, and one command puts it right."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from akool_dagster.cli import main
from akool_dagster.ledger import leases
from tests.deployment import Deployment, emulated, failure_of, object_id

YESTERDAY = int(time.time()) - 86_400
DAY = time.strftime("%Y-%m-%d", time.gmtime(YESTERDAY))
DONE, FAILED, PENDING, LATER = (object_id(YESTERDAY, serial) for serial in (1, 2, 3, 9))
TABLES = ("results", "credits", "durations", "statuses", "videos")
LANDINGS = ("akool_land_results", "akool_land_videos")


@pytest.fixture
def landed(deployment: Deployment) -> Deployment:
    """A deployment with a completed, a failed and a pending job, landed."""
    deployment.emulator.add_job(emulated(DONE, video_duration=1.0, deduction_credit=30))
    deployment.emulator.add_job(emulated(FAILED, outcome="failed"))
    deployment.emulator.add_job(emulated(PENDING, processing_polls=99))
    deployment.emulator.add_job(emulated(LATER, video_duration=1.0))
    deployment.track(DONE, FAILED, PENDING, campaign="spring")
    land(deployment)
    return deployment


def land(deployment: Deployment) -> None:
    """Poll what is due, and land the day."""
    deployment.tick()
    deployment.tick()
    for job in LANDINGS:
        result = deployment.land(job, DAY)
        assert result.success, failure_of(result)


def rows(deployment: Deployment) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table, without their versions."""
    return {
        table: [{name: row[name] for name in row if name != "version"} for row in deployment.rows(table)]
        for table in TABLES
    }


def command(deployment: Deployment, *arguments: str) -> Result:
    environment = {"AKOOL_LEDGER_URL": deployment.ledger_url, "AKOOL_STORAGE": str(deployment.root)}
    return CliRunner(env=environment).invoke(main, ["ledger", *arguments], prog_name="akool-dagster")


def succeed(deployment: Deployment, *arguments: str) -> str:
    result = command(deployment, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def back_up(deployment: Deployment) -> Path:
    backup = deployment.folder / "backup.sqlite"
    with deployment.ledger() as ledger:
        ledger.close()
        shutil.copy(deployment.folder / "ledger.sqlite", backup)
    return backup


def lose_the_ledger(deployment: Deployment, backup: Path | None = None) -> None:
    for suffix in ("", "-wal", "-shm"):
        (deployment.folder / f"ledger.sqlite{suffix}").unlink(missing_ok=True)
    if backup is not None:
        shutil.copy(backup, deployment.folder / "ledger.sqlite")


def test_a_lost_ledger_is_made_anew_and_adopts_what_landed(landed: Deployment) -> None:
    before, files = rows(landed), landed.files()
    stored = landed.video(DONE).stat()
    former = back_up(landed)
    lose_the_ledger(landed)
    assert "ledger init" in landed.tick().message
    succeed(landed, "init")
    for job in LANDINGS:
        assert "ledger adopt" in failure_of(landed.land(job, DAY))
    assert landed.files() == files
    assert "3 added" in succeed(landed, "adopt", "--yes")
    land(landed)
    assert rows(landed) == before
    assert landed.video(DONE).stat().st_mtime_ns == stored.st_mtime_ns
    assert succeed(landed, "check", "--files").endswith("Everything is in order.\n")
    lose_the_ledger(landed, former)
    files = landed.files()
    for job in LANDINGS:
        assert "ledger adopt" in failure_of(landed.land(job, DAY))
    assert landed.files() == files


def test_an_older_ledger_takes_no_row_back_and_adopts_the_rest(landed: Deployment) -> None:
    backup = back_up(landed)
    landed.track(LATER)
    land(landed)
    before = rows(landed)
    lose_the_ledger(landed, backup)
    land(landed)
    assert rows(landed) == before
    assert LATER in command(landed, "check").output
    assert "1 added" in succeed(landed, "adopt", "--yes")
    land(landed)
    assert rows(landed) == before
    assert succeed(landed, "check").endswith("Everything is in order.\n")


def test_a_storage_root_that_is_not_mounted_is_not_taken_for_an_empty_one(landed: Deployment) -> None:
    away = landed.folder / "away"
    landed.root.rename(away)
    landed.root.mkdir()  # the bare mount point
    landed.track(LATER)
    landed.tick()
    for job in LANDINGS:
        assert "mount the storage" in failure_of(landed.land(job, DAY))
    assert landed.files() == {}
    landed.root.rmdir()
    away.rename(landed.root)
    land(landed)
    assert {row["_id"] for row in landed.rows("results")} == {DONE, FAILED, LATER}
    assert landed.video(LATER).exists()


def test_a_second_run_of_a_partition_fails_naming_the_one_that_holds_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.track(DONE)
    monkeypatch.setattr(leases, "WAIT_SECONDS", 0.0)
    with deployment.account() as account, account.leases.acquire("tables", DAY, "the-other-run"):
        assert "the-other-run" in failure_of(deployment.land("akool_land_results", DAY))
    assert deployment.land("akool_land_results", DAY).success


def test_a_run_that_failed_to_write_frees_its_lease_and_the_next_one_lands(deployment: Deployment) -> None:
    deployment.emulator.add_job(emulated(DONE, video_duration=1.0))
    deployment.track(DONE)
    deployment.tick()
    deployment.root.write_text("a file where the folder should be")
    for job in LANDINGS:
        assert str(deployment.root) in failure_of(deployment.land(job, DAY))
    now = int(time.time() * 1000)
    with deployment.ledger() as ledger:
        account = ledger.account("akool")
        assert not any(
            facts.is_live(now) for kind in ("tables", "videos") for facts in account.leases.facts(kind).values()
        )
        assert account.counts().videos == {"pending": 1}
    deployment.root.unlink()
    land(deployment)
    assert deployment.video(DONE).read_bytes() == deployment.emulator.video_bytes(DONE)
