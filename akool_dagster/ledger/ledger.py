"""The job ledger: the one durable record of which jobs there are and what became of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from akool_dagster.accounts import check_account
from akool_dagster.clock import Clock, SystemClock
from akool_dagster.ledger.database import HOW_TO_CREATE, Database
from akool_dagster.ledger.errors import LedgerMissingError
from akool_dagster.ledger.inspection import Inspection
from akool_dagster.ledger.landings import Landings
from akool_dagster.ledger.leases import Leases
from akool_dagster.ledger.pruning import Pruning
from akool_dagster.ledger.records import (
    ClaimedJob,
    Counts,
    DueVideo,
    DueVideos,
    HourHead,
    Job,
    JobState,
    Observation,
    PartitionSnapshot,
    RecordReport,
    TrackReport,
    TrackRequest,
    VideoFailure,
    VideoState,
    check_labels,
    normalise_job_id,
    status_label,
)
from akool_dagster.ledger.restoring import Restoring
from akool_dagster.ledger.rows import (
    CHUNK,
    JOB_COLUMNS,
    SET_NEXT_POLL,
    chunks,
    due_query,
    json_text,
    locked_jobs,
    new_job_row,
    next_revision,
    raise_hours,
    update_jobs,
    write_changes,
)
from akool_dagster.ledger.schema import (
    HOUR_MS,
    IS_PENDING,
    VIDEO_IS_PENDING,
    accounts,
    hours,
    jobs,
    ledger,
)
from akool_dagster.ledger.transitions import (
    Limits,
    LookAgain,
    observe,
    reopened,
    shows_differently,
)

CLAIM_MS = 120_000
"""How long a claimed id is left alone by other poll passes: longer than any tick."""
OVERDUE_MS = 600_000
LONGEST_WAIT_MS = 7_200_000
"""Twice the longest wait that anything here or in the videos' schedule asks for."""


