from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import av
import dagster as dg
import duckdb
import pandas as pd
import pytest

from akool_dagster import JobLedger, TrackRequest
from akool_dagster.emulator import AkoolEmulator
from akool_dagster.tables import TABLES
from tests.clock import FakeClock
from tests.deployment import QUIET, Deployment, emulated, failure_of, object_id

NOON = int(datetime(2026, 3, 14, 12, tzinfo=UTC).timestamp())
DAY = "2026-03-14"
DAY_SECONDS = 86_400


def days_ago(days: int, serial: int = 0) -> str:
    """Return an id whose day is this many days before today: its video's URL is still alive."""
    return object_id(int(time.time()) - days * DAY_SECONDS - 120, serial)


def day_of(job_id: str) -> str:
    return datetime.fromtimestamp(int(job_id[:8], 16), UTC).strftime("%Y-%m-%d")


# What has landed


@dataclass(frozen=True)
class Landed:
    """A deployment in which two days have landed, and an empty one: no test changes it."""

    deployment: Deployment
    good: list[str]
    """Jobs of one day; one more of that day failed, and one of another day, without a duration."""
    failed: str
    failed_alone: str
    runs: int


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landed]:
    good, failed, failed_alone = [days_ago(1, 1), days_ago(1, 2)], days_ago(1, 3), days_ago(2)
    with AkoolEmulator() as emulator, dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        deployment = Deployment(tmp_path_factory.mktemp("landed"), emulator, instance)
        deployment.add(*good, deduction_credit=30, video_duration=2.0)
        deployment.add(failed, outcome="failed", deduction_credit=20, video_duration=2.0)
        deployment.add(failed_alone, outcome="failed", extra_fields={"video_duration": None})
        deployment.track(*good, campaign="spring")
        runs = deployment.settle()
        for job, key in (("videos", day_of(failed_alone)), ("videos", DAY), ("results", DAY)):
            assert deployment.land(f"akool_land_{job}", key).success
        yield Landed(deployment, good, failed, failed_alone, runs)


