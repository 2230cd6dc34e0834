"""How SQLite goes about the ledger's queries: with a million jobs, one that reads them all is a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import JobLedger
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import KnownLanding, VideoFailure
from akool_dagster.ledger.transitions import Limits
from tests.clock import FakeClock
from tests.integration.ledger_words import ACCOUNT, DAY, HOUR, NOW, answered, job_of, object_id, record, track

PRIMARY_KEY = "SEARCH akool_jobs USING INDEX sqlite_autoindex_akool_jobs_1 (account=? AND _id=?)"
IDS = [object_id(NOW - DAY + number * 70_000, number) for number in range(1200)]
ONE_CALL = 50
ONE_CHUNK = 500


@dataclass
class Plans:
    """The statements that were run, each with the steps of SQLite's plan for it."""

    found: list[tuple[str, list[str]]] = field(default_factory=list)

    def of(self, *words: str) -> list[str]:
        """Return the plan of the one kind of statement that has all these words."""
        plans = {tuple(plan) for statement, plan in self.found if all(word in statement for word in words)}
        assert len(plans) == 1, (words, plans)
        return list(plans.pop())

    def steps(self) -> list[str]:
        """Return every step of every plan."""
        return [step for _, plan in self.found for step in plan]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Give the database of a new ledger."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    JobLedger.create(url).close()
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def ledger(database: Database) -> JobLedger:
    """Give a ledger with pending, settled and due jobs."""
    ledger = JobLedger(database, "the ledger", FakeClock(), Limits())
    track(ledger, *IDS)
    record(ledger, *(answered(job_id, 3) for job_id in IDS[::3]))
    return ledger


@pytest.fixture
def plans(database: Database, ledger: JobLedger) -> Plans:
    """Give the plans of what the ledger does from now on."""
    plans = Plans()

    def explain(
        _connection: object, cursor: Any, statement: str, parameters: Any, _context: object, executemany: bool
    ) -> None:
        if statement.startswith(("SELECT", "UPDATE", "INSERT")):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters[0] if executemany else parameters)
            plans.found.append((statement, [row[3] for row in cursor.fetchall()]))

    sa.event.listen(database.engine, "before_cursor_execute", explain)
    return plans


@pytest.mark.parametrize("limit", [1, ONE_CALL, ONE_CHUNK])
def test_claiming_walks_the_index_of_due_jobs_in_its_order(ledger: JobLedger, plans: Plans, limit: int) -> None:
    assert len(ledger.claim(ACCOUNT, limit)) == limit
    assert plans.of("SELECT", "next_poll_at") == [
        "SEARCH akool_jobs USING INDEX ix_akool_jobs_due (account=? AND next_poll_at<?)"
    ]


@pytest.mark.parametrize("number", [1, ONE_CALL, ONE_CHUNK])
def test_claimed_and_released_jobs_are_found_by_their_ids(ledger: JobLedger, plans: Plans, number: int) -> None:
    claimed = [job.job_id for job in ledger.claim(ACCOUNT, number)]
    assert plans.of("UPDATE akool_jobs") == [PRIMARY_KEY]
    plans.found.clear()
    ledger.release(ACCOUNT, claimed, until=NOW)
    assert plans.of("UPDATE akool_jobs") == [PRIMARY_KEY]


@pytest.mark.parametrize("number", [1, ONE_CALL, ONE_CHUNK])
def test_tracked_and_recorded_jobs_are_found_by_their_ids(ledger: JobLedger, plans: Plans, number: int) -> None:
    pending = [job_id for index, job_id in enumerate(IDS) if index % 3][:number]
    record(ledger, *(answered(job_id, 3) for job_id in pending))
    track(ledger, *IDS[:number], labels={"k": "v"}, again=True)
    ledger.store_video(ACCOUNT, IDS[0], {})
    ledger.fail_video(ACCOUNT, VideoFailure(job_id=IDS[3], error="404", next_at=NOW))
    ledger.refresh_payload(ACCOUNT, answered(IDS[3], 3, payload='{"new":1}'))
    assert plans.of("SELECT", "FROM akool_jobs") == [PRIMARY_KEY]
    assert plans.of("UPDATE akool_jobs") == [PRIMARY_KEY]


