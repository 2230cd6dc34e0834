from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import av
import dagster as dg
import duckdb
import pandas as pd
import pytest

from akool_dagster import JobLedger, TrackRequest
from akool_dagster.tables import TABLES
from tests.clock import FakeClock
from tests.deployment import Deployment, emulated, failure_of, object_id

NOON = int(datetime(2026, 3, 14, 12, tzinfo=UTC).timestamp())
DAY = "2026-03-14"
DAY_SECONDS = 86_400


def days_ago(days: int, serial: int = 0) -> str:
    """Return an id whose day is this many days before today: its video's URL is still alive."""
    return object_id(int(time.time()) - days * DAY_SECONDS - 120, serial)


def day_of(job_id: str) -> str:
    return datetime.fromtimestamp(int(job_id[:8], 16), UTC).strftime("%Y-%m-%d")


def test_a_tracked_id_becomes_a_row_in_every_table_and_a_verified_file(deployment: Deployment) -> None:
    job_id = days_ago(1)
    deployment.emulator.add_job(emulated(job_id, deduction_credit=30, video_duration=2.0))
    deployment.track(job_id, campaign="spring")
    deployment.settle()
    day = day_of(job_id)
    for name, spec in TABLES.items():
        table = deployment.table(name, day)
        assert table.schema.equals(spec.schema, check_metadata=False)
        assert table.column("_id").to_pylist() == [job_id]
    (spent,) = deployment.rows("credits")
    assert (spent["deduction_credit"], spent["credits_per_second"]) == (30.0, 15.0)
    assert spent["labels"] == '{"campaign":"spring"}'
    served = deployment.emulator.video_bytes(job_id)
    assert deployment.video(job_id).read_bytes() == served
    (video,) = deployment.rows("videos")
    assert video["video_state"] == "stored"
    assert video["path"] == f"akool/videos/{day}/{job_id}.mp4"
    assert video["sha256"] == hashlib.sha256(served).hexdigest()
    with av.open(str(deployment.root / video["path"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == video["frames"]


def test_when_everything_has_landed_no_run_is_asked_for(deployment: Deployment) -> None:
    job_id = days_ago(1)
    deployment.emulator.add_job(emulated(job_id))
    deployment.track(job_id)
    assert deployment.settle() == 2
    result = deployment.tick()
    assert not result.requests
    assert "nothing to land" in result.message


def test_one_call_polls_many_ids_of_many_days(deployment: Deployment) -> None:
    ids = [days_ago(day, serial) for day in range(4) for serial in range(5)]
    for job_id in ids:
        deployment.emulator.add_job(emulated(job_id, video_duration=1.0))
    deployment.track(*ids)
    deployment.settle()
    assert len(deployment.emulator.journal.calls("resultsByIds")) == 1
    assert sorted(row["_id"] for row in deployment.rows("results")) == sorted(ids)


def test_a_tick_says_what_it_polled_and_what_is_in_flight(deployment: Deployment) -> None:
    queueing, processing = days_ago(1, 1), days_ago(1, 2)
    deployment.emulator.add_job(emulated(queueing, queue_polls=99))
    deployment.emulator.add_job(emulated(processing, processing_polls=99))
    deployment.track(queueing, processing)
    message = deployment.tick().message
    assert "2 ids polled in 1 call: none ended" in message
    assert "2 jobs pending (1 processing, 1 queueing)" in message


def test_a_tick_asks_for_what_it_has_just_seen_end(deployment: Deployment) -> None:
    job_id, later = days_ago(1), days_ago(2)
    for one in (job_id, later):
        deployment.emulator.add_job(emulated(one))
    deployment.track(job_id)
    requests = deployment.tick().requests
    assert {(request.job_name, request.partition_key) for request in requests} == {
        ("akool_land_results", day_of(job_id)),
        ("akool_land_videos", day_of(job_id)),
    }
    for request, kind in zip(requests, ("videos", "tables"), strict=True):
        assert (request.tags["akool/account"], request.tags["akool/landing"]) == ("akool", kind)
        assert int(request.tags["dagster/max_runtime"]) >= 3600
    deployment.track(later)
    asked = [(request.job_name, request.partition_key) for request in deployment.tick().requests]
    assert len(asked) == len(set(asked)) == 4  # what was not run is asked for again, once


def test_both_decisions_of_a_tick_ask_for_twenty_landings_together(deployment: Deployment) -> None:
    deployment.rebuild(videos=False, start_date=(datetime.now(UTC) - timedelta(days=50)).date())
    ids = [days_ago(day) for day in range(1, 31)]
    for job_id in ids:
        deployment.emulator.add_job(emulated(job_id, outcome="failed"))
    deployment.track(*ids[:15])
    assert len(deployment.tick().requests) == 15
    deployment.track(*ids[15:])
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
    deployment.emulator.add_job(emulated(job_id))
    deployment.track(job_id)
    clock = FakeClock(int(time.time() * 1000))
    deployment.rebuild(tables=["credits"], videos=False, clock=clock)
    assert deployment.settle() == 1
    clock.advance(3601)  # longer than any spacing
    deployment.rebuild(tables=["credits", "durations"])
    assert deployment.settle() == 1
    assert [row["_id"] for row in deployment.rows("durations")] == [job_id]


def test_runs_that_fail_by_themselves_are_asked_for_less_and_less_often(deployment: Deployment) -> None:
    deployment.rebuild(videos=False)
    deployment.emulator.add_job(emulated(object_id(NOON)))
    deployment.track(object_id(NOON))
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
    for job_id in ids:
        deployment.emulator.add_job(emulated(job_id))
    deployment.track(*ids[:5])
    deployment.tick()
    deployment.track(ids[5])
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


def test_a_materialisation_carries_small_numbers(deployment: Deployment) -> None:
    ids = [days_ago(1, serial) for serial in range(3)]
    for index, job_id in enumerate(ids):
        outcome = "failed" if index == 2 else "completed"
        deployment.emulator.add_job(emulated(job_id, outcome=outcome, deduction_credit=20, video_duration=1.0))
    deployment.track(*ids)
    deployment.settle()
    day = day_of(ids[0])
    landed = deployment.metadata("credits", day)
    assert landed["akool/rows"] == landed["dagster/partition_row_count"] == 3
    assert landed["akool/credits"] == 60.0
    videos = deployment.metadata("videos", day)
    assert videos["akool/videos_stored"] == videos["akool/downloaded"] == 2
    assert videos["akool/bytes"] == sum(row["bytes"] or 0 for row in deployment.rows("videos"))


def test_the_observation_of_the_jobs_carries_the_counts_once_per_change(deployment: Deployment) -> None:
    job_id = days_ago(1)
    deployment.emulator.add_job(emulated(job_id, processing_polls=99))
    deployment.track(job_id)
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
    deployment.emulator.add_job(emulated(job_id))
    deployment.track(job_id)
    deployment.settle()
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
    deployment.emulator.add_job(emulated(job_id))
    deployment.track(job_id)
    deployment.api_key = api_key
    deployment.rebuild()
    with pytest.raises(Exception, match="AKOOL_API_KEY"):
        deployment.tick()
    with deployment.account() as account:
        counts = account.counts()
        assert (counts.pending, counts.due) == (1, 1)


def test_a_wrong_key_does_not_hold_up_what_can_land(deployment: Deployment) -> None:
    job_id, waiting = days_ago(1, 1), days_ago(1, 2)
    deployment.emulator.add_job(emulated(job_id))
    deployment.track(job_id)
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
    deployment.emulator.add_job(emulated(shared))
    other = Deployment(deployment.folder, deployment.emulator, deployment.instance, prefix="brand")
    both = dg.Definitions.merge(deployment.defs, other.defs)
    dg.Definitions.validate_loadable(both)
    assert {sensor.name for sensor in both.sensors or ()} == {"akool_poll_results", "brand_poll_results"}
    other.track(shared)
    other.settle()
    assert [row["_id"] for row in other.rows("results")] == [shared]
    assert other.video(shared).exists()
    assert not (deployment.root / "akool").exists()
    deployment.track(shared)
    deployment.settle()
    assert [row["_id"] for row in deployment.rows("results")] == [shared]


def test_a_job_from_before_the_partitions_is_polled_saved_and_counted_but_in_no_table(
    deployment: Deployment,
) -> None:
    early, inside = days_ago(3), days_ago(1)
    for job_id in (early, inside):
        deployment.emulator.add_job(emulated(job_id))
    deployment.rebuild(start_date=datetime.now(UTC).date().fromordinal(datetime.now(UTC).toordinal() - 2))
    deployment.track(early, inside)
    deployment.settle()
    assert deployment.video(early).read_bytes() == deployment.emulator.video_bytes(early)
    assert [row["_id"] for row in deployment.rows("results")] == [inside]
    assert "1 in no partition" in deployment.tick().message


def test_a_partition_without_jobs_lands_empty_tables_with_the_full_schema(deployment: Deployment) -> None:
    deployment.track(days_ago(0))
    assert deployment.land("akool_land_results", DAY).success
    assert deployment.land("akool_land_videos", DAY).success
    for name, spec in TABLES.items():
        table = deployment.table(name, DAY)
        assert (table.num_rows, table.schema.names) == (0, spec.schema.names)
        assert table.schema.equals(spec.schema)


def test_schemas_are_identical_whatever_a_day_held(deployment: Deployment) -> None:
    full, failed_only = days_ago(1), days_ago(2)
    deployment.emulator.add_job(emulated(full))
    deployment.emulator.add_job(emulated(failed_only, outcome="failed", extra_fields={"video_duration": None}))
    deployment.track(full, failed_only)
    deployment.settle()
    assert deployment.land("akool_land_videos", day_of(failed_only)).success
    for name in TABLES:
        schemas = [deployment.table(name, day_of(job_id)).schema for job_id in (full, failed_only)]
        assert schemas[0].equals(schemas[1]), name


def test_one_table_alone_can_be_materialised(deployment: Deployment) -> None:
    job_id = days_ago(1)
    deployment.emulator.add_job(emulated(job_id))
    deployment.track(job_id)
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


def test_pandas_and_duckdb_read_the_same_tables(deployment: Deployment) -> None:
    ids = [days_ago(day, serial) for day in (1, 2) for serial in range(3)]
    for job_id in ids:
        deployment.emulator.add_job(emulated(job_id, deduction_credit=25, video_duration=1.0))
    deployment.track(*ids)
    deployment.settle()
    folder = deployment.root / "akool" / "credits"
    in_pandas = pd.read_parquet(folder, dtype_backend="pyarrow")
    query = f"SELECT count(*), sum(deduction_credit) FROM '{folder}/*.parquet'"  # noqa: S608
    assert duckdb.execute(query).fetchone() == (6, 150.0)
    assert (len(in_pandas), in_pandas["deduction_credit"].sum()) == (6, 150.0)
    assert str(in_pandas["create_time"].dtype) == "timestamp[ms, tz=UTC][pyarrow]"
