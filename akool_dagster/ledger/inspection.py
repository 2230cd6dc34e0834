"""What an operator asks of a ledger: whether the database is sound, its rules hold, and where jobs are stuck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from akool_dagster.ledger.database import Database
from akool_dagster.ledger.part import LedgerPart
from akool_dagster.ledger.records import FINAL_STATES, Job, JobState, VideoState
from akool_dagster.ledger.rows import JOB_COLUMNS
from akool_dagster.ledger.schema import (
    IS_PENDING,
    IS_TOMBSTONE,
    VERSION_TABLE,
    VIDEO_IS_PENDING,
    jobs,
    ledger,
    metadata,
)
from akool_dagster.ledger.transitions import DAY_MS

EXAMPLES = 5
"""How many jobs of a group are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobGroup:
    """Jobs with something in common: how many, and the first few by id."""

    number: int
    examples: Sequence[Job]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRule:
    """A rule that every ledger keeps, and how many of its rows do not."""

    rule: str
    number: int
    example: str


class Concern(StrEnum):
    """What a group of jobs waits for, or needs a person for."""

    OVERDUE_POLL = "overdue_poll"
    UNUSABLE_ANSWER = "unusable_answer"
    NOT_RETURNED = "not_returned"
    PARTED = "parted"
    MISSING = "missing"
    ABANDONED = "abandoned"
    OVERDUE_VIDEO = "overdue_video"
    EXPIRING_VIDEO = "expiring_video"
    LOST_VIDEO = "lost_video"
    UNVERIFIED_VIDEO = "unverified_video"
    AHEAD = "ahead"


class Inspection(LedgerPart):
    """Reads one account; changes nothing."""

    def states(self, start: int, end: int) -> dict[str, str]:
        """Return the state, by id, of the jobs with ``start <= partition_at < end``."""
        query = sa.select(jobs.c.job_id, jobs.c.state).where(
            jobs.c.account == self._account, jobs.c.partition_at >= start, jobs.c.partition_at < end
        )
        return dict(self._database.rows(query))

    def groups(self, now: int, overdue_ms: int, expiry_ms: int) -> dict[Concern, JobGroup]:
        """Return the jobs that wait for something, by what for. Those without any are left out.

        ``overdue_ms``: from when on something due counts as overdue; ``expiry_ms``: how long before the end of its
        URL a video counts as close to it.
        """
        conditions = {
            Concern.OVERDUE_POLL: IS_PENDING & (jobs.c.next_poll_at <= now - overdue_ms),
            Concern.UNUSABLE_ANSWER: IS_PENDING & jobs.c.last_error.is_not(None) & (jobs.c.misses == 0),
            Concern.NOT_RETURNED: IS_PENDING & (jobs.c.misses > 0),
            Concern.PARTED: IS_PENDING & (jobs.c.call_size == 1),
            Concern.MISSING: jobs.c.state == JobState.MISSING,
            Concern.ABANDONED: jobs.c.state == JobState.ABANDONED,
            Concern.OVERDUE_VIDEO: VIDEO_IS_PENDING & (jobs.c.video_next_at <= now - overdue_ms),
            Concern.EXPIRING_VIDEO: VIDEO_IS_PENDING & (jobs.c.video_expires_at <= now + expiry_ms),
            Concern.AHEAD: jobs.c.partition_at > now + DAY_MS,
            Concern.LOST_VIDEO: jobs.c.video_state == VideoState.LOST,
            Concern.UNVERIFIED_VIDEO: jobs.c.video_state == VideoState.UNVERIFIED,
        }
        found = {}
        with self._database.read() as connection:
            for name, condition in conditions.items():
                where = (jobs.c.account == self._account, condition)
                number = connection.execute(sa.select(sa.func.count()).where(*where)).scalar_one()
                if number:
                    query = sa.select(*JOB_COLUMNS).where(*where).order_by(jobs.c.job_id).limit(EXAMPLES)
                    found[name] = JobGroup(number=number, examples=[Job(*row) for row in connection.execute(query)])
        return found

    def last_poll_at(self) -> int | None:
        """Return when an answer was last recorded."""
        query = sa.select(sa.func.max(jobs.c.last_polled_at)).where(jobs.c.account == self._account)
        at: int | None = self._database.value(query)
        return at

    def broken_rules(self) -> list[BrokenRule]:
        """Return the rules that the account's rows break."""
        counter = sa.select(ledger.c.version).scalar_subquery()
        rules = {
            "no version is above the ledger's counter": jobs.c.version > counter,
            "a video that is to be downloaded has its payload": VIDEO_IS_PENDING & jobs.c.payload.is_(None),
            "a stored video has its record": (
                (jobs.c.video_state == VideoState.STORED) & jobs.c.video_record.is_(None) & ~IS_TOMBSTONE
            ),
            "a job that ended has the status it ended with": (
                jobs.c.state.in_(FINAL_STATES)
                & (jobs.c.status != sa.case((jobs.c.state == JobState.COMPLETED, 3), else_=4))
            ),
        }
        found = sa.select(sa.func.count(), sa.func.min(jobs.c.job_id)).where(jobs.c.account == self._account)
        with self._database.read() as connection:
            counted = {rule: connection.execute(found.where(violation)).one() for rule, violation in rules.items()}
        return [BrokenRule(rule=rule, number=row[0], example=row[1]) for rule, row in counted.items() if row[0]]


def damage(database: Database) -> list[str]:
    """Return what the database itself finds damaged. Raises `LedgerUnavailableError` when it cannot even be read."""
    with database.read() as connection:
        if database.is_sqlite:
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
            return [line for line in found if line != "ok"]
        # PostgreSQL checks pages as it reads them: so every row is read. It never repairs an index that is not valid.
        connection.execute(sa.select(sa.func.count(), sa.func.sum(sa.func.length(jobs.c.payload))))
        invalid = sa.text(
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE NOT i.indisvalid AND i.indrelid IN (SELECT oid FROM pg_class WHERE relname = ANY(:names) "
            "AND relnamespace = current_schema()::regnamespace)"
        )
        names = connection.execute(invalid, {"names": list(metadata.tables)}).scalars()
        standby = connection.execute(sa.text("SELECT pg_is_in_recovery()")).scalar()
        return [f"index {name} is not valid" for name in names] + (["the server is a standby"] if standby else [])


def schema_differences(database: Database) -> list[str]:
    """Return how the tables differ from what this version's code describes."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                # A PostgreSQL database may hold other programs' tables too.
                "include_name": lambda name, kind, _parents: kind != "table" or name in metadata.tables,
            },
        )
        return [_difference(one) for one in compare_metadata(context, metadata)]


def _difference(found: object) -> str:
    parts = found if isinstance(found, tuple) else tuple(found) if isinstance(found, list) else (found,)
    if parts and isinstance(parts[0], tuple):  # several changes of one column
        return "; ".join(_difference(part) for part in parts)
    return " ".join(getattr(part, "name", None) or str(part) for part in parts if part is not None)
