"""How the databases go about the ledger's queries: with a million jobs, one that reads them all is a fault."""

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
from tests.integration.ledger_sides import side
from tests.integration.ledger_words import ACCOUNT, DAY, HOUR, NOW, answered, job_of, object_id, record, track

pytest_plugins = ["tests.integration.ledger_databases"]

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
    ledger.keep_video_url(ACCOUNT, IDS[3], "https://cdn.example/new.mp4", NOW)
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


def everything(ledger: JobLedger) -> list[Callable[[], object]]:
    """Return all that a ledger does, in an order in which each act finds something to do."""
    leases, landings = ledger.leases(ACCOUNT), ledger.landings(ACCOUNT)
    return [
        lambda: leases.take("tables", "2025-10-09", "run"),
        lambda: leases.renew("tables", "2025-10-09", "run"),
        lambda: leases.release("tables", "2025-10-09", "run"),
        lambda: leases.facts("tables"),
        lambda: landings.remember({("tables", "k"): KnownLanding(revision=1, checked_at=NOW)}),
        landings.known,
        lambda: ledger.heads(ACCOUNT),
        lambda: landings.land_anew(NOW, NOW + HOUR, above=10**6),
        lambda: landings.forget("tables", "k"),
        landings.note_first,
        landings.have_begun,
        ledger.revision,
        lambda: ledger.hold_polling(ACCOUNT, NOW),
        lambda: ledger.poll_not_before(ACCOUNT),
        lambda: ledger.mend_schedule(ACCOUNT),
        lambda: ledger.claim(ACCOUNT, ONE_CALL),
        lambda: ledger.release(ACCOUNT, IDS[:ONE_CALL], until=NOW),
        lambda: record(ledger, *(answered(job_id, 4) for job_id in IDS)),
        lambda: ledger.snapshot(ACCOUNT, 0, NOW),
        lambda: ledger.counts(ACCOUNT, NOW),
        lambda: job_of(ledger, IDS[0]),
    ]


def test_no_query_reads_every_job_or_sorts_more_than_the_due_videos(ledger: JobLedger, plans: Plans) -> None:
    acts = everything(ledger)
    for act in acts:
        act()
    small = ("SCAN akool_ledger",)  # one row
    assert [step for step in plans.steps() if step.startswith("SCAN") and step not in small] == []
    assert [step for step in plans.steps() if "TEMP B-TREE" in step] == []
    assert len(plans.found) > len(acts)


@pytest.fixture
def postgres(new_schema: Callable[[], str]) -> Iterator[tuple[JobLedger, Plans]]:
    """Give the same ledger in PostgreSQL, and the plans of what it does from now on."""
    url = new_schema()
    JobLedger.create(url).close()
    with side(url, options="-cenable_seqscan=off") as one:  # the table is small: is there an index to use at all?
        track(one.ledger, *IDS)
        record(one.ledger, *(answered(job_id, 3) for job_id in IDS[::3]))
        with one.database.write() as connection:
            connection.execute(sa.text("ANALYZE"))
        plans = Plans()

        def explain(
            _connection: object, cursor: Any, statement: str, parameters: Any, _context: object, executemany: bool
        ) -> None:
            if statement.startswith(("SELECT", "UPDATE", "INSERT", "DELETE")) and "set_config" not in statement:
                cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters[0] if executemany else parameters)
                ((((root,),),),) = (cursor.fetchall(),)
                plans.found.append((statement, list(_steps(root["Plan"]))))

        sa.event.listen(one.database.engine, "before_cursor_execute", explain)
        yield one.ledger, plans


def _steps(node: dict[str, Any]) -> Iterator[str]:
    """Yield the steps of one of PostgreSQL's plans, those first whose rows are needed last."""
    yield f"{node['Node Type']} {node.get('Index Name') or node.get('Relation Name') or ''}".strip()
    for child in node.get("Plans", ()):
        yield from _steps(child)


def test_on_postgresql_a_claim_walks_the_index_of_due_jobs_in_its_order(postgres: tuple[JobLedger, Plans]) -> None:
    ledger, plans = postgres
    assert len(ledger.claim(ACCOUNT, ONE_CALL)) == ONE_CALL
    assert plans.of("FOR UPDATE SKIP LOCKED") == ["Limit", "LockRows", "Index Scan ix_akool_jobs_due"]


def test_on_postgresql_jobs_are_locked_in_the_order_of_their_ids(postgres: tuple[JobLedger, Plans]) -> None:
    ledger, plans = postgres
    record(ledger, *(answered(job_id, 2) for job_id in IDS[:ONE_CALL]))
    assert plans.of("FOR UPDATE") == [
        "LockRows",  # after the rows were put in order, not before
        "Sort",
        "Bitmap Heap Scan akool_jobs",
        "Bitmap Index Scan akool_jobs_pkey",
    ]


def test_on_postgresql_every_query_has_an_index_to_use(postgres: tuple[JobLedger, Plans]) -> None:
    ledger, plans = postgres
    assert ledger.due_videos(ACCOUNT, None, NOW)
    assert ledger.due_video_hours(ACCOUNT)
    assert {step for step in plans.steps() if "Index" in step} == {"Bitmap Index Scan ix_akool_jobs_video_due"}
    plans.found.clear()
    assert ledger.snapshot(ACCOUNT, NOW - HOUR, NOW).jobs
    assert plans.of("SELECT") == ["Index Scan ix_akool_jobs_partition"]
    acts = everything(ledger)
    for act in acts:
        act()
    assert {step for step in plans.steps() if step.startswith("Seq Scan")} == {"Seq Scan akool_ledger"}  # one row
    assert len(plans.found) > len(acts)
