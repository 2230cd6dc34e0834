"""What a poll pass asks of an account's ledger: due ids, recorded answers, and how long to wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import ClaimedJob, JobState, Observation, RecordReport
from akool_dagster.ledger.rows import ask_for_landing, chunks, next_version, update_locked_jobs, update_of
from akool_dagster.ledger.schema import IS_PENDING, VIDEO_IS_PENDING, accounts, jobs
from akool_dagster.ledger.transitions import Limits, PolledJob, Polling, observe, shows_differently

CLAIM_MS = 120_000
"""How long a claimed id is left alone by other poll passes: longer than any tick."""
LONGEST_WAIT_MS = 7_200_000
"""Twice the longest wait that polling or the schedule of downloads asks for."""

_READ_FIELDS = tuple(field.name for field in fields(PolledJob) if field.name != "payload")
_WRITTEN_FIELDS = tuple(
    field.name
    for field in fields(PolledJob)
    if field.name not in {"job_id", "partition_at", "watched_since", "version"}
)
_ENDING_FIELDS = frozenset(
    {"state", "settled_at", "failure_reason", "video_state", "video_next_at", "video_expires_at", "video_error"}
)
_GOING_ON_FIELDS = tuple(name for name in _WRITTEN_FIELDS if name not in _ENDING_FIELDS)
"""What a poll writes of a job that stays pending: the index on the state is not touched for it."""

_KEY = (jobs.c.account == sa.bindparam("account"), jobs.c.job_id.in_(sa.bindparam("ids", expanding=True)))
_LOCKED_PENDING = (
    sa.select(*(jobs.c[name] for name in _READ_FIELDS))
    # Not IS_PENDING: with more than a few ids SQLite would take an index on the state and read every pending job.
    .where(*_KEY, jobs.c.settled_at.is_(None))
    .order_by(jobs.c.job_id)  # one order of locks for everybody
    .with_for_update()
)
_DUE = (
    sa.select(jobs.c.job_id, jobs.c.call_size, jobs.c.next_poll_at)
    .where(jobs.c.account == sa.bindparam("account"), IS_PENDING, jobs.c.next_poll_at <= sa.bindparam("now"))
    .order_by(jobs.c.next_poll_at, jobs.c.job_id)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)
)
_RELEASE = update_of(("next_poll_at",)).where(jobs.c.settled_at.is_(None))
_SET_CALL_SIZE = update_of(("call_size",)).where(jobs.c.settled_at.is_(None))


class PollingLedger:
    """Polling of one account."""

    def __init__(self, database: Database, account: str, clock: Clock, limits: Limits) -> None:
        self._database = database
        self._account = account
        self._clock = clock
        self._limits = limits

    def not_before(self) -> int:
        """Return the time before which Akool asked this account not to call again; 0 for none."""
        return int(self._account_value(accounts.c.poll_not_before) or 0)

    def hold(self, until: int) -> None:
        """Remember that Akool asked this account not to call again before a time."""
        self._set_account_value("poll_not_before", until)

    def call_limit(self) -> int | None:
        """Return the longest call that Akool answers for this account; None when none is known to be too long."""
        limit: int | None = self._account_value(accounts.c.call_limit)
        return limit

    def set_call_limit(self, limit: int | None) -> None:
        """Remember the longest call that Akool answers for this account."""
        self._set_account_value("call_limit", limit)

    def clamp_future_schedule(self) -> None:
        """Set to now what lies further ahead than any wait is: it was set under a clock that has been set back since.

        Due times would be waited for, and the age that a job is given up at would not begin to count.
        """
        now = self._clock.now_ms()
        times = (
            (jobs.c.next_poll_at, IS_PENDING),
            (jobs.c.watched_since, IS_PENDING),
            (jobs.c.video_next_at, VIDEO_IS_PENDING),
        )
        with self._database.write() as connection:
            for column, waiting in times:
                far = (jobs.c.account == self._account, waiting, column > now + LONGEST_WAIT_MS)
                # What is locked is being given a new time now; waiting for it out of order could deadlock.
                free = sa.select(jobs.c.job_id).where(*far).with_for_update(skip_locked=True)
                connection.execute(sa.update(jobs).where(*far, jobs.c.job_id.in_(free)).values({column: now}))

    def claim(self, limit: int) -> list[ClaimedJob]:
        """Take due ids, longest due first, and reserve them for two minutes.

        A tick that overran goes on beside the next one: the reservation keeps them from asking the same ids.
        """
        now = self._clock.now_ms()
        with self._database.write() as connection:
            claimed = [
                ClaimedJob(job_id=job_id, call_size=call_size, due_at=due_at)
                for job_id, call_size, due_at in connection.execute(
                    _DUE, {"account": self._account, "now": now, "most": limit}
                )
            ]
            for chunk in chunks([(job.job_id, now + CLAIM_MS) for job in claimed]):
                update_locked_jobs(connection, self._account, ("next_poll_at",), chunk)
        return claimed

    def release(self, due_at: Mapping[str, int]) -> None:
        """Give claimed ids back without an answer: each is due again at its time."""
        self._set_each(_RELEASE, "new_next_poll_at", due_at)

    def set_call_size(self, job_ids: Sequence[str], size: int) -> None:
        """Remember the most ids in a call that asks for one of these, since a longer call failed."""
        self._set_each(_SET_CALL_SIZE, "new_call_size", dict.fromkeys(job_ids, size))

    def _set_each(self, statement: sa.Update, name: str, values: Mapping[str, int]) -> None:
        # One by one in the order of ids: an UPDATE of several locks them as they lie, and could deadlock with others.
        for chunk in chunks(sorted(values.items())):
            rows = [{"key_account": self._account, "key_job_id": job_id, name: value} for job_id, value in chunk]
            with self._database.write() as connection:
                connection.execute(statement, rows)

    def record(self, observations: Sequence[Observation], polling: Polling) -> RecordReport:
        """Record what calls said, 500 jobs a transaction. Final, forgotten and unknown jobs are left as they are."""
        seen = {observation.job_id: observation for observation in observations}
        now = self._clock.now_ms()
        report = RecordReport()
        for chunk in chunks(seen):
            with self._database.write() as connection:
                found = connection.execute(_LOCKED_PENDING, {"account": self._account, "ids": chunk})
                before = [job for row in found if (job := PolledJob(*row)).state == JobState.PENDING]
                changes = [(job, observe(job, seen[job.job_id], now, polling, self._limits)) for job in before]
                report += self._write(connection, changes)
        return report

    def _write(self, connection: sa.Connection, changes: list[tuple[PolledJob, PolledJob]]) -> RecordReport:
        shown = {after.job_id for before, after in changes if shows_differently(before, after)}
        version = next_version(connection, self._clock.now_us()) if shown else 0
        ended = [after for _, after in changes if after.state != JobState.PENDING]
        going_on = [after for _, after in changes if after.state == JobState.PENDING]
        for names, some in ((_GOING_ON_FIELDS, going_on), (_WRITTEN_FIELDS, ended)):
            values_of = attrgetter("job_id", *names)
            rows = [(*values_of(job), version if job.job_id in shown else job.version) for job in some]
            update_locked_jobs(connection, self._account, (*names, "version"), rows)
        ask_for_landing(
            self._database,
            connection,
            self._account,
            version,
            tables=[job.partition_at for job in ended],
            videos=[job.partition_at for job in ended if job.video_state is not None],
        )
        states = [job.state for job in ended]
        return RecordReport(
            completed=states.count(JobState.COMPLETED),
            failed=states.count(JobState.FAILED),
            missing=states.count(JobState.MISSING),
            abandoned=states.count(JobState.ABANDONED),
            changed=len(shown),
        )

    def _account_value(self, column: sa.Column[Any]) -> Any:
        with self._database.read() as connection:
            return connection.execute(sa.select(column).where(accounts.c.account == self._account)).scalar()

    def _set_account_value(self, name: str, value: object) -> None:
        set_account_value(self._database, self._account, name, value)


def set_account_value(database: Database, account: str, name: str, value: object) -> None:
    """Write one column of the account's row."""
    statement = database.insert(accounts).values({"account": account, name: value})
    statement = statement.on_conflict_do_update(index_elements=[accounts.c.account], set_={name: value})
    with database.write() as connection:
        connection.execute(statement)
