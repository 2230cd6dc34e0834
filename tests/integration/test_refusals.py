"""What a deployment refuses to do, so that no row and no file is lost."""

from __future__ import annotations

import gc
import shutil
import time

import dagster as dg
import pyarrow.parquet as pq
import pytest

from akool_dagster import JobLedger, JobLedgerResource
from akool_dagster.ledger import leases
from akool_dagster.ledger.database import Database
from tests.clock import FakeClock
from tests.deployment import Deployment, emulated, failure_of, free_abandoned_generators, object_id
from tests.simulation.ledgers import LedgerDatabase

DAY_SECONDS = 86_400


@pytest.fixture
def landed(deployment: Deployment) -> tuple[Deployment, str, str]:
    """A deployment with one landed job; its id and its day."""
    second = int(time.time()) - DAY_SECONDS
    job_id = object_id(second)
    deployment.emulator.add_job(emulated(job_id, video_duration=1.0))
    deployment.track(job_id)
    deployment.settle()
    return deployment, job_id, time.strftime("%Y-%m-%d", time.gmtime(second))


def test_another_ledger_does_not_write_into_the_storage_root(landed: tuple[Deployment, str, str]) -> None:
    deployment, job_id, day = landed
    before = deployment.files()
    with deployment.ledger() as ledger:
        first = ledger.ledger_id
    (deployment.folder / "ledger.sqlite").rename(deployment.folder / "first.sqlite")
    deployment.track(job_id)
    for job in ("akool_land_results", "akool_land_videos"):
        reason = failure_of(deployment.land(job, day))
        assert first in reason
        assert "AKOOL_LEDGER_URL" in reason
    # A day that has no file yet is refused too: the root has one owner.
    assert first in failure_of(deployment.land("akool_land_results", "2026-01-01"))
    assert deployment.files() == before


def test_a_ledger_older_than_the_tables_does_not_remove_their_rows(landed: tuple[Deployment, str, str]) -> None:
    deployment, job_id, day = landed
    backup = deployment.folder / "backup.sqlite"
    with deployment.ledger() as ledger:
        ledger.close()
        shutil.copy(deployment.folder / "ledger.sqlite", backup)
    later = object_id(int(job_id[:8], 16), serial=7)
    deployment.emulator.add_job(emulated(later, video_duration=1.0))
    deployment.track(later)
    deployment.rebuild(landing_interval_seconds=0)
    deployment.tick()
    assert deployment.land("akool_land_results", day).success
    before = deployment.files()
    for suffix in ("", "-wal", "-shm"):
        (deployment.folder / f"ledger.sqlite{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, deployment.folder / "ledger.sqlite")
    reason = failure_of(deployment.land("akool_land_results", day))
    assert later in reason
    assert "Restore the ledger's newest backup" in reason
    assert deployment.files() == before


def test_a_ledger_older_than_the_end_of_a_job_does_not_show_it_as_pending_again(
    landed: tuple[Deployment, str, str],
) -> None:
    deployment, job_id, day = landed
    with deployment.ledger() as ledger:
        ledger.close()
    database = LedgerDatabase(deployment.ledger_url)
    backup = database.backup()
    reopened = {"state": "pending", "settled_at": None, "video_state": None, "revision": 2**42, "video_revision": 2**42}
    database.put_back({**backup, "akool_jobs": [{**job, **reopened} for job in backup["akool_jobs"]]})
    database.close()
    before = deployment.files()
    for name in ("statuses", "videos"):  # any one alone, as in the UI; the videos' row would vanish
        result = deployment.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=deployment.instance,
            partition_key=day,
            asset_selection=[dg.AssetKey(["akool", name])],
            raise_on_error=False,
        )
        assert job_id in failure_of(result)
        assert "ledger restore" in failure_of(result)
    assert deployment.files() == before


def test_a_restored_ledger_counts_on_from_the_highest_revision_it_meets(landed: tuple[Deployment, str, str]) -> None:
    deployment, job_id, day = landed
    highest = deployment.metadata("results", day)["akool/revision"]
    with deployment.ledger() as ledger:
        revision = ledger.revision()
        assert revision >= highest
    other = Deployment(deployment.folder, deployment.emulator, deployment.instance)
    materialization = dg.AssetMaterialization(
        ["akool", "results"],
        partition=day,
        metadata={"akool/ledger": ledger.ledger_id, "akool/revision": revision + 50},
    )
    for name in ("results", "credits", "durations", "statuses"):
        deployment.instance.report_runless_asset_event(
            dg.AssetMaterialization(["akool", name], partition=day, metadata=materialization.metadata)
        )
    deployment.track(job_id, campaign="relabelled")
    other.tick()
    with deployment.ledger() as ledger:
        assert ledger.revision() >= revision + 50


@pytest.mark.parametrize("odd", [10**15, 2**80, -1])
def test_a_revision_in_the_event_log_that_no_ledger_counts_to_is_not_believed(
    landed: tuple[Deployment, str, str], odd: int
) -> None:
    deployment, _, day = landed
    with deployment.ledger() as ledger:
        revision = ledger.revision()
        for name in ("results", "credits", "durations", "statuses"):
            deployment.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    ["akool", name],
                    partition=day,
                    metadata={"akool/ledger": ledger.ledger_id, "akool/revision": odd},
                )
            )
        ledger.landings("akool").forget("tables", day)
        assert f"tables of {day}" in deployment.tick().message  # it counts as not landed
        assert ledger.revision() == revision
    assert deployment.land("akool_land_results", day).success
    assert f"tables of {day}" not in deployment.tick().message


