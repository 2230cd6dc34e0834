"""Reading and writing job rows inside one transaction of the ledger."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from akool_dagster.ledger.database import Database, Insert
from akool_dagster.ledger.records import Job, JobState, partition_moment
from akool_dagster.ledger.schema import HOUR_MS, IS_PENDING, hours, jobs, ledger
from akool_dagster.ledger.transitions import asks_for_landing, shows_differently

CHUNK = 500
"""The most ids in one query, far below every driver's limit of parameters."""

JOB_COLUMNS = [jobs.c[field.name] for field in fields(Job)]
MUTABLE_FIELDS = [
    name for name in (field.name for field in fields(Job)) if name not in {"account", "job_id", "tracked_at"}
]

_Item = TypeVar("_Item")

# Built once: building a statement takes SQLAlchemy longer than SQLite takes to run it.
_LOCKED_JOBS = (
    sa.select(*JOB_COLUMNS)
    .where(jobs.c.account == sa.bindparam("account"), jobs.c.job_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(jobs.c.job_id)  # one order of locks for everybody
    .with_for_update()
)
SET_NEXT_POLL = (
    sa.update(jobs)
    .where(
        jobs.c.account == sa.bindparam("key_account"),
        jobs.c.job_id.in_(sa.bindparam("ids", expanding=True)),
        # Not IS_PENDING: with more than a few ids SQLite would take the index on state and read every pending job.
        jobs.c.settled_at.is_(None),
    )
    .values(next_poll_at=sa.bindparam("at"))
)
_COUNT_UP = (
    sa.update(ledger)
    .values(
        revision=sa.case(
            (ledger.c.revision < sa.bindparam("now", type_=sa.BigInteger), sa.bindparam("now", type_=sa.BigInteger)),
            else_=ledger.c.revision + 1,
        )
    )
    .returning(ledger.c.revision)
)


def due_query(account: str, now_ms: int, limit: int) -> sa.Select[Any]:
    """Return the query for the ids that are due, longest due first."""
    return (
        sa.select(jobs.c.job_id, jobs.c.poll_alone, jobs.c.next_poll_at)
        .where(jobs.c.account == account, IS_PENDING, jobs.c.next_poll_at <= now_ms)
        .order_by(jobs.c.next_poll_at, jobs.c.job_id)
        .limit(limit)
    )


def locked_jobs(connection: sa.Connection, account: str, ids: Iterable[str]) -> list[Job]:
    """Return the jobs with these ids, locked until the transaction ends. Unknown ids are left out."""
    return [Job(*row) for row in connection.execute(_LOCKED_JOBS, {"account": account, "ids": list(ids)})]


def next_revision(connection: sa.Connection, now_ms: int) -> int:
    """Count the ledger's revision up, to the present millisecond at least, and return it.

    A counter row, not a sequence: its lock is held to the commit, so revisions become visible in order. By the clock,
    since a ledger that was restored from a backup would give the numbers that it had landed since to other changes,
    which then seem to have landed.
    """
    return int(connection.execute(_COUNT_UP, {"now": now_ms}).scalar_one())


def write_changes(
    database: Database,
    connection: sa.Connection,
    account: str,
    changes: Sequence[tuple[Job, Job]],
    revision: int,
) -> None:
    """Write jobs as they stand after a change, stamped with the revision, and raise their hours' heads."""
    stamped = [(before, _stamp(before, after, revision)) for before, after in changes]
    update_jobs(connection, account, stamped)
    asking = [job for _, job in stamped if revision and revision in (job.head, job.video_head)]
    if asking:
        raise_hours(database, connection, account, asking)


def update_jobs(connection: sa.Connection, account: str, changes: Iterable[tuple[Job, Job]]) -> None:
    """Write what differs between a job before and after; the index of a column that stays is not touched."""
    alike: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for before, after in changes:
        names = tuple(name for name in MUTABLE_FIELDS if getattr(before, name) != getattr(after, name))
        values = {f"new_{name}": getattr(after, name) for name in names}
        alike.setdefault(names, []).append({"key_account": account, "key_job_id": after.job_id, **values})
    for names, rows in alike.items():
        if names:
            connection.execute(_update_of(names), rows)


@lru_cache(maxsize=256)
def _update_of(names: tuple[str, ...]) -> sa.Update:
    return (
        sa.update(jobs)
        .where(jobs.c.account == sa.bindparam("key_account"), jobs.c.job_id == sa.bindparam("key_job_id"))
        .values({name: sa.bindparam(f"new_{name}") for name in names})
    )


def new_job_row(account: str, job_id: str, labels: dict[str, str], now: int, revision: int) -> dict[str, Any]:
    """Return the row of a job that is tracked for the first time: due at once."""
    return {
        "account": account,
        "job_id": job_id,
        "partition_at": partition_moment(job_id, now),
        "tracked_at": now,
        "watched_since": now,
        "labels": json_text(labels),
        "state": JobState.PENDING,
        "next_poll_at": now,
        "polls": 0,
        "misses": 0,
        "urlless_polls": 0,
        "poll_alone": False,
        "revision": revision,
        "head": 0,
        "video_attempts": 0,
        "video_revision": 0,
        "video_head": 0,
    }


def _stamp(before: Job, after: Job, revision: int) -> Job:
    """Return the job with the revision at everything that the change touches."""
    asks = asks_for_landing(before, after)
    video_moved = before.video_state != after.video_state
    video_shown = video_moved or before.video_attempts != after.video_attempts
    return replace(
        after,
        revision=revision if asks or shows_differently(before, after) else before.revision,
        head=revision if asks else before.head,
        video_revision=revision if video_shown else before.video_revision,
        video_head=revision if video_moved else before.video_head,
    )


def raise_hours(database: Database, connection: sa.Connection, account: str, changed: Sequence[Job]) -> None:
    """Raise the heads of the hours that the jobs lie in to the highest of theirs."""
    highest: dict[int, tuple[int, int]] = {}
    for job in changed:
        hour_at = job.partition_at - job.partition_at % HOUR_MS
        head, video_head = highest.get(hour_at, (0, 0))
        highest[hour_at] = (max(head, job.head), max(video_head, job.video_head))
    rows = [
        {"account": account, "hour_at": hour_at, "head": head, "video_head": video_head}
        for hour_at, (head, video_head) in sorted(highest.items())
    ]
    connection.execute(_raised_hours(database.insert), rows)


def lower_hours(connection: sa.Connection, account: str, left: Collection[int]) -> None:
    """Set the heads of the hours that jobs were taken out of, at these moments, to the highest of those still there.

    Whoever raises a head holds the ledger's counter until it commits: call this with the counter taken.
    """
    for hour_at in sorted({at - at % HOUR_MS for at in left}):
        there = (jobs.c.account == account, jobs.c.partition_at >= hour_at, jobs.c.partition_at < hour_at + HOUR_MS)
        query = sa.select(sa.func.max(jobs.c.head), sa.func.max(jobs.c.video_head)).where(*there)
        head, video_head = connection.execute(query).one()
        this_hour = (hours.c.account == account, hours.c.hour_at == hour_at)
        if head or video_head:
            connection.execute(sa.update(hours).where(*this_hour).values(head=head, video_head=video_head))
        else:
            connection.execute(sa.delete(hours).where(*this_hour))


@lru_cache(maxsize=2)
def _raised_hours(insert: Insert) -> sa.Executable:
    statement = insert(hours)
    excluded = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[hours.c.account, hours.c.hour_at],
        set_={
            name: sa.case((hours.c[name] > excluded[name], hours.c[name]), else_=excluded[name])
            for name in ("head", "video_head")
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