def test_a_tracked_id_becomes_a_row_in_every_table_and_a_verified_file(landed: Landed) -> None:
    deployment, (job_id, _), day = landed.deployment, landed.good, day_of(landed.failed)
    assert deployment.table("results", day).column("_id").to_pylist() == sorted([*landed.good, landed.failed])
    spent = deployment.table("credits", day).to_pylist()[0]
    assert (spent["_id"], spent["deduction_credit"], spent["credits_per_second"]) == (job_id, 30.0, 15.0)
    assert spent["labels"] == '{"campaign":"spring"}'
    served = deployment.emulator.video_bytes(job_id)
    assert deployment.video(job_id).read_bytes() == served
    video = deployment.table("videos", day).to_pylist()[0]
    assert (video["video_state"], video["path"]) == ("stored", f"akool/videos/{day}/{job_id}.mp4")
    assert video["sha256"] == hashlib.sha256(served).hexdigest()
    with av.open(str(deployment.root / video["path"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == video["frames"]


def test_one_call_polls_all_and_when_everything_has_landed_no_run_is_asked_for(landed: Landed) -> None:
    assert len(landed.deployment.emulator.journal.calls("resultsByIds")) == 1
    assert landed.runs == 3  # both kinds of one day, and the tables of the day without videos
    result = landed.deployment.tick()
    assert not result.requests
    assert result.message == "0 ids polled; 0 jobs pending; nothing to land"


def test_schemas_are_identical_whatever_a_day_held(landed: Landed) -> None:
    for name, spec in TABLES.items():
        tables = [
            landed.deployment.table(name, key) for key in (DAY, day_of(landed.failed), day_of(landed.failed_alone))
        ]
        assert tables[0].num_rows == 0
        assert all(table.schema.equals(spec.schema) for table in tables), name


def test_a_materialisation_carries_small_numbers(landed: Landed) -> None:
    day = day_of(landed.failed)
    spent = landed.deployment.metadata("credits", day)
    assert spent["akool/rows"] == spent["dagster/partition_row_count"] == 3
    assert spent["akool/credits"] == 80.0
    videos = landed.deployment.metadata("videos", day)
    assert videos["akool/videos_stored"] == videos["akool/downloaded"] == 2
    assert videos["akool/bytes"] == sum(row["bytes"] for row in landed.deployment.rows("videos"))


def test_pandas_and_duckdb_read_the_same_tables(landed: Landed) -> None:
    folder = landed.deployment.root / "akool" / "credits"
    in_pandas = pd.read_parquet(folder, dtype_backend="pyarrow")
    query = f"SELECT count(*), sum(deduction_credit) FROM '{folder}/*.parquet'"  # noqa: S608
    total = in_pandas["deduction_credit"].sum()
    assert duckdb.execute(query).fetchone() == (len(in_pandas), total)
    assert (len(in_pandas), total > 80) == (4, True)
    assert str(in_pandas["create_time"].dtype) == "timestamp[ms, tz=UTC][pyarrow]"


# Ticks


def test_a_tick_says_what_it_polled_and_what_is_in_flight(deployment: Deployment) -> None:
    queueing, processing = days_ago(1, 1), days_ago(1, 2)
    deployment.add(queueing, queue_polls=99)
    deployment.add(processing, processing_polls=99)
    message = deployment.tick().message
    assert "2 ids polled in 1 call: none ended" in message
    assert "2 jobs pending (1 processing, 1 queueing)" in message


def test_a_tick_asks_for_what_it_has_just_seen_end(deployment: Deployment) -> None:
    job_id, later = days_ago(1), days_ago(2)
    deployment.add(job_id)
    requests = deployment.tick().requests
    assert {(request.job_name, request.partition_key) for request in requests} == {
        ("akool_land_results", day_of(job_id)),
        ("akool_land_videos", day_of(job_id)),
    }
    for request, kind in zip(requests, ("videos", "tables"), strict=True):
        assert (request.tags["akool/account"], request.tags["akool/landing"]) == ("akool", kind)
        assert int(request.tags["dagster/max_runtime"]) >= 3600
    deployment.add(later)
    asked = [(request.job_name, request.partition_key) for request in deployment.tick().requests]
    assert len(asked) == len(set(asked)) == 4  # what was not run is asked for again, once


def test_both_decisions_of_a_tick_ask_for_twenty_landings_together(deployment: Deployment) -> None:
    deployment.rebuild(videos=False, start_date=(datetime.now(UTC) - timedelta(days=50)).date())
    ids = [days_ago(day) for day in range(1, 31)]
    deployment.add(*ids[:15], outcome="failed")
    assert len(deployment.tick().requests) == 15
    deployment.add(*ids[15:], outcome="failed")
    asked = [request.partition_key for request in deployment.tick().requests]
    assert len(asked) == len(set(asked)) == 20


def test_another_granularity_fails_the_tick_naming_both(deployment: Deployment) -> None:
    deployment.track(days_ago(1))
    deployment.tick()
    deployment.rebuild(granularity="hourly")
    with pytest.raises(Exception, match=r"are daily.*say hourly"):
        deployment.tick()
    deployment.rebuild(granularity="daily")
    deployment.tick()


def test_a_table_that_is_switched_on_later_lands_its_past(deployment: Deployment) -> None:
    job_id = days_ago(1)
    deployment.add(job_id)
    clock = FakeClock(int(time.time() * 1000))
    deployment.rebuild(tables=["credits"], videos=False, clock=clock)
    assert deployment.settle() == 1
    clock.advance(3601)  # longer than any spacing
    deployment.rebuild(tables=["credits", "durations"])
    assert deployment.settle() == 1
    assert [row["_id"] for row in deployment.rows("durations")] == [job_id]


def test_runs_that_fail_by_themselves_are_asked_for_less_and_less_often(deployment: Deployment) -> None:
    deployment.rebuild(videos=False)
    deployment.add(object_id(NOON))
    (request,) = deployment.tick().requests
    (deployment.root / "akool").mkdir(parents=True)
    (deployment.root / "akool" / "ledger.json").write_text('{"ledger": "another"}')
    for _ in range(2):
        assert "belongs to ledger another" in failure_of(deployment.run(request))
    assert "after 2 failed runs" in deployment.tick().message


def test_a_job_tracked_under_a_clock_that_went_ahead_is_shown_and_its_video_is_stored(deployment: Deployment) -> None:
    job_id = object_id(int(time.time()) + 50 * DAY_SECONDS)  # from later still: the moment it is tracked at decides
    deployment.emulator.add_job(emulated(job_id))
    ahead = FakeClock(int((time.time() + 40 * DAY_SECONDS) * 1000))
    with JobLedger.create(deployment.ledger_url, clock=ahead) as ledger:
        ledger.account("akool").track([TrackRequest(job_id=job_id)])
    deployment.settle()
    assert "1 in partitions to come" in deployment.tick().message
    assert deployment.video(job_id).read_bytes() == deployment.emulator.video_bytes(job_id)
    with deployment.account() as account:
        assert [job.video_state for job in account.jobs()] == ["stored"]


def test_a_far_away_storage_of_dagster_leaves_half_of_a_tick_for_the_poll(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(int(time.time() * 1000))
    monkeypatch.setattr(deployment.instance, "get_run_records", taking(5, clock, deployment.instance.get_run_records))
    deployment.rebuild(clock=clock, tick_seconds=45)
    ids = [days_ago(day) for day in range(1, 7)]
    deployment.add(*ids[:5])
    deployment.tick()
    deployment.add(ids[5])
    begun = clock.monotonic()
    assert len(deployment.tick().requests) == 12
    assert clock.monotonic() - begun < 45
    with deployment.account() as account:
        assert account.counts().states == {"completed": 6}  # there was time to poll the last one


def taking(seconds: float, clock: FakeClock, question: Callable[..., Any]) -> Callable[..., Any]:
    """Return a question to Dagster's storage that takes so long."""

    def asked(*args: Any, **options: Any) -> Any:
        clock.advance(seconds)
        return question(*args, **options)

    return asked


def test_the_observation_of_the_jobs_carries_the_counts_once_per_change(deployment: Deployment) -> None:
    job_id = days_ago(1)
    deployment.add(job_id, processing_polls=99)
    deployment.tick()
    deployment.tick()
    observations = deployment.instance.fetch_observations(dg.AssetKey(["akool", "jobs"]), limit=10).records
    assert len(observations) == 1
    observation = observations[0].asset_observation
    assert observation is not None
    values = {name: value.value for name, value in observation.metadata.items()}
    assert values["akool/jobs_pending"] == values["akool/pending_processing"] == 1
    assert values["akool/overdue"] == values["akool/in_no_partition"] == values["akool/jobs_missing"] == 0


def test_videos_that_nobody_downloads_are_not_waited_for(deployment: Deployment) -> None:
    deployment.rebuild(videos=False)
    job_id = days_ago(1)
    deployment.add(job_id)
    deployment.tick()
    assert "to download" not in deployment.tick().message
    records = deployment.instance.fetch_observations(dg.AssetKey(["akool", "jobs"]), limit=1).records
    assert records[0].asset_observation is not None
    assert records[0].asset_observation.metadata["akool/videos_pending"].value == 0


def test_a_deployment_without_a_ledger_skips_its_ticks_and_fails_its_runs(deployment: Deployment) -> None:
    assert "akool-dagster track" in deployment.tick().message
    assert "akool-dagster track" in failure_of(deployment.land("akool_land_results", DAY))
    assert not (deployment.folder / "ledger.sqlite").exists()
    assert not deployment.root.exists()


@pytest.mark.parametrize("api_key", ["wrong", None])
def test_a_tick_without_a_working_key_fails_with_the_variable_to_fix(
    deployment: Deployment, api_key: str | None
) -> None:
    job_id = days_ago(1)
    deployment.add(job_id)
    deployment.api_key = api_key
    deployment.rebuild()
    with pytest.raises(Exception, match="AKOOL_API_KEY"):
        deployment.tick()
    with deployment.account() as account:
        counts = account.counts()
        assert (counts.pending, counts.due) == (1, 1)


def test_a_wrong_key_does_not_hold_up_what_can_land(deployment: Deployment) -> None:
    job_id, waiting = days_ago(1, 1), days_ago(1, 2)
    deployment.add(job_id)
    deployment.tick()
    deployment.api_key = "wrong"
    deployment.rebuild()
    deployment.track(waiting)
    requests = deployment.tick().requests
    assert {request.job_name for request in requests} == {"akool_land_results", "akool_land_videos"}
    assert all(deployment.run(request).success for request in requests)
    assert deployment.video(job_id).exists()
    with pytest.raises(Exception, match="AKOOL_API_KEY"):
        deployment.tick()


def test_two_accounts_live_in_one_deployment(deployment: Deployment) -> None:
    shared = days_ago(1)
    other = Deployment(deployment.folder, deployment.emulator, deployment.instance, prefix="brand")
    both = dg.Definitions.merge(deployment.defs, other.defs)
    dg.Definitions.validate_loadable(both)
    assert {sensor.name for sensor in both.sensors or ()} == {"akool_poll_results", "brand_poll_results"}
    other.add(shared)
    other.settle()
    assert [row["_id"] for row in other.rows("results")] == [shared]
    assert other.video(shared).exists()
    assert not (deployment.root / "akool").exists()
    deployment.rebuild(videos=False)
    deployment.track(shared)
    deployment.settle()
    assert [row["_id"] for row in deployment.rows("results")] == [shared]


def test_a_job_from_before_the_partitions_is_polled_saved_and_counted_but_in_no_table(
    deployment: Deployment,
) -> None:
    early, inside = days_ago(3), days_ago(1)
    deployment.rebuild(start_date=(datetime.now(UTC) - timedelta(days=2)).date())
    deployment.add(early, inside)
    deployment.settle()
    assert deployment.video(early).read_bytes() == deployment.emulator.video_bytes(early)
    assert [row["_id"] for row in deployment.rows("results")] == [inside]
    assert "1 in no partition" in deployment.tick().message


def test_one_table_alone_can_be_materialised(deployment: Deployment) -> None:
    job_id = days_ago(1)
    deployment.add(job_id)
    deployment.tick()
    key = dg.AssetKey(["akool", "credits"])
    # As the UI does it: in a run of Dagster's own job.
    result = deployment.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=deployment.instance, partition_key=day_of(job_id), asset_selection=[key]
    )
    assert result.success
    assert [event.asset_key for event in result.get_asset_materialization_events()] == [key]
    assert {request.job_name for request in deployment.tick().requests} == {
        "akool_land_results",  # the other tables of the day are still missing
        "akool_land_videos",
    }
