"""A whole deployment whose storage root is on S3."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

import dagster as dg
import duckdb
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from akool_dagster.planning import decisions
from tests.deployment import Deployment, emulated, failure_of, free_abandoned_generators, object_id
from tests.object_store import SECRET_KEY, Exchange, ObjectStore, answer

pytest_plugins = ["tests.integration.object_stores"]

SECOND = int(time.time()) - 86_400
DAY = time.strftime("%Y-%m-%d", time.gmtime(SECOND))
JOB = object_id(SECOND)
TABLES = ("results", "credits", "durations", "statuses")
UNAVAILABLE = answer(503, "ServiceUnavailable", "Service is unable to handle request.")


@pytest.fixture
def remote(deployment: Deployment, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment with one job that has ended, tracked and not polled yet; no pause between two landings."""
    monkeypatch.setattr(decisions, "SHARE_OF_RUN", 0)
    deployment.rebuild(storage_root=object_store.url)
    deployment.emulator.add_job(emulated(JOB, video_duration=1.0))
    deployment.track(JOB)
    return deployment


def path_of(table: str) -> str:
    return f"akool/{table}/{DAY}.parquet"


def labels_in(store: ObjectStore) -> str:
    (label,) = pq.read_table(io.BytesIO(store.objects()[path_of("results")])).column("labels").to_pylist()
    return str(label)


def is_table(table: str) -> Callable[[Exchange], bool]:
    return lambda exchange: f"/{table}/" in exchange.path


def test_tables_and_videos_land_in_a_bucket_with_few_requests_and_notebooks_read_them(
    remote: Deployment, object_store: ObjectStore
) -> None:
    others = [object_id(SECOND, serial) for serial in range(1, 6)]
    for serial, other in enumerate(others):
        remote.emulator.add_job(emulated(other, video_duration=1.0 + serial))
    remote.track(*others)
    remote.settle()
    objects = object_store.objects()
    videos = {f"akool/videos/{DAY}/{job_id}.mp4" for job_id in (JOB, *others)}
    assert set(objects) == {"akool/ledger.json", path_of("videos"), *map(path_of, TABLES), *videos}
    for job_id in (JOB, *others):
        assert objects[f"akool/videos/{DAY}/{job_id}.mp4"] == remote.emulator.video_bytes(job_id)
    assert object_store.unfinished_uploads() == []

    expected = pq.read_table(io.BytesIO(objects[path_of("credits")]))
    frame = pd.read_parquet(f"{object_store.url}/akool/credits", dtype_backend="pyarrow")
    assert frame["_id"].tolist() == expected.column("_id").to_pylist() == sorted((JOB, *others))
    credits_table = pyarrow.dataset.dataset(f"{object_store.url}/akool/credits")
    with duckdb.connect() as connection:
        connection.register("credits", credits_table)
        query = "SELECT sum(deduction_credit) FROM credits"
        assert connection.execute(query).fetchall() == [(sum(expected.column("deduction_credit").to_pylist()),)]

    remote.track(JOB, campaign="spring")
    before = len(object_store.seen)
    assert remote.land("akool_land_results", DAY).success
    asked = [exchange.operation for exchange in object_store.seen[before:]]
    # Whose the root is; then for each table what is there, its content, the new table, and whether all of it arrived.
    assert asked == ["GetObject", *["HeadObject", "GetObject", "PutObject", "HeadObject"] * len(TABLES)]


def test_an_emptied_bucket_is_not_taken_for_a_new_one(
    remote: Deployment, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    remote.settle()
    remote.rebuild(storage_root=f"s3://{object_store.bucket}/another-folder")
    reason = failure_of(remote.land("akool_land_videos", DAY))
    assert "is missing, though this ledger has landed here before" in reason
    assert not [exchange for exchange in object_store.seen if "another-folder" in exchange.path and exchange.body]
    free_abandoned_generators(caplog)


def test_a_store_that_fails_during_a_landing_fails_the_run_and_the_next_one_goes_on(
    remote: Deployment, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    requests = remote.tick().requests
    assert {request.job_name for request in requests} == {"akool_land_results", "akool_land_videos"}
    object_store.break_("PutObject", UNAVAILABLE, when=is_table("durations"))
    object_store.break_("PutObject", UNAVAILABLE, when=lambda exchange: exchange.path.endswith(".mp4"))
    for request in requests:
        reason = failure_of(remote.run(request))
        assert f"Cannot write {object_store.url}/akool/" in reason
        assert "Service is unable to handle request" in reason
        assert SECRET_KEY not in reason
    assert path_of("durations") not in object_store.objects()
    with remote.ledger() as ledger:
        assert ledger.account("akool").counts().videos == {"pending": 1}
    object_store.mend()
    free_abandoned_generators(caplog)
    remote.settle()
    objects = object_store.objects()
    assert {path_of(table) for table in TABLES} <= set(objects)
    assert objects[f"akool/videos/{DAY}/{JOB}.mp4"] == remote.emulator.video_bytes(JOB)
    with remote.ledger() as ledger:
        assert ledger.account("akool").counts().videos == {"stored": 1}


def test_a_run_that_is_overtaken_merges_again_and_takes_no_newer_row_back(
    remote: Deployment, object_store: ObjectStore
) -> None:
    remote.settle()
    remote.track(JOB, campaign="older")
    newer: list[dg.ExecuteInProcessResult] = []

    def be_overtaken(exchange: Exchange) -> None:
        answered = exchange.forward()
        remote.track(JOB, campaign="newer")
        with closing(sqlite3.connect(remote.folder / "ledger.sqlite")) as connection, connection:
            connection.execute("UPDATE akool_leases SET expires_at = 0")  # as after a minute without renewal
        newer.append(remote.land("akool_land_results", DAY))
        exchange.send(*answered)

    object_store.break_("GetObject", be_overtaken, times=1, when=is_table("results"))
    assert "passed to another run while results was written" in failure_of(remote.land("akool_land_results", DAY))
    assert [result.success for result in newer] == [True]
    assert labels_in(object_store) == '{"campaign":"newer"}'
    assert remote.settle() == 0
