"""Conformance: what asks for a landing, what has landed, and the rows that land."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from akool_dagster.ledger import (
    AccountLedger,
    GranularityError,
    JobLedger,
    LeaseLostError,
    Missed,
    Unanswered,
    Unreadable,
    VideoState,
)
from akool_dagster.ledger.records import DirtyPartition
from tests.clock import FakeClock
from tests.integration.ledger.helpers import (
    DAY,
    HOUR,
    NOW,
    SQLITE_ONLY,
    TABLES,
    THIS_HOUR,
    TODAY,
    abandon,
    answered,
    complete,
    dirty,
    dirty_hours,
    fail,
    go_missing,
    job_of,
    land,
    object_id,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]

Change = Callable[[AccountLedger, FakeClock], object]
TABLES_AND_VIDEOS, TABLES_ALONE, VIDEOS_ALONE, VERSION_ALONE, NOTHING = "both", "tables", "videos", "version", "nothing"

CHANGES: dict[str, tuple[Change, str]] = {
    "completed": (lambda account, _: record(account, answered("a", 3)), TABLES_AND_VIDEOS),
    "forgotten": (lambda account, _: account.pruning.forget(["a", "unknown"]), TABLES_AND_VIDEOS),
    "failed": (lambda account, _: record(account, answered("a", 4)), TABLES_ALONE),
    "missing": (lambda account, clock: go_missing(account, clock, "a", code=1008), TABLES_ALONE),
    "abandoned": (lambda account, clock: abandon(account, clock, "a"), TABLES_ALONE),
    "relabelled": (lambda account, _: track(account, "a", labels={"k": "v"}), TABLES_ALONE),
    "reopened": (lambda account, _: track(account, "missing", again=True), TABLES_ALONE),
    "a relabelled end": (lambda account, _: track(account, "done", labels={"k": "v"}), TABLES_ALONE),
    "a stored video": (lambda account, _: account.videos.store("done", {}), VIDEOS_ALONE),
    "a lost video": (lambda account, _: fail(account, "done"), VIDEOS_ALONE),
    "an unverified video": (lambda account, _: fail(account, "done", VideoState.UNVERIFIED), VIDEOS_ALONE),
    "a video tried once more": (lambda account, _: track(account, "lost", again=True), VIDEOS_ALONE),
    "tracked": (lambda account, _: track(account, "new"), VERSION_ALONE),
    "processing": (lambda account, _: record(account, answered("a", 2)), VERSION_ALONE),
    "an unknown status": (lambda account, _: record(account, answered("a", 42)), VERSION_ALONE),
    "a failed attempt": (lambda account, _: fail(account, "done", VideoState.PENDING, next_at=NOW), VERSION_ALONE),
    "a new URL": (lambda account, _: account.videos.keep_url("done", "https://cdn.example/2.mp4", NOW), VERSION_ALONE),
    "the same status again": (lambda account, _: record(account, answered("a", 1, payload='{"n":2}')), NOTHING),
    "a miss": (lambda account, _: record(account, Missed(job_id="a", code=1003)), NOTHING),
    "an unreadable row": (lambda account, _: record(account, Unreadable(job_id="a", error="odd")), NOTHING),
    "no answer": (lambda account, _: record(account, Unanswered(job_id="a", error="HTTP 500")), NOTHING),
    "a claim": (lambda account, _: account.polling.claim(10), NOTHING),
    "a release": (lambda account, _: account.polling.release({"a": 0}), NOTHING),
    "a call size": (lambda account, _: account.polling.set_call_size(["a"], 1), NOTHING),
    "tracked again": (lambda account, _: track(account, "a", again=True), NOTHING),
    "an empty look for files": (lambda account, _: account.videos.reopen(["lost", "a"]), NOTHING),
    "a lease": (lambda account, _: account.leases.take("tables", "2025-10-09", "run"), NOTHING),
}


@pytest.mark.parametrize(("change", "asks"), CHANGES.values(), ids=CHANGES.keys())
@SQLITE_ONLY
def test_each_change_asks_for_the_landings_that_show_it(
    ledger: JobLedger, account: AccountLedger, clock: FakeClock, change: Change, asks: str
) -> None:
    track(account, "missing")
    go_missing(account, clock, "missing", code=1008)
    complete(account, "done", "lost")
    account.videos.keep_url("done", "https://cdn.example/1.mp4", NOW)
    fail(account, "lost")
    track(account, "a")
    record(account, answered("a", 1))
    for hour in dirty_hours(account):
        land(account, f"{hour}", hour, hour + HOUR)
    assert dirty_hours(account) == {}
    before = ledger.version()
    change(account, clock)
    version = ledger.version()
    assert (version > before) is (asks != NOTHING)
    assert {job.version for job in account.jobs() if job.version > before} == ({version} - {before})
    tables, videos = asks in (TABLES_AND_VIDEOS, TABLES_ALONE), asks in (TABLES_AND_VIDEOS, VIDEOS_ALONE)
    assert list(dirty_hours(account).values()) == ([(version * tables, version * videos)] if tables or videos else [])


def test_a_version_is_above_the_one_before_and_the_clock_in_microseconds(
    ledger: JobLedger, account: AccountLedger, clock: FakeClock
) -> None:
    versions = []
    for number, seconds in enumerate((0, 5, -3600, 0, 7200)):
        clock.jump(seconds)
        track(account, f"{number}")
        versions.append(ledger.version())
        assert versions[-1] > clock.now_ms() * 1000
    assert versions == sorted(set(versions))
    assert [job.version for job in account.jobs()] == versions


def test_a_partition_is_dirty_until_every_enabled_asset_has_landed_its_highest_version(
    account: AccountLedger,
) -> None:
    early, late = object_id(TODAY), object_id(TODAY + 3 * HOUR)
    track(account, early, late)
    record(account, answered(late, 4))
    record(account, answered(early, 3))
    version = job_of(account, early).version
    assert dirty_hours(account).keys() == {TODAY, TODAY + 3 * HOUR}
    assert dirty(account) == [DirtyPartition(partition_at=TODAY, tables_version=version, videos_version=version)]
    with account.leases.acquire("tables", "k", "run"):
        for asset in TABLES:
            account.landings.record_landed("tables", "k", "run", TODAY, asset, version - (asset == "credits"))
    assert dirty(account)[0].tables_version == version
    land(account, "k", TODAY, TODAY + DAY)
    assert dirty(account) == []
    record(account, answered(early, 4))
    account.videos.store(early, {})
    newest = job_of(account, early).version
    assert dirty(account) == [DirtyPartition(partition_at=TODAY, videos_version=newest)]
    assert account.landings.landed(TODAY) == {(TODAY, asset): version for asset in (*TABLES, "videos")}
    assert account.landings.landed(TODAY + 1) == {}


def test_what_is_not_enabled_is_never_dirty_and_lands_its_past_when_it_is(account: AccountLedger) -> None:
    complete(account, object_id(TODAY))
    version = next(account.jobs()).version
    account.leases.take("tables", "k", "run")
    account.landings.record_landed("tables", "k", "run", TODAY, "results", version)
    landings = account.landings
    assert landings.dirty(DAY, ["results"], videos=False) == []
    assert landings.dirty(DAY, [], videos=False) == []
    assert landings.dirty(DAY, [], videos=True) == [DirtyPartition(partition_at=TODAY, videos_version=version)]
    assert landings.dirty(DAY, ["results", "credits"], videos=False) == [
        DirtyPartition(partition_at=TODAY, tables_version=version)
    ]


@pytest.mark.parametrize("how", ["never taken", "another's", "run out", "released", "adopted"])
def test_a_landing_whose_lease_is_lost_is_not_recorded(account: AccountLedger, clock: FakeClock, how: str) -> None:
    complete(account, object_id(TODAY))
    if how != "never taken":
        account.leases.take("tables", "k", "another" if how == "another's" else "run")
    if how == "run out":
        clock.advance(60)
    if how == "released":
        account.leases.release("tables", "k", "run")
    if how == "adopted":
        account.adoption.land_everything_again()
    with pytest.raises(LeaseLostError, match="tables of k"):
        account.landings.record_landed("tables", "k", "run", TODAY, "results", 5)
    account.leases.take("videos", "k", "run")
    with pytest.raises(LeaseLostError):
        account.landings.record_landed("tables", "k", "run", TODAY, "results", 5)
    assert account.landings.landed(0) == {}


def test_a_snapshot_has_the_rows_of_its_stretch_by_bytes_in_bounded_batches(account: AccountLedger) -> None:
    ids = ["-", "0", "9", "A", "Z", "_", "a", "aZ", "a_", "aa", "z"]
    track(account, *ids)
    earlier = object_id(THIS_HOUR - HOUR)
    complete(account, earlier, "a_")
    with account.landings.snapshot(THIS_HOUR, THIS_HOUR + HOUR) as shot:
        batches = [list(batch) for batch in shot.batches(["job_id", "state", "partition_at"], 4)]
        assert [len(batch) for batch in batches] == [4, 4, 3]
        assert [row.state for batch in batches for row in batch if row[0] == "a_"] == ["completed"]
        assert [row[0] for batch in batches for row in batch] == ids
        assert [row[0] for batch in shot.batches(["job_id"], 100) for row in batch] == ids
        version = job_of(account, "a_").version
        assert (shot.tables_version, shot.videos_version) == (version, version)
    with account.landings.snapshot(NOW + HOUR, NOW + DAY) as shot:
        assert (list(shot.batches(["job_id"], 5)), shot.tables_version, shot.videos_version) == ([], 0, 0)


def test_rows_and_versions_stay_those_of_the_beginning_while_others_write(
    account: AccountLedger, ledger_url: str, clock: FakeClock
) -> None:
    ids = [f"{number:03}" for number in range(300)]
    track(account, *ids)
    record(account, *(answered(job_id, 4) for job_id in ids[:100]))
    version = job_of(account, ids[0]).version
    with (
        JobLedger.open(ledger_url, clock=clock) as other,
        account.landings.snapshot(THIS_HOUR, THIS_HOUR + HOUR) as shot,
    ):
        seen: list[Any] = []
        for number, batch in enumerate(shot.batches(["job_id", "state", "version"], 10)):
            writer = other.account("akool")
            track(writer, f"{number:03}new")
            record(writer, answered(ids[-1 - number], 4))
            seen += batch
        assert (shot.tables_version, shot.videos_version) == (version, 0)
    assert [row[0] for row in seen] == ids
    assert [row[1] for row in seen] == ["failed"] * 100 + ["pending"] * 200
    assert max(row[2] for row in seen) == version


def test_the_granularity_is_settled_once(ledger: JobLedger, account: AccountLedger) -> None:
    landings = account.landings
    assert landings.granularity() is None
    for _ in range(2):
        landings.settle_granularity("daily")
    with pytest.raises(GranularityError, match=r"are daily.*say hourly.*Set granularity='daily' again"):
        landings.settle_granularity("hourly")
    assert landings.granularity() == "daily"
    ledger.account("other").landings.settle_granularity("hourly")


def test_what_is_written_down_of_an_account_stays(ledger: JobLedger, account: AccountLedger) -> None:
    landings = account.landings
    assert (landings.enabled_assets(), landings.root_is_marked()) == ([], False)
    landings.set_enabled_assets(["results", "videos"])
    landings.note_marked_root()
    assert (landings.enabled_assets(), landings.root_is_marked()) == (["results", "videos"], True)
    landings.set_enabled_assets([])
    assert (landings.enabled_assets(), landings.root_is_marked()) == ([], True)
    assert ledger.accounts() == ["akool"]


def test_the_slowest_start_is_that_of_the_last_day_that_had_one(account: AccountLedger, clock: FakeClock) -> None:
    landings = account.landings
    assert landings.slowest_start_ms() == 0
    for taken, slowest in ((50, 50), (9_000, 9_000), (70, 9_000)):
        landings.note_start(taken)
        assert landings.slowest_start_ms() == slowest
    clock.advance(DAY / 1000)
    assert landings.slowest_start_ms() == 9_000
    landings.note_start(40)
    assert landings.slowest_start_ms() == 40
    clock.advance(2 * DAY / 1000)
    assert landings.slowest_start_ms() == 0
