"""How the databases go about the ledger's queries: with a million jobs, one that reads them all is a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import AccountLedger
from akool_dagster.ledger.records import VideoFailure
from akool_dagster.ledger.schema import hours, landed
from tests.integration.ledger.helpers import (
    ACCOUNT,
    DAY,
    HOUR,
    NOW,
    POSTGRESQL_ONLY,
    SQLITE_ONLY,
    TABLES,
    TODAY,
    answered,
    execute,
    job_of,
    object_id,
    record,
    rows_of,
    track,
)
from tests.integration.ledger.sides import Side, side

pytest_plugins = ["tests.integration.ledger_databases"]

PRIMARY_KEY = "SEARCH akool_jobs USING INDEX sqlite_autoindex_akool_jobs_1 (account=? AND _id=?)"
BY_PARTITION = (
    "SEARCH akool_jobs USING {}INDEX ix_akool_jobs_partition (account=? AND partition_at>? AND partition_at<?)"
)
IDS = [object_id(NOW - DAY + number * 70_000, number) for number in range(1200)]
ONE_CALL = 50
ONE_CHUNK = 500
PARTITIONS = 5_000


@dataclass
class Plans:
    """The statements that were run, each with the steps of its plan."""

    found: list[tuple[str, list[str]]] = field(default_factory=list)

    def of(self, *words: str) -> list[str]:
        """Return the plan of the one kind of statement that has all these words."""
        plans = {tuple(plan) for statement, plan in self.found if all(word in statement for word in words)}
        assert len(plans) == 1, (words, plans)
        return list(plans.pop())

    def steps(self) -> list[str]:
        """Return every step of every plan."""
        return [step for _, plan in self.found for step in plan]


def is_of_given_rows(step: str) -> bool:
    """Return whether a step reads the rows of the statement itself."""
    return step in ("MATERIALIZE given", "SCAN given") or "CONSTANT ROW" in step


@contextmanager
def explained(one: Side) -> Iterator[Plans]:
    """Give the plans of what the ledger does from now on."""
    plans = Plans()

    def explain(
        connection: sa.Connection, _cursor: Any, statement: str, parameters: Any, _context: object, _many: bool
    ) -> None:
        if statement.startswith(("SELECT", "UPDATE", "INSERT", "DELETE")) and "set_config" not in statement:
            cursor = connection.connection.cursor()
            cursor.execute(
                f"EXPLAIN {'QUERY PLAN' if one.is_sqlite else '(FORMAT JSON)'} {statement}",
                parameters[0] if isinstance(parameters, list) else parameters,
            )
            rows = cursor.fetchall()
            steps = [row[3] for row in rows] if one.is_sqlite else list(_steps(rows[0][0][0]["Plan"]))
            plans.found.append((statement, steps))

    sa.event.listen(one.database.engine, "before_cursor_execute", explain)
    yield plans
    sa.event.remove(one.database.engine, "before_cursor_execute", explain)


def _steps(node: dict[str, Any]) -> Iterator[str]:
    """Yield the steps of one of PostgreSQL's plans, those first whose rows are needed last."""
    yield f"{node['Node Type']} {node.get('Index Name') or node.get('Relation Name') or ''}".strip()
    for child in node.get("Plans", ()):
        yield from _steps(child)


@pytest.fixture
def known(ledger_url: str) -> Iterator[tuple[AccountLedger, Plans]]:
    """Give an account, and the plans of what it does from now on."""
    # PostgreSQL reads a small table whole: is there an index to use at all?
    with side(ledger_url, options="-cenable_seqscan=off") as one:
        track(one.account, *IDS)
        record(one.account, *(answered(job_id, 3) for job_id in IDS[::3]))
        with one.database.write() as connection:
            if not one.is_sqlite:  # which needs no statistics to choose these plans
                connection.execute(sa.text("ANALYZE"))
        with explained(one) as plans:
            yield one.account, plans


