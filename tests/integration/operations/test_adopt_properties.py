"""Whatever a ledger has lost, and whatever it knows instead: after `adopt`, nothing that the tables know is missing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from akool_dagster import JobLedger
from akool_dagster.base.job_ids import normalise_id
from akool_dagster.ledger import AccountLedger, Missed, VideoState
from akool_dagster.ledger.records import FINAL_STATES, VideoFailure
from akool_dagster.operations.partitions import window_of
from akool_dagster.storage import StorageRoot
from tests.clock import FakeClock
from tests.integration.ledger.helpers import object_id
from tests.integration.operations.helpers import (
    ALL,
    DAY,
    NOW,
    Row,
    adopted,
    answered,
    jobs_of,
    land,
    read_rows,
    record,
    track,
)
from tests.thoroughness import thorough

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
times = st.integers(NOW - 3 * DAY, NOW + DAY)
sent_fields = st.fixed_dictionaries(
    {"create_time": times, "update_time": times},
    optional={
        "video_duration": st.floats(0, 100) | st.just("odd"),
        "deduction_credit": st.floats(0, 1e9),
        "prompt": texts,
        "a_new_field": st.none() | st.lists(st.integers(-(2**70), 2**70) | texts, max_size=2),
        "error_reason": texts,
    },
)
ids = st.one_of(
    st.builds(object_id, st.integers((NOW - 2 * DAY) // 1000, NOW // 1000).map(lambda s: s * 1000), st.integers(0, 99)),
    st.builds(object_id, st.just(NOW + 900 * DAY), st.integers(0, 9)),  # from the future
    st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True),
)


@dataclass(frozen=True, kw_only=True)
class Life:
    """What becomes of one job, and how much of it the other ledger knows."""

    job_id: str
    labels: dict[str, str]
    seen: Sequence[int]
    """Statuses that polls see before the last."""
    end: str
    video: str
    sent: dict[str, Any] = field(default_factory=dict)
    known: str = "nothing"
    """What the ledger that adopts knows: nothing, the start, the end, or that it was tracked a day later."""


lives = st.builds(
    Life,
    job_id=ids.map(normalise_id),
    labels=st.dictionaries(st.sampled_from(["campaign", "centre", "ä"]), texts, max_size=2),
    seen=st.lists(st.sampled_from([1, 2, 42]), max_size=2),
    end=st.sampled_from(["pending", "completed", "completed", "urlless", "failed", "missing"]),
    video=st.sampled_from(["pending", "stored", "unverified", "lost"]),
    sent=sent_fields,
    known=st.sampled_from(["nothing", "start", "end", "later"]),
)


SPANS_WITHOUT_TIMES = Life(
    job_id=object_id(NOW + 900 * DAY), labels={}, seen=[2], end="completed", video="stored", known="end"
)
"""Its rows have spans, and no time to count them from: none must be made up."""


def live(account: AccountLedger, clock: FakeClock, life: Life, *, to_end: bool = True) -> None:
    """Track the job and let it come to its end, a few seconds a step."""
    track(account, life.job_id, **life.labels)
    for status in life.seen:
        clock.advance(7.321)
        record(account, answered(life.job_id, status, clock.now_ms(), **life.sent))
    if not to_end:
        return
    clock.advance(7.321)
    match life.end:
        case "completed":
            record(account, answered(life.job_id, 3, clock.now_ms(), **life.sent))
            live_on_as_a_video(account, life)
        case "urlless":
            for _ in range(6):
                record(account, answered(life.job_id, 3, clock.now_ms(), **(life.sent | {"video_url": None})))
        case "failed":
            record(account, answered(life.job_id, 4, clock.now_ms(), **life.sent))
        case "missing":
            for _ in range(5):
                clock.advance(30_000)
                record(account, Missed(job_id=life.job_id))


def live_on_as_a_video(account: AccountLedger, life: Life) -> None:
    match life.video:
        case "stored":
            record = {"path": f"{account.name}/videos/d/{life.job_id}.mp4", "bytes": 7, "frames": 3}
            account.videos.store(life.job_id, record)
        case "pending":
            account.videos.fail(VideoFailure(job_id=life.job_id, error="cut short", next_at=NOW))
        case state:
            account.videos.fail(VideoFailure(job_id=life.job_id, error="gone", state=VideoState(state)))


class Deployments:
    """A ledger that landed tables, and another one that takes its place. Every example is an account of its own."""

    def __init__(self, new_ledger: Callable[[], JobLedger], root: StorageRoot, clock: FakeClock) -> None:
        self.first, self.second = new_ledger(), new_ledger()
        self.root = root
        self.clock = clock
        self.account = ""

    def begin(self, many: Sequence[Life], granularity: str, tables: Collection[str]) -> AccountLedger:
        """Let the first ledger live and land; return the account of the second, which knows a part of it."""
        self.clock.jump((NOW - self.clock.now_ms()) / 1000)
        self.account = "a" + uuid.uuid4().hex
        first, second = (ledger.account(self.account) for ledger in (self.first, self.second))
        first.landings.settle_granularity(granularity)
        for life in many:
            live(first, self.clock, life)
            if life.known in ("start", "end"):
                live(second, self.clock, life, to_end=life.known == "end")
        land(first, self.root, tables)
        self.clock.advance(DAY / 1000)
        for life in many:
            if life.known == "later":
                track(second, life.job_id)
        return second

    def rows(self) -> dict[str, dict[str, Row]]:
        """Return the rows of every table, by table and id."""
        return {
            table: {row["_id"]: row for row in rows}
            for table in ALL
            if (rows := read_rows(self.root, self.account, table))
        }


@pytest.fixture
def deployments(new_ledger: Callable[[], JobLedger], root: StorageRoot, clock: FakeClock) -> Deployments:
    return Deployments(new_ledger, root, clock)


def ended_without_version(rows: dict[str, dict[str, Row]]) -> dict[tuple[str, str], Row]:
    """Return what may not change any more: rows of jobs that ended, and of videos that are stored or refused.

    When a URL dies, and how long after the end a poll saw the end, a ledger that saw the end later reckons anew.
    """
    reckoned = {"version", "expires_at", "detection_seconds"}
    return {
        (table, job_id): {name: value for name, value in row.items() if name not in reckoned}
        for table, of_table in rows.items()
        for job_id, row in of_table.items()
        if table in ("results", "credits", "durations")
        or row.get("state") in FINAL_STATES
        or row.get("video_state") in ("stored", "unverified")
    }


@settings(max_examples=thorough(20, 400), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    many=st.lists(lives, min_size=1, max_size=6, unique_by=lambda life: life.job_id),
    granularity=st.sampled_from(["daily", "hourly"]),
    tables=st.just(frozenset(ALL)) | st.frozensets(st.sampled_from(ALL), min_size=1),
)
@example(many=[SPANS_WITHOUT_TIMES], granularity="daily", tables={"videos", "durations"})
def test_what_the_tables_know_is_tracked_or_settled_with_its_times_and_labels(
    deployments: Deployments, many: Sequence[Life], granularity: str, tables: Collection[str]
) -> None:
    second = deployments.begin(many, granularity, tables)
    first = jobs_of(deployments.first.account(deployments.account))
    before = deployments.rows()
    in_tables = {job_id for rows in before.values() for job_id in rows}
    report = adopted(second, deployments.root, deployments.clock)
    assert report.findings == []
    assert second.landings.granularity() == granularity
    mine = jobs_of(second)
    assert mine.keys() >= in_tables
    version = deployments.second.version()
    assert all(row["version"] < version for rows in before.values() for row in rows.values())
    for job_id in in_tables:
        job, was = mine[job_id], first[job_id]
        shown = before.get("statuses", {}).get(job_id)
        assert window_of(job.partition_at, granularity) == window_of(was.partition_at, granularity)
        if was.settled_at is not None and ("results" in tables or job.settled_at is not None):
            assert (job.state, job.settled_at is not None) == (was.state, True)
        if job.is_tombstone:
            assert was.state == "failed" or was.video_state in ("stored", "lost")
            assert all(job_id in rows for table, rows in before.items() if table != "videos" or was.video_state)
            continue
        if job.settled_at is not None and "results" in tables:
            assert json.loads(job.payload or "") == json.loads(was.payload or "")
            assert job.settled_at == was.settled_at
        if shown is not None:
            assert json.loads(job.labels).items() >= json.loads(was.labels).items()
            assert job.tracked_at == was.tracked_at
            assert (job.queueing_seen_at, job.processing_seen_at) == (was.queueing_seen_at, was.processing_seen_at)
    again = adopted(second, deployments.root, deployments.clock)
    assert again.jobs.unchanged == sum(len(ids_of(before, start)) for start in starts(before))
    land(second, deployments.root, tables)
    after = deployments.rows()
    assert all(after[table].keys() >= rows.keys() for table, rows in before.items())
    kept = ended_without_version(before)
    assert {key: row for key, row in ended_without_version(after).items() if key in kept} == kept


def starts(rows: dict[str, dict[str, Row]]) -> set[int]:
    return {row["partition_time"] for of_table in rows.values() for row in of_table.values()}


def ids_of(rows: dict[str, dict[str, Row]], start: int) -> set[str]:
    return {job_id for of_table in rows.values() for job_id, row in of_table.items() if row["partition_time"] == start}


def ended_ids(rows: dict[str, dict[str, Row]]) -> set[str]:
    return {
        job_id
        for table, of_table in rows.items()
        for job_id, row in of_table.items()
        if table != "statuses" or row["state"] in FINAL_STATES
    }


@settings(max_examples=thorough(10, 150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    many=st.lists(lives, min_size=1, max_size=6, unique_by=lambda life: life.job_id),
    lost=st.sets(st.sampled_from(ALL), max_size=3),
)
def test_with_files_damaged_the_others_are_adopted_and_nothing_is_taken_back(
    deployments: Deployments, many: Sequence[Life], lost: Collection[str]
) -> None:
    second = deployments.begin(many, "daily", ALL)
    before = deployments.rows()
    damaged: dict[Path, bytes] = {}
    for table in lost:
        for file in Path(deployments.root.uri(), deployments.account, table).glob("*.parquet"):
            damaged[file] = file.read_bytes()
            file.write_bytes(b"PAR1")
    report = adopted(second, deployments.root, deployments.clock)
    assert len(report.findings) == len(damaged)
    assert all(str(file) in " ".join(finding.what for finding in report.findings) for file in damaged)
    if "results" in lost:
        assert report.asked_again == len(ended_ids({name: rows for name, rows in before.items() if name not in lost}))
    assert jobs_of(second).keys() >= {job_id for table in set(before) - set(lost) for job_id in before[table]}
    for file, content in damaged.items():
        file.write_bytes(content)
    assert adopted(second, deployments.root, deployments.clock).findings == []
    mine = jobs_of(second)
    assert all(mine[job_id].settled_at is not None for job_id in before.get("results", {}))
    land(second, deployments.root)
    kept = ended_without_version(before)
    after = ended_without_version(deployments.rows())
    assert {key: row for key, row in after.items() if key in kept} == kept
