"""Poll passes of one account with a real ledger and a scripted Akool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from akool_dagster.api.errors import AkoolError
from akool_dagster.base.clock import Deadline
from akool_dagster.ledger import AccountLedger, Job, JobState, TrackRequest
from akool_dagster.polling import PollReport, ResultsApi, run_poll_pass
from tests.clock import FakeClock
from tests.scripted_api import Hook, job_id, refusal, row

ACCOUNT = "akool"
IDS = [job_id(number) for number in range(12)]
ROWS = {identifier: row(identifier) for identifier in IDS}
PROCESSING = {identifier: row(identifier, status=2) for identifier in IDS}


@dataclass
class Passes:
    """Passes over the jobs of an account. One call at a time unless told otherwise, so that their order is known."""

    account: AccountLedger
    clock: FakeClock

    def track(self, ids: Iterable[str]) -> None:
        self.account.track([TrackRequest(job_id=identifier) for identifier in ids])

    def poll(
        self, api: ResultsApi, *, seconds: float = 45.0, concurrent_requests: int = 1, **options: Any
    ) -> PollReport:
        deadline = Deadline(self.clock, seconds)
        return run_poll_pass(
            self.account,
            api,
            clock=self.clock,
            deadline=deadline,
            concurrent_requests=concurrent_requests,
            **options,
        )

    def jobs(self) -> dict[str, Job]:
        return {job.job_id: job for job in self.account.jobs()}

    def settled(self) -> list[str]:
        return [job.job_id for job in self.account.jobs() if job.state != JobState.PENDING]

    def waits(self) -> dict[str, float]:
        """Return the seconds until each pending job is due; 0 for due now."""
        now = self.clock.now_ms()
        return {job.job_id: max(0, job.next_poll_at - now) / 1000 for job in self.account.jobs(JobState.PENDING)}

    def due(self) -> list[str]:
        return [identifier for identifier, wait in self.waits().items() if wait == 0]

    def sizes(self) -> dict[str, int]:
        """Return the call sizes of the pending jobs that have one."""
        pending = self.account.jobs(JobState.PENDING)
        return {job.job_id: job.call_size for job in pending if job.call_size is not None}


def failing(error: BaseException, *calls: int) -> Hook:
    """Return a hook that raises at the calls with these numbers, or at every call."""
    return lambda number, ids: error if not calls or number in calls else None


def refused(*numbers: int, code: int = 1008) -> dict[str, AkoolError]:
    return {IDS[number]: refusal(code) for number in numbers}
