"""One account's part of the ledger: its jobs, their numbers, and the parts that polling and landing use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger.adoption import Adoption
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.inspection import Inspection
from akool_dagster.ledger.landings import LandingLedger
from akool_dagster.ledger.leases import Leases
from akool_dagster.ledger.polling import PollingLedger
from akool_dagster.ledger.pruning import Pruning
from akool_dagster.ledger.records import Counts, Job, JobState, status_label
from akool_dagster.ledger.rows import CHUNK, JOB_COLUMNS
from akool_dagster.ledger.schema import IS_PENDING, VIDEO_IS_PENDING, jobs
from akool_dagster.ledger.tracking import Tracking
from akool_dagster.ledger.transitions import Limits
from akool_dagster.ledger.videos import VideoLedger

OVERDUE_MS = 600_000


class AccountLedger(Tracking):
    """The jobs of one account. Get one with `JobLedger.account`.

    Every method is one or a few short transactions; none makes an HTTP call. Raises `LedgerError` leaves.
    Example: ``ledger.account("akool").track([TrackRequest(job_id="66f2b1c09d3e4a0012345678")])``.
    """

    def __init__(self, database: Database, account: str, ledger_id: str, clock: Clock, limits: Limits) -> None:
        super().__init__(database, account, clock)
        part = (database, account, clock)
        self.name = account
        self.ledger_id = ledger_id
        self.polling = PollingLedger(*part, limits)
        self.videos = VideoLedger(*part)
        self.landings = LandingLedger(*part)
        self.leases = Leases(*part)
        self.pruning = Pruning(*part)
        self.adoption = Adoption(*part)
        self.inspection = Inspection(*part)

    def jobs(self, state: str | None = None) -> Iterator[Job]:
        """Yield the account's jobs by id, a page at a time."""
        query = sa.select(*JOB_COLUMNS).where(jobs.c.account == self.name).order_by(jobs.c.job_id).limit(CHUNK)
        if state is not None:
            query = query.where(jobs.c.state == state)
        last = ""
        while page := [Job(*row) for row in self._database.rows(query.where(jobs.c.job_id > last))]:
            yield from page
            last = page[-1].job_id

    def counts(self, first_partition_at: int = 0, next_partition_at: int = END_OF_TIME) -> Counts:
        """Return the account in numbers. The partitions start at the first time; the next begins at the second."""
        now = self._clock.now_ms()
        mine = jobs.c.account == self.name
        kinds = (jobs.c.state, jobs.c.status, jobs.c.video_state)
        states, statuses, videos = Counter[str](), Counter[str](), Counter[str]()
        with self._database.read() as connection:

            def count(*where: sa.ColumnElement[bool]) -> int:
                return int(connection.execute(sa.select(sa.func.count()).where(mine, *where)).scalar_one())

            by_kind = sa.select(*kinds, sa.func.count()).where(mine).group_by(*kinds)
            for state, status, video_state, number in connection.execute(by_kind):
                states[state] += number
                if state == JobState.PENDING:
                    statuses[status_label(status)] += number
                if video_state is not None:
                    videos[video_state] += number
            oldest = connection.execute(sa.select(sa.func.min(jobs.c.watched_since)).where(mine, IS_PENDING)).scalar()
            return Counts(
                states=dict(states),
                pending_statuses=dict(statuses),
                videos=dict(videos),
                oldest_pending_ms=None if oldest is None else max(0, now - oldest),
                due=count(IS_PENDING, jobs.c.next_poll_at <= now),
                overdue=count(IS_PENDING, jobs.c.next_poll_at <= now - OVERDUE_MS),
                before_first_partition=count(jobs.c.partition_at < first_partition_at),
                after_current_partition=count(jobs.c.partition_at >= next_partition_at),
                videos_waiting=count(VIDEO_IS_PENDING, jobs.c.video_next_at > now),
            )