def test_a_second_run_of_a_partition_fails_naming_the_one_that_holds_it(
    landed: tuple[Deployment, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, _, day = landed
    monkeypatch.setattr(leases, "WAIT_SECONDS", 0.0)
    with deployment.ledger() as ledger, ledger.leases("akool").hold("tables", day, "the-other-run"):
        assert "the-other-run" in failure_of(deployment.land("akool_land_results", day))
    assert deployment.land("akool_land_results", day).success


def test_a_run_that_failed_to_write_frees_its_lease_and_the_next_one_lands(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = object_id(int(time.time()) - DAY_SECONDS)
    day = time.strftime("%Y-%m-%d", time.gmtime(int(job_id[:8], 16)))
    deployment.emulator.add_job(emulated(job_id, video_duration=1.0))
    deployment.track(job_id)
    deployment.tick()
    deployment.root.write_text("a file where the folder should be")
    for job in ("akool_land_results", "akool_land_videos"):
        assert str(deployment.root) in failure_of(deployment.land(job, day))
        free_abandoned_generators(caplog)  # not in the middle of the next one's transaction, as below
    with deployment.ledger() as ledger:
        assert all(
            not facts.is_live(int(time.time() * 1000))
            for kind in ("tables", "videos")
            for facts in ledger.leases("akool").facts(kind).values()
        )
        assert ledger.counts("akool").videos == {"pending": 1}
    deployment.root.unlink()
    deployment.tick()
    assert deployment.land("akool_land_results", day).success
    assert deployment.land("akool_land_videos", day).success
    assert deployment.video(job_id).read_bytes() == deployment.emulator.video_bytes(job_id)


def test_a_failed_run_that_is_collected_in_the_middle_of_a_transaction_waits_for_nothing(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - DAY_SECONDS))
    deployment.track(object_id(int(time.time()) - DAY_SECONDS))
    long = 30.0
    deployment.rebuild(ledger=JobLedgerResource(url=deployment.ledger_url, busy_timeout=long))
    deployment.root.write_text("a file where the folder should be")
    gc.disable()
    try:
        for job in ("akool_land_results", "akool_land_videos"):
            assert str(deployment.root) in failure_of(deployment.land(job, day))
        database = Database(deployment.ledger_url)
        with database.write():
            free_abandoned_generators(caplog)
        database.close()
    finally:
        gc.enable()
    in_a_minute = FakeClock(int((time.time() + 61) * 1000))
    with JobLedger.open(deployment.ledger_url, clock=in_a_minute) as ledger:
        for kind in ("tables", "videos"):
            assert ledger.leases("akool").take(kind, day, "the next run") is None


def test_a_fuller_file_is_not_replaced_by_an_empty_partition(landed: tuple[Deployment, str, str]) -> None:
    deployment, _, day = landed
    file = deployment.root / "akool" / "results" / f"{day}.parquet"
    fuller = deployment.root / "akool" / "results" / "2026-01-01.parquet"
    shutil.copy(file, fuller)
    assert "jobs that this ledger does not know" in failure_of(deployment.land("akool_land_results", "2026-01-01"))
    assert pq.read_table(fuller).num_rows == 1


def test_a_storage_root_that_is_not_mounted_is_not_taken_for_an_empty_one(
    landed: tuple[Deployment, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    deployment, job_id, day = landed
    away = deployment.folder / "away"
    deployment.root.rename(away)
    deployment.root.mkdir()  # the bare mount point
    later = object_id(int(job_id[:8], 16), serial=9)
    deployment.emulator.add_job(emulated(later, video_duration=1.0))
    deployment.track(later)
    deployment.tick()
    for job in ("akool_land_results", "akool_land_videos"):
        assert "is the storage mounted" in failure_of(deployment.land(job, day))
    free_abandoned_generators(caplog)
    assert deployment.files() == {}
    deployment.root.rmdir()
    away.rename(deployment.root)
    assert deployment.land("akool_land_results", day).success
    assert deployment.land("akool_land_videos", day).success
    assert {row["_id"] for row in deployment.rows("results")} == {job_id, later}
    assert deployment.video(later).exists()


def test_a_job_that_settles_in_a_restored_ledger_is_landed_or_refused_aloud(
    landed: tuple[Deployment, str, str],
) -> None:
    deployment, job_id, day = landed
    backup = deployment.folder / "backup.sqlite"
    with deployment.ledger() as ledger:
        ledger.close()
        shutil.copy(deployment.folder / "ledger.sqlite", backup)
    for label in ("one", "two", "three"):  # what landed after the backup was taken
        deployment.track(job_id, campaign=label)
        assert deployment.land("akool_land_results", day).success
    for suffix in ("", "-wal", "-shm"):
        (deployment.folder / f"ledger.sqlite{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, deployment.folder / "ledger.sqlite")
    later = object_id(int(job_id[:8], 16), serial=9)
    deployment.emulator.add_job(emulated(later, video_duration=1.0))
    deployment.track(later)
    for _ in range(4):
        deployment.tick()
    assert deployment.land("akool_land_results", day).success
    assert {row["_id"] for row in deployment.rows("results")} == {job_id, later}
