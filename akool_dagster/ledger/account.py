"""One account's part of the ledger: the methods that users call, and the parts that polling and landing use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.ledger.adoption import Adoption
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.inspection import Inspection
from akool_dagster.ledger.landings import LandingLedger
from akool_dagster.ledger.leases import Leases
from akool_dagster.ledger.polling import PollingLedger
from akool_dagster.ledger.pruning import Pruning
from akool_dagster.ledger.records import Counts, Job, JobState, TrackReport, TrackRequest, status_label
from akool_dagster.ledger.rows import CHUNK, JOB_COLUMNS
from akool_dagster.ledger.schema import IS_PENDING, VIDEO_IS_PENDING, jobs
from akool_dagster.ledger.tracking import Tracking
from akool_dagster.ledger.transitions import Limits
from akool_dagster.ledger.videos import VideoLedger

OVERDUE_MS = 600_000


class AccountLedger:
    """The jobs of one account. Get one with `JobLedger.account`.

    Every method is one or a few short transactions; none makes an HTTP call. Raises `LedgerError` leaves.
    """

    def __init__(self, database: Database, account: str, ledger_id: str, clock: Clock, limits: Limits) -> None:
        self.name = account
        self.ledger_id = ledger_id
        self._database = database
        self._clock = clock
        self._limits = limits

    def track(self, requests: Iterable[TrackRequest], *, again: bool = False) -> TrackReport:
        """Watch these ids from now on. Idempotent: a known id only gains labels.

        With ``again``, missing and abandoned jobs are polled anew, and unverified and lost videos are tried once
        more. Forgotten jobs stay forgotten, and pruned ones as they are. All ids and labels are checked before
        anything is written; raises `InvalidJobError` for the first bad one.
        """
        return Tracking(self._database, self.name, self._clock).track(requests, again=again)

    def jobs(self, state: str | None = None) -> Iterator[Job]:
        """Yield the account's jobs by id, a page at a time."""
        query = sa.select(*JOB_COLUMNS).where(jobs.c.account == self.name).order_by(jobs.c.job_id).limit(CHUNK)
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

    @cached_property
    def polling(self) -> PollingLedger:
        """What a poll pass asks of the ledger."""
        return PollingLedger(self._database, self.name, self._clock, self._limits)

    @cached_property
    def videos(self) -> VideoLedger:
        """What became of the videos."""
        return VideoLedger(self._database, self.name, self._clock)

    @cached_property
    def landings(self) -> LandingLedger:
        """What has landed, what has not, and the rows that land."""
        return LandingLedger(self._database, self.name, self._clock)

    @cached_property
    def leases(self) -> Leases:
        """The leases of the partitions."""
        return Leases(self._database, self.name, self._clock)

    @cached_property
    def pruning(self) -> Pruning:
        """How old jobs are emptied, and how jobs are forgotten."""
        return Pruning(self._database, self.name, self._clock)

    @cached_property
    def adoption(self) -> Adoption:
        """How the ledger gets to know what landed tables show."""
        return Adoption(self._database, self.name, self._clock)

    @cached_property
    def inspection(self) -> Inspection:
        """What an operator asks of the jobs."""
        return Inspection(self._database, self.name)

    def counts(self, first_partition_at: int = 0, next_partition_at: int | None = None) -> Counts:
        """Return the account in numbers. The partitions start at the first time; the next begins at the second."""
        now = self._clock.now_ms()
        mine = jobs.c.account == self.name
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