@SQLITE_ONLY
@pytest.mark.parametrize("number", [1, ONE_CALL, ONE_CHUNK])
def test_due_jobs_are_found_in_the_order_of_their_index_and_written_by_their_ids(
    known: tuple[AccountLedger, Plans], number: int
) -> None:
    account, plans = known
    claimed = {job.job_id: NOW for job in account.polling.claim(number)}
    assert len(claimed) == number
    assert plans.of("SELECT", "next_poll_at") == [
        "SEARCH akool_jobs USING INDEX ix_akool_jobs_due (account=? AND next_poll_at<?)"
    ]
    plans.found.clear()
    account.polling.release(claimed)
    account.polling.set_call_size(list(claimed), 5)
    record(account, *(answered(job_id, 2) for job_id in claimed))
    record(account, *(answered(job_id, 3) for job_id in claimed))
    track(account, *claimed, labels={"k": "v"}, again=True)
    account.videos.fail(VideoFailure(job_id=IDS[3], error="404", next_at=NOW))
    account.videos.keep_url(IDS[3], "https://cdn.example/new.mp4", NOW)
    account.videos.store(IDS[0], {})
    account.pruning.prune([IDS[0]], NOW * 1_000_000)
    account.pruning.forget(claimed)
    of_jobs = [plan for statement, plan in plans.found if "akool_jobs" in statement]
    assert {step for plan in of_jobs for step in plan if not is_of_given_rows(step)} == {PRIMARY_KEY}


@SQLITE_ONLY
def test_due_videos_are_found_by_an_index(known: tuple[AccountLedger, Plans]) -> None:
    account, plans = known
    assert account.videos.due(None, NOW)
    assert account.videos.due(NOW - HOUR, NOW)
    assert [plan[0] for _, plan in plans.found] == [
        "SEARCH akool_jobs USING INDEX ix_akool_jobs_video_due (account=? AND video_next_at<?)",
        BY_PARTITION.format(""),
    ]


@SQLITE_ONLY
@pytest.mark.parametrize("statistics", [None, "1000000 1000000 1000000 1", "2 1 1 1"])
def test_on_sqlite_a_partition_is_sorted_without_its_payloads(
    known: tuple[AccountLedger, Plans], ledger_url: str, statistics: str | None
) -> None:
    if statistics is not None:  # a connection reads them when it opens the database
        execute(ledger_url, "ANALYZE", f"UPDATE sqlite_stat1 SET stat = '{statistics}'")  # noqa: S608
    with side(ledger_url) as one, explained(one) as plans:
        for start in (NOW - HOUR, 0):
            rows = rows_of(one.account, start, NOW, "job_id", "payload")
            assert rows == sorted(rows) != []
    for plan in (plan for statement, plan in plans.found if "payload" in statement):
        assert plan[-1] == "SEARCH akool_jobs USING INTEGER PRIMARY KEY (rowid=?)"
        assert plan[-2].startswith("SCAN ")  # the sorted numbers of rows, one after the other
        assert statistics or plan[1:3] == [BY_PARTITION.format("COVERING "), "USE TEMP B-TREE FOR ORDER BY"]


@SQLITE_ONLY
def test_counts_read_indexes_only_as_far_as_they_count(known: tuple[AccountLedger, Plans]) -> None:
    account, plans = known
    account.counts(NOW - HOUR)
    assert account.videos.due_hours()
    due = "SEARCH akool_jobs USING INDEX ix_akool_jobs_due (account=? AND next_poll_at<?)"
    watched = "SEARCH akool_jobs USING INDEX ix_akool_jobs_watched (account=?)"
    assert plans.of("GROUP BY akool_jobs.state") == [
        "SEARCH akool_jobs USING COVERING INDEX ix_akool_jobs_state (account=?)"
    ]
    assert plans.of("min(akool_jobs.watched_since)") == [watched]
    assert plans.of("next_poll_at <=") == [due]
    assert plans.of("partition_at <") == [
        "SEARCH akool_jobs USING COVERING INDEX ix_akool_jobs_partition (account=? AND partition_at<?)"
    ]
    video_due = "SEARCH akool_jobs USING INDEX ix_akool_jobs_video_due (account=? AND video_next_at<?)"
    assert plans.of("min(akool_jobs.video_expires_at)")[0] == video_due