@pytest.mark.parametrize(
    ("start", "index"),
    [
        (None, "ix_akool_jobs_video_due (account=? AND video_next_at<?)"),
        (NOW - HOUR, "ix_akool_jobs_partition (account=? AND partition_at>? AND partition_at<?)"),
    ],
)
def test_due_videos_are_found_by_an_index(ledger: JobLedger, plans: Plans, start: int | None, index: str) -> None:
    assert ledger.due_videos(ACCOUNT, start, NOW)
    assert plans.of("SELECT")[0] == f"SEARCH akool_jobs USING INDEX {index}"


def test_due_videos_are_counted_from_the_index_of_pending_ones(ledger: JobLedger, plans: Plans) -> None:
    assert ledger.due_video_hours(ACCOUNT)
    assert (
        plans.of("SELECT")[0] == "SEARCH akool_jobs USING INDEX ix_akool_jobs_video_due (account=? AND video_next_at<?)"
    )


def test_a_partition_is_read_by_its_index(ledger: JobLedger, plans: Plans) -> None:
    assert ledger.snapshot(ACCOUNT, NOW - HOUR, NOW).jobs
    assert plans.of("SELECT") == [
        "SEARCH akool_jobs USING INDEX ix_akool_jobs_partition (account=? AND partition_at>? AND partition_at<?)"
    ]


def test_counts_read_indexes_only_as_far_as_they_count(ledger: JobLedger, plans: Plans) -> None:
    ledger.counts(ACCOUNT, NOW - HOUR)
    due = "SEARCH akool_jobs USING INDEX ix_akool_jobs_due (account=? AND next_poll_at<?)"
    assert plans.of("GROUP BY") == ["SEARCH akool_jobs USING COVERING INDEX ix_akool_jobs_state (account=?)"]
    assert plans.of("min(akool_jobs.watched_since)") == [
        "SEARCH akool_jobs USING INDEX ix_akool_jobs_watched (account=?)"
    ]
    assert plans.of("next_poll_at <=") == [due]
    assert plans.of("partition_at <") == [
        "SEARCH akool_jobs USING COVERING INDEX ix_akool_jobs_partition (account=? AND partition_at<?)"
    ]


@pytest.mark.parametrize("state", [None, "pending", "completed"])
def test_jobs_are_listed_in_the_order_of_their_key(ledger: JobLedger, plans: Plans, state: str | None) -> None:
    assert list(ledger.iter_jobs(ACCOUNT, state))
    assert plans.of("SELECT") == ["SEARCH akool_jobs USING INDEX sqlite_autoindex_akool_jobs_1 (account=? AND _id>?)"]


def test_no_query_reads_every_job_or_sorts_more_than_the_due_videos(ledger: JobLedger, plans: Plans) -> None:
    leases: list[Callable[[], object]] = [
        lambda: ledger.leases(ACCOUNT).take("tables", "2025-10-09", "run"),
        lambda: ledger.leases(ACCOUNT).renew("tables", "2025-10-09", "run"),
        lambda: ledger.leases(ACCOUNT).release("tables", "2025-10-09", "run"),
        lambda: ledger.leases(ACCOUNT).facts("tables"),
    ]
    landings: list[Callable[[], object]] = [
        lambda: ledger.landings(ACCOUNT).remember({("tables", "k"): KnownLanding(revision=1, checked_at=NOW)}),
        lambda: ledger.landings(ACCOUNT).known(),
        lambda: ledger.heads(ACCOUNT),
        lambda: ledger.landings(ACCOUNT).land_anew(NOW, NOW + HOUR, above=10**6),
        lambda: ledger.landings(ACCOUNT).forget("tables", "k"),
        lambda: ledger.landings(ACCOUNT).note_first(),
        lambda: ledger.landings(ACCOUNT).have_begun(),
        ledger.revision,
    ]
    polling: list[Callable[[], object]] = [
        lambda: ledger.hold_polling(ACCOUNT, NOW),
        lambda: ledger.poll_not_before(ACCOUNT),
        lambda: ledger.claim(ACCOUNT, ONE_CALL),
        lambda: record(ledger, *(answered(job_id, 4) for job_id in IDS)),
        lambda: ledger.snapshot(ACCOUNT, 0, NOW),
        lambda: ledger.counts(ACCOUNT, NOW),
        lambda: job_of(ledger, IDS[0]),
    ]
    for act in [*leases, *landings, *polling]:
        act()
    small = ("SCAN akool_ledger",)  # one row
    assert [step for step in plans.steps() if step.startswith("SCAN") and step not in small] == []
    assert [step for step in plans.steps() if "TEMP B-TREE" in step] == []
    assert len(plans.found) > len(leases) + len(landings) + len(polling)
