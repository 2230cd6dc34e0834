"""Reading and writing job rows inside one transaction of the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import lru_cache
from itertools import chain, islice
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from akool_dagster.ledger.database import Database, Insert
from akool_dagster.ledger.records import Job, JobState, partition_time
from akool_dagster.ledger.schema import HOUR_MS, hours, jobs, ledger

CHUNK = 500
"""The most ids in one query, far below every driver's limit of parameters."""

JOB_FIELDS = tuple(field.name for field in fields(Job))
JOB_COLUMNS = [jobs.c[name] for name in JOB_FIELDS]

_Item = TypeVar("_Item")

# Built once: building a statement takes SQLAlchemy longer than SQLite takes to run it.
_LOCKED_JOBS = (
    sa.select(*JOB_COLUMNS)
    .where(jobs.c.account == sa.bindparam("account"), jobs.c.job_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(jobs.c.job_id)  # one order of locks for everybody
    .with_for_update()
)
_NEXT_VERSION = (
    sa.update(ledger)
    .values(
        version=sa.case(
            (ledger.c.version < sa.bindparam("now", type_=sa.BigInteger), sa.bindparam("now", type_=sa.BigInteger)),
            else_=ledger.c.version + 1,
        )
    )
    .returning(ledger.c.version)
)


def locked_jobs(connection: sa.Connection, account: str, ids: Iterable[str]) -> list[Job]:
    """Return the jobs with these ids, by id, locked until the transaction ends. Unknown ids are left out."""
    return [Job(*row) for row in connection.execute(_LOCKED_JOBS, {"account": account, "ids": list(ids)})]


def next_version(connection: sa.Connection, now_us: int) -> int:
    """Count the ledger's version up, to the present microsecond at least, and return it.

    A counter row, not a sequence: its lock is held to the commit, so versions become visible in order. By the clock,
    since a ledger that was restored from a backup would give the numbers that it had landed since to other changes,
    which then seem to have landed.
    """
    return int(connection.execute(_NEXT_VERSION, {"now": now_us}).scalar_one())


@lru_cache(maxsize=16)
def update_of(names: tuple[str, ...]) -> sa.Update:
    """Return the statement that writes these columns of one job.

    Run the statement with a list of rows that have ``key_account``, ``key_job_id`` and ``new_<column>``.
    """
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}", type_=jobs.c[name].type) for name in names}
    key = (jobs.c.account == sa.bindparam("key_account"), jobs.c.job_id == sa.bindparam("key_job_id"))
    return sa.update(jobs).where(*key).values(values)


def update_jobs(connection: sa.Connection, account: str, names: tuple[str, ...], changed: Iterable[Any]) -> None:
    """Write the named fields of records that have a ``job_id``: one statement, and one round trip for 100 records."""
    rows = [
        {"key_account": account, "key_job_id": job.job_id, **{f"new_{name}": getattr(job, name) for name in names}}
        for job in changed
    ]
    if rows:
        connection.execute(update_of(names), rows)


def update_locked_jobs(
    connection: sa.Connection, account: str, names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Write the named columns of jobs in one statement, given each job's id and its values; a null payload is kept.

    The jobs must be locked, for the statement takes them in any order. It is one call of the driver: with a call a
    job, the sqlite3 module gives way to other threads at each of them.
    """
    values = list(rows)
    if values:
        sql = _update_from_values(connection.dialect.name, names, len(values))
        connection.exec_driver_sql(sql, (*chain.from_iterable(values), account))


_DIALECTS: Mapping[str, sa.Dialect] = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.dialect(),  # type: ignore[no-untyped-call]
}


@lru_cache(maxsize=256)
def _update_from_values(dialect_name: str, names: tuple[str, ...], count: int) -> str:
    # SQLAlchemy compiles a thousand parameters in ten milliseconds, which is longer than the rest of a poll takes.
    dialect = _DIALECTS[dialect_name]  # not the connection's: each ledger has a new one, which the cache would keep
    mark = "?" if dialect_name == "sqlite" else "%s"
    sets = []
    for number, name in enumerate(names, start=2):
        value = f"CAST(given.column{number} AS {jobs.c[name].type.compile(dialect)})"  # nulls alone would be text
        sets.append(f"{name} = coalesce({value}, {jobs.name}.payload)" if name == "payload" else f"{name} = {value}")
    row = f"({', '.join([mark] * (len(names) + 1))})"
    return (
        f"UPDATE {jobs.name} SET {', '.join(sets)} FROM (VALUES {', '.join([row] * count)}) AS given "  # noqa: S608
        f"WHERE {jobs.name}.account = {mark} AND {jobs.name}._id = given.column1"
    )


def new_job_row(account: str, job_id: str, labels: Mapping[str, str], now: int, version: int) -> dict[str, Any]:
    """Return the row of a job that is tracked for the first time: due at once."""
    return dict.fromkeys(JOB_FIELDS) | {
        "account": account,
        "job_id": job_id,
        "partition_at": partition_time(job_id, now),
        "tracked_at": now,
        "watched_since": now,
        "labels": json_text(labels),
        "state": JobState.PENDING,
        "next_poll_at": now,
        "polls": 0,
        "misses": 0,
        "urlless_polls": 0,
        "version": version,
        "video_attempts": 0,
        "video_refusals": 0,
    }


def ask_for_landing(
    database: Database,
    connection: sa.Connection,
    account: str,
    version: int,
    *,
    tables: Iterable[int] = (),
    videos: Iterable[int] = (),
) -> None:
    """Raise the versions of hours to one of a change that must land, given the ``partition_at`` of changed jobs.

    ``tables``: jobs whose row in a table of results must land; ``videos``: jobs whose row in the manifest must.
    """
    of_tables, of_videos = ({at - at % HOUR_MS for at in times} for times in (tables, videos))
    rows = [
        {
            "account": account,
            "hour_at": hour_at,
            "tables_version": version if hour_at in of_tables else 0,
            "videos_version": version if hour_at in of_videos else 0,
        }
        for hour_at in sorted(of_tables | of_videos)
    ]
    if rows:
        connection.execute(_raised_hours(database.insert), rows)


@lru_cache(maxsize=2)
def _raised_hours(insert: Insert) -> sa.Executable:
    statement = insert(hours)
    excluded = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[hours.c.account, hours.c.hour_at],
        set_={
            name: sa.case((hours.c[name] > excluded[name], hours.c[name]), else_=excluded[name])
            for name in ("tables_version", "videos_version")
        },
    )


def json_text(value: Mapping[str, object]) -> str:
    """Return compact JSON with sorted keys, the same text for the same map."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Yield the items in lists of at most `CHUNK`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