class JobLedger:
    """Jobs, what Akool last said of each, and what became of its video. Use `open` or `create`, then `close`.

    Every method is one or a few short transactions; none makes an HTTP call. Raises `LedgerError` leaves.
    """

    def __init__(self, database: Database, ledger_id: str, clock: Clock, limits: Limits) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self.ledger_id = ledger_id
        """The ledger's own id, given when it was created. Landed tables carry it."""

    @classmethod
    def open(
        cls, url: str, *, clock: Clock | None = None, limits: Limits | None = None, busy_timeout: float = 15.0
    ) -> Self:
        """Open the ledger at the URL; never create one.

        Raises `LedgerMissingError`, `LedgerSchemaError` or `LedgerUnavailableError` before any effect.
        """
        database = Database(url, busy_timeout=busy_timeout)
        try:
            database.require()
            with database.read() as connection:
                ledger_id = connection.execute(sa.select(ledger.c.ledger_id)).scalar()
            if ledger_id is None:
                raise LedgerMissingError(f"The ledger {database.shown} was not finished. {HOW_TO_CREATE}")
            return cls(database, ledger_id, clock or SystemClock(), limits or Limits())
        except BaseException:
            database.close()
            raise

    @classmethod
    def create(
        cls, url: str, *, clock: Clock | None = None, limits: Limits | None = None, busy_timeout: float = 15.0
    ) -> Self:
        """Open the ledger at the URL, creating or upgrading it first where needed."""
        database = Database(url, busy_timeout=busy_timeout)
        try:
            database.create_or_upgrade()
            row = {"id": 1, "ledger_id": str(uuid.uuid4()), "revision": 0}
            row["created_at"] = (clock or SystemClock()).now_ms()
            with database.write() as connection:
                connection.execute(database.insert(ledger).values(row).on_conflict_do_nothing())
        finally:
            database.close()
        return cls.open(url, clock=clock, limits=limits, busy_timeout=busy_timeout)

    @property
    def shown_url(self) -> str:
        """Return the ledger's URL without its password, for messages."""
        return self._database.shown

    def close(self) -> None:
        """Close the ledger's connections."""
        self._database.close()

    def hurry(self) -> None:
        """Wait for no lock any more: what another connection holds raises `LedgerUnavailableError` at once."""
        self._database.hurry()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def leases(self, account: str) -> Leases:
        """Return the leases of an account's partitions."""
        return Leases(self._database, account, self._clock)

    def landings(self, account: str) -> Landings:
        """Return what is remembered of an account's landings."""
        return Landings(self._database, account)

    def inspection(self, account: str) -> Inspection:
        """Return what an operator asks of an account's jobs."""
        return Inspection(self._database, account)

    def restoring(self, account: str) -> Restoring:
        """Return how an account's jobs are brought up to landed tables."""
        return Restoring(self._database, account, self._clock)

    def pruning(self, account: str) -> Pruning:
        """Return how an account's payloads are dropped."""
        return Pruning(self._database, account)

    # Tracking

    def track(self, account: str, requests: Iterable[TrackRequest], *, again: bool = False) -> TrackReport:
        """Watch these ids from now on. Idempotent: a known id only gains labels.

        With ``again``, missing and abandoned jobs are polled anew, and lost videos are tried once more. All ids and
        labels are checked before anything is written; raises `InvalidJobError` for the first bad one, and
        `InvalidAccountError` for an account that no deployment can have.
        """
        check_account(account)
        labels_by_id: dict[str, dict[str, str]] = {}
        total = 0
        for request in requests:
            total += 1
            job_id = normalise_job_id(request.job_id)
            check_labels(job_id, request.labels)
            labels_by_id.setdefault(job_id, {}).update(request.labels)
        report = TrackReport(repeated=total - len(labels_by_id))
        for chunk in chunks(sorted(labels_by_id.items())):
            report += self._track_chunk(account, dict(chunk), again)
        return report

    def _track_chunk(self, account: str, labels_by_id: Mapping[str, dict[str, str]], again: bool) -> TrackReport:
        now = self._clock.now_ms()
        added: set[str] = set()
        with self._database.write() as connection:
            known = {job.job_id: job for job in locked_jobs(connection, account, labels_by_id)}
            new = {job_id: labels for job_id, labels in labels_by_id.items() if job_id not in known}
            updated = []
            for job_id, job in known.items():
                merged = json.loads(job.labels) | labels_by_id[job_id]
                after = replace(reopened(job, now) if again else job, labels=json_text(merged))
                if after != job:
                    updated.append((job, after))
            if new or updated:
                revision = next_revision(connection, now)
                if new:
                    rows = [new_job_row(account, job_id, labels, now, revision) for job_id, labels in new.items()]
                    statement = self._database.insert(jobs).on_conflict_do_nothing().returning(jobs.c.job_id)
                    added.update(connection.execute(statement, rows).scalars())
                write_changes(self._database, connection, account, updated, revision)
        report = TrackReport(
            added=len(added),
            known=len(known),
            relabelled=sum(before.labels != after.labels for before, after in updated),
            reopened=sum(
                (before.state, before.video_state) != (after.state, after.video_state) for before, after in updated
            ),
        )
        # On PostgreSQL another process may have tracked them at the same moment: they are known by now.
        raced = {job_id: labels for job_id, labels in new.items() if job_id not in added}
        return report + self._track_chunk(account, raced, again) if raced else report

    # Polling

    def poll_not_before(self, account: str) -> int:
        """Return the moment before which Akool asked this account not to call again; 0 for none."""
        with self._database.read() as connection:
            query = sa.select(accounts.c.poll_not_before).where(accounts.c.account == account)
            return int(connection.execute(query).scalar() or 0)

    def hold_polling(self, account: str, until: int) -> None:
        """Remember that Akool asked this account not to call again before a moment."""
        statement = self._database.insert(accounts).values(account=account, poll_not_before=until)
        statement = statement.on_conflict_do_update(
            index_elements=[accounts.c.account], set_={"poll_not_before": until}
        )
        with self._database.write() as connection:
            connection.execute(statement)

    def mend_schedule(self, account: str) -> None:
        """Set to now what lies further ahead than any wait is: it was set under a clock that has been set back since.

        Due moments would be waited for, and the age that a job is given up at would not begin to count.
        """
        now = self._clock.now_ms()
        moments = (
            (jobs.c.next_poll_at, IS_PENDING),
            (jobs.c.watched_since, IS_PENDING),
            (jobs.c.video_next_at, VIDEO_IS_PENDING),
        )
        with self._database.write() as connection:
            for column, waiting in moments:
                far = (jobs.c.account == account, waiting, column > now + LONGEST_WAIT_MS)
                # What is locked is being given a new moment now; waiting for it out of order could deadlock.
                free = sa.select(jobs.c.job_id).where(*far).with_for_update(skip_locked=True)
                connection.execute(sa.update(jobs).where(*far, jobs.c.job_id.in_(free)).values({column: now}))

    def claim(self, account: str, limit: int) -> list[ClaimedJob]:
        """Take due ids, longest due first, and reserve them for two minutes.

        A tick that overran goes on beside the next one: the reservation keeps them from asking the same ids.
        """
        now = self._clock.now_ms()
        due = due_query(account, now, limit)
        if not self._database.is_sqlite:
            due = due.with_for_update(skip_locked=True)
        with self._database.write() as connection:
            claimed = [ClaimedJob(job_id=row.job_id, poll_alone=row.poll_alone) for row in connection.execute(due)]
            self._set_next_poll(connection, account, [job.job_id for job in claimed], now + CLAIM_MS)
        return claimed

    def release(self, account: str, job_ids: Iterable[str], *, until: int) -> None:
        """Give claimed ids back without an answer: due again at the given moment."""
        for chunk in chunks(job_ids):
            with self._database.write() as connection:
                held = [job.job_id for job in locked_jobs(connection, account, chunk)]
                self._set_next_poll(connection, account, held, until)

    def _set_next_poll(self, connection: sa.Connection, account: str, ids: Sequence[str], at: int) -> None:
        for chunk in chunks(ids):
            connection.execute(SET_NEXT_POLL, {"key_account": account, "ids": chunk, "at": at})

    def record(self, account: str, observations: Sequence[Observation], look_again: LookAgain) -> RecordReport:
        """Record what one call said, 500 jobs a transaction. Final jobs and unknown ids are left as they are."""
        seen = {observation.job_id: observation for observation in observations}
        now = self._clock.now_ms()
        report = RecordReport()
        for chunk in chunks(list(seen)):
            with self._database.write() as connection:
                before = locked_jobs(connection, account, chunk)
                changes = [(job, observe(job, seen[job.job_id], now, look_again, self._limits)) for job in before]
                report += self._write_observed(connection, account, changes)
        return report

    def _write_observed(self, connection: sa.Connection, account: str, changes: list[tuple[Job, Job]]) -> RecordReport:
        changes = [(before, after) for before, after in changes if before != after]
        shown = sum(shows_differently(before, after) for before, after in changes)
        revision = next_revision(connection, self._clock.now_ms()) if shown else 0
        write_changes(self._database, connection, account, changes, revision)
        ended = [after.state for before, after in changes if before.state != after.state]
        return RecordReport(
            completed=ended.count(JobState.COMPLETED),
            failed=ended.count(JobState.FAILED),
            missing=ended.count(JobState.MISSING),
            abandoned=ended.count(JobState.ABANDONED),
            changed=shown,
        )

    def keep_video_url(
        self, account: str, job_id: str, video_url: str, expires_at: int, *, is_first: bool = False
    ) -> None:
        """Keep a newer URL of a completed job's video; its end only moves on.

        Everything else stays as Akool reported it when the job settled: what it cost then is what it cost. The first
        usable URL of a job that completed without one asks for a landing: its row has none.
        """
        with self._database.write() as connection:
            for job in locked_jobs(connection, account, [job_id]):
                if job.state != JobState.COMPLETED or job.payload is None:
                    continue
                known = json.loads(job.payload)
                newer = known | {"video_url": video_url}
                if newer != known:
                    revision = next_revision(connection, self._clock.now_ms())
                    after = replace(
                        job,
                        payload=json.dumps(newer, ensure_ascii=False, separators=(",", ":")),
                        video_expires_at=max(job.video_expires_at or 0, expires_at),
                        revision=revision,
                        head=revision if is_first else job.head,
                    )
                    update_jobs(connection, account, [(job, after)])
                    if is_first:
                        raise_hours(self._database, connection, account, [after])

    # Videos

    def due_videos(self, account: str, start: int | None, end: int) -> list[DueVideo]:
        """Return the due videos of jobs with ``start <= partition_at < end``, first to expire first."""
        now = self._clock.now_ms()
        query = (
            sa.select(
                jobs.c.job_id,
                jobs.c.partition_at,
                jobs.c.payload,
                jobs.c.video_expires_at,
                jobs.c.video_attempts,
            )
            .where(jobs.c.account == account, VIDEO_IS_PENDING, jobs.c.video_next_at <= now)
            .where(jobs.c.partition_at < end)
            .order_by(jobs.c.video_expires_at, jobs.c.job_id)
        )
        if start is not None:
            query = query.where(jobs.c.partition_at >= start)
        with self._database.read() as connection:
            return [
                DueVideo(job_id=job_id, partition_at=at, payload=payload, expires_at=expires, attempts=attempts)
                for job_id, at, payload, expires, attempts in connection.execute(query)
            ]

    def store_video(self, account: str, job_id: str, record: Mapping[str, object]) -> None:
        """Record a verified, published video. ``record`` is what the manifest shows of the file."""
        self._settle_video(
            account,
            job_id,
            lambda job: replace(
                job,
                video_state=VideoState.STORED,
                video_next_at=None,
                video_error=None,
                video_record=json_text(record),
            ),
        )

    def fail_video(self, account: str, failure: VideoFailure) -> None:
        """Record a download that failed: to be tried again at a moment, or never."""
        self._settle_video(
            account,
            failure.job_id,
            lambda job: replace(
                job,
                video_state=VideoState.LOST if failure.next_at is None else VideoState.PENDING,
                video_next_at=failure.next_at,
                video_error=failure.error,
            ),
        )

    def _settle_video(self, account: str, job_id: str, change: Callable[[Job], Job]) -> None:
        with self._database.write() as connection:
            for job in locked_jobs(connection, account, [job_id]):
                if job.video_state == VideoState.PENDING:
                    after = replace(change(job), video_attempts=job.video_attempts + 1)
                    revision = next_revision(connection, self._clock.now_ms())
                    write_changes(self._database, connection, account, [(job, after)], revision)

    # Landing

    def heads(self, account: str) -> list[HourHead]:
        """Return the highest heads of every hour that has any."""
        query = sa.select(hours.c.hour_at, hours.c.head, hours.c.video_head).where(hours.c.account == account)
        with self._database.read() as connection:
            return [
                HourHead(hour_at=at, head=head, video_head=video_head)
                for at, head, video_head in connection.execute(query.order_by(hours.c.hour_at))
            ]

    def due_video_hours(self, account: str) -> list[DueVideos]:
        """Return, for every hour with videos to download now, how many and when the first URL dies."""
        hour_at = (jobs.c.partition_at - jobs.c.partition_at % HOUR_MS).label("hour_at")
        query = (
            sa.select(hour_at, sa.func.count(), sa.func.min(jobs.c.video_expires_at))
            .where(jobs.c.account == account, VIDEO_IS_PENDING)
            .where(jobs.c.video_next_at <= self._clock.now_ms())
            .group_by(hour_at)
            .order_by(hour_at)
        )
        with self._database.read() as connection:
            return [
                DueVideos(hour_at=at, due=due, earliest_expiry=expiry) for at, due, expiry in connection.execute(query)
            ]

    def snapshot(self, account: str, start: int, end: int) -> PartitionSnapshot:
        """Return the jobs with ``start <= partition_at < end`` sorted by id, and their highest revisions."""
        where = (jobs.c.account == account, jobs.c.partition_at >= start, jobs.c.partition_at < end)
        with self._database.read() as connection:
            found = [Job(*row) for row in connection.execute(sa.select(*JOB_COLUMNS).where(*where))]
        found.sort(key=lambda job: job.job_id)  # in Python: a database's collation may order ids differently
        return PartitionSnapshot(
            ledger_id=self.ledger_id,
            revision=max((job.revision for job in found), default=0),
            video_revision=max((job.video_revision for job in found), default=0),
            jobs=found,
        )

    def revision(self) -> int:
        """Return the ledger's counter."""
        with self._database.read() as connection:
            return int(connection.execute(sa.select(ledger.c.revision)).scalar_one())

    # Looking

    def counts(self, account: str, first_partition_at: int = 0, next_partition_at: int | None = None) -> Counts:
        """Return the account in numbers. The partitions start at the first moment; the next begins at the second."""
        now = self._clock.now_ms()
        mine = jobs.c.account == account
        by_state = (
            sa.select(jobs.c.state, jobs.c.status, jobs.c.video_state, sa.func.count())
            .where(mine)
            .group_by(jobs.c.state, jobs.c.status, jobs.c.video_state)
        )
        states: dict[str, int] = {}
        statuses: dict[str, int] = {}
        videos: dict[str, int] = {}
        with self._database.read() as connection:
            for state, status, video_state, number in connection.execute(by_state):
                states[state] = states.get(state, 0) + number
                if state == JobState.PENDING:
                    label = status_label(status)
                    statuses[label] = statuses.get(label, 0) + number
                if video_state is not None:
                    videos[video_state] = videos.get(video_state, 0) + number
            oldest = connection.execute(sa.select(sa.func.min(jobs.c.watched_since)).where(mine, IS_PENDING)).scalar()
            due = sa.select(sa.func.count()).where(mine, IS_PENDING)
            due_now = connection.execute(due.where(jobs.c.next_poll_at <= now)).scalar_one()
            overdue = connection.execute(due.where(jobs.c.next_poll_at <= now - OVERDUE_MS)).scalar_one()
            all_mine = sa.select(sa.func.count()).where(mine)
            early = all_mine.where(jobs.c.partition_at < first_partition_at)
            waiting = all_mine.where(VIDEO_IS_PENDING, jobs.c.video_next_at > now)
            late = all_mine.where(jobs.c.partition_at >= next_partition_at) if next_partition_at else None
            return Counts(
                states=states,
                pending_statuses=statuses,
                videos=videos,
                oldest_pending_ms=None if oldest is None else max(0, now - oldest),
                due=due_now,
                overdue=overdue,
                before_first_partition=connection.execute(early).scalar_one(),
                after_current_partition=0 if late is None else connection.execute(late).scalar_one(),
                videos_waiting=connection.execute(waiting).scalar_one(),
            )

    def iter_jobs(self, account: str, state: str | None = None) -> Iterator[Job]:
        """Yield the account's jobs by id, a page at a time."""
        query = sa.select(*JOB_COLUMNS).where(jobs.c.account == account).order_by(jobs.c.job_id).limit(CHUNK)
        if state is not None:
            query = query.where(jobs.c.state == state)
        last = ""
        while True:
            with self._database.read() as connection:
                page = [Job(*row) for row in connection.execute(query.where(jobs.c.job_id > last))]
            if not page:
                return
            yield from page
            last = page[-1].job_id