def everything(account: AccountLedger) -> list[Callable[[], object]]:
    """Return all that a tick or a landing does, in an order in which each act finds something to do."""
    leases, landings, polling = account.leases, account.landings, account.polling
    return [
        lambda: leases.take("tables", "2025-10-09", "run"),
        lambda: leases.renew("tables", "2025-10-09", "run"),
        lambda: landings.record_landed("tables", "2025-10-09", "run", TODAY, "results", 1),
        lambda: leases.release("tables", "2025-10-09", "run"),
        lambda: leases.facts("tables"),
        landings.forgotten,
        lambda: landings.settle_granularity("daily"),
        lambda: landings.note_start(5),
        landings.slowest_start_ms,
        lambda: polling.hold(NOW),
        polling.not_before,
        polling.clamp_future_schedule,
        lambda: polling.claim(ONE_CALL),
        lambda: polling.release(dict.fromkeys(IDS[:ONE_CALL], NOW)),
        lambda: record(account, *(answered(job_id, 4) for job_id in IDS)),
        lambda: rows_of(account, 0, NOW),
        lambda: account.pruning.prunable(TODAY, NOW),
        lambda: account.counts(NOW),
        lambda: job_of(account, IDS[0]),
        account.adoption.land_everything_again,
    ]


@SQLITE_ONLY
def test_on_sqlite_no_query_reads_every_job(known: tuple[AccountLedger, Plans]) -> None:
    account, plans = known
    acts = everything(account)
    for act in acts:
        act()
    scans = {
        step
        for step in plans.steps()
        if step.startswith("SCAN") and "anon" not in step and "SUBQUERY" not in step and not is_of_given_rows(step)
    }
    assert scans == {"SCAN akool_ledger"}  # one row
    assert len(plans.found) > len(acts)


@POSTGRESQL_ONLY
def test_on_postgresql_every_query_has_an_index_to_use(known: tuple[AccountLedger, Plans]) -> None:
    account, plans = known
    assert len(account.polling.claim(ONE_CALL)) == ONE_CALL
    assert plans.of("FOR UPDATE SKIP LOCKED") == ["Limit", "LockRows", "Index Scan ix_akool_jobs_due"]
    plans.found.clear()
    record(account, *(answered(job_id, 2) for job_id in IDS[:ONE_CALL]))
    assert plans.of("FOR UPDATE") == [
        "LockRows",  # after the rows were put in order, not before
        "Sort",
        "Bitmap Heap Scan akool_jobs",
        "Bitmap Index Scan akool_jobs_pkey",
    ]
    plans.found.clear()
    assert account.videos.due(None, NOW)
    assert account.videos.due_hours()
    assert {step for step in plans.steps() if "Index" in step} == {"Bitmap Index Scan ix_akool_jobs_video_due"}
    plans.found.clear()
    assert rows_of(account, NOW - HOUR, NOW)
    assert "Index Scan ix_akool_jobs_partition" in " ".join(plans.of("SELECT", "akool_jobs"))
    acts = everything(account)
    for act in acts:
        act()
    assert {step for step in plans.steps() if step.startswith("Seq Scan")} == {"Seq Scan akool_ledger"}  # one row
    assert len(plans.found) > len(acts)


def test_a_tick_over_thousands_of_clean_partitions_is_one_query_by_index(one: Side) -> None:
    starts = [TODAY - number * DAY for number in range(PARTITIONS)]
    with one.database.write() as connection:
        connection.execute(
            sa.insert(hours),
            [
                {"account": ACCOUNT, "hour_at": start + part * HOUR, "tables_version": 7, "videos_version": 7}
                for start in starts
                for part in range(2)
            ],
        )
        connection.execute(
            sa.insert(landed),
            [
                {"account": ACCOUNT, "partition_at": start, "asset": asset, "version": 7 - (start == starts[9])}
                for start in starts
                for asset in (*TABLES, "videos")
            ],
        )
        connection.execute(sa.text("ANALYZE"))
    with explained(one) as plans:
        (dirty,) = one.account.landings.dirty(DAY, TABLES, videos=True)
    assert (dirty.partition_at, dirty.tables_version, dirty.videos_version) == (starts[9], 7, 7)
    ((_, plan),) = plans.found
    reads = [step for step in plan if "akool_landed" in step]
    assert reads
    assert all("SEARCH" in step or "Index" in step for step in reads), plan
