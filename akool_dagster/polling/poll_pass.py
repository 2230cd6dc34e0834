"""One bounded pass over the due ids: few calls, several at a time, each answer recorded as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from akool_dagster.api.errors import (
    AkoolAccountError,
    AkoolConfigurationError,
    AkoolContentError,
    AkoolCredentialsError,
    AkoolDeadlineError,
    AkoolError,
    AkoolThrottledError,
)
from akool_dagster.api.models import ResultsAnswer
from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.ledger import (
    AccountLedger,
    Answered,
    ClaimedJob,
    Missed,
    Observation,
    Polling,
    RecordReport,
    Unanswered,
    Unreadable,
)
from akool_dagster.polling.call_plan import Call, CallPlan
from akool_dagster.polling.observations import observations_of
from akool_dagster.polling.schedule import (
    LONGEST_PAUSE_MS,
    RETRY_AFTER_FAILURES_MS,
    RETRY_AFTER_REFUSALS_MS,
    Pace,
    call_seconds,
    next_poll_delay_ms,
    throttle_pause_ms,
)
from akool_dagster.polling.workers import Workers

DEFAULT_IDS_PER_REQUEST = 50
"""Akool publishes no maximum."""
DEFAULT_CONCURRENT_REQUESTS = 4
LATE_CALL_SECONDS = 5.0
"""How long after its deadline a pass waits for calls that ignore theirs."""

NEEDS_THE_USER = (AkoolConfigurationError, AkoolCredentialsError, AkoolAccountError)
"""Nothing but the user's action helps; every job stays pending until then."""
PERHAPS_THE_ACCOUNT = frozenset({1003, 1009})
"""Codes that refuse an id or the whole account."""
TIME_IS_OVER = "the tick's time was over"


class ResultsApi(Protocol):
    """What polling needs of `akool_dagster.api.client.AkoolClient`. Several threads call it at once."""

    @property
    def calls(self) -> int:
        """HTTP calls made so far, repeated ones included."""
        ...

    def results(self, ids: Sequence[str], *, deadline: Deadline | None = None) -> ResultsAnswer:
        """Return what Akool says about the ids. Raises `AkoolError` no later than the deadline."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PollReport:
    """What a pass did, in numbers of ids. ``stopped``: why it ended before everything due was answered."""

    polled: int = 0
    calls: int = 0
    recorded: RecordReport = field(default_factory=RecordReport)
    unreadable: int = 0
    not_returned: int = 0
    """Left out of Akool's answer, or refused with a code."""
    stopped: str | None = None


def run_poll_pass(
    account: AccountLedger,
    api: ResultsApi,
    *,
    clock: Clock,
    deadline: Deadline,
    ids_per_request: int = DEFAULT_IDS_PER_REQUEST,
    concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS,
    requests_per_second: float | None = None,
) -> PollReport:
    """Poll what is due, longest due first, until nothing is or the deadline is near; record each answer at once.

    Threads make the calls, at most ``concurrent_requests`` at a time; only the caller's thread uses the ledger.
    ``requests_per_second`` spaces the calls; the client's own repeats of a failed call are not counted.
    Every job whose answer was not recorded stays as it was. Raises `AkoolCredentialsError`, `AkoolAccountError` or
    `AkoolConfigurationError` when no call can work until the user acts, `LedgerError`, and ValueError for a number
    of ids, calls or calls a second that is too small.
    """
    if ids_per_request < 1 or concurrent_requests < 1:
        raise ValueError(
            "ids_per_request and concurrent_requests must be at least 1, "
            f"not {ids_per_request} and {concurrent_requests}"
        )
    pace = Pace(requests_per_second)
    account.polling.clamp_future_schedule()
    pause_ms = account.polling.not_before() - clock.now_ms()
    if 0 < pause_ms <= LONGEST_PAUSE_MS:  # a longer pause was noted under a clock that was set back since
        return PollReport(stopped=f"polling pauses for another {pause_ms / 1000:.0f} s, as Akool's answers asked")
    return _PollPass(account, api, clock, deadline, pace, ids_per_request, concurrent_requests).run()


class _PollPass:
    def __init__(
        self,
        account: AccountLedger,
        api: ResultsApi,
        clock: Clock,
        deadline: Deadline,
        pace: Pace,
        ids_per_request: int,
        concurrent_requests: int,
    ) -> None:
        self._ledger = account.polling
        self._api = api
        self._clock = clock
        self._deadline = deadline
        self._pace = pace
        self._polling = Polling(next_poll_delay_ms=next_poll_delay_ms, ids_per_request=ids_per_request)
        self._concurrent_requests = concurrent_requests
        self._batch = ids_per_request * concurrent_requests
        self._limit = self._ledger.call_limit()
        self._plan = CallPlan(ids_per_request, self._limit)
        self._workers: Workers[Call, list[Observation]] = Workers()
        self._more_due = True
        self._next: Call | None = None
        self._answers: list[Observation] = []  # to be recorded
        self._claimed: dict[str, ClaimedJob] = {}  # without an answer so far
        self._asked: set[str] = set()
        self._retry_ms = 0
        self._hold_until = 0
        self._account_works = False
        self._doubtful: dict[str, AkoolError] = {}
        self._refusals_alone = True
        self._last_failure: AkoolError | None = None
        self._barred: AkoolError | None = None
        self._report = PollReport()
        self._calls_before = api.calls

    def run(self) -> PollReport:
        try:
            self._poll()
            if self._barred is not None:
                raise self._barred
            self._explain()
            if not self._retry_ms:  # else they are due again when the others are
                self._record_doubtful()
        finally:
            self._release()
        return replace(self._report, calls=self._api.calls - self._calls_before)

    def _poll(self) -> None:
        while True:
            while (ended := self._workers.take()) is not None:
                self._finish(*ended)
            delay = self._start_calls()  # before recording, so that no call waits for the ledger
            if self._answers:  # one transaction for all that came while the last one was written
                self._record(self._answers)
                self._answers = []
            elif delay is not None:
                self._workers.pause(self._clock, delay)
            elif not self._workers.running:
                return
            elif not self._workers.wait(self._deadline.remaining() + LATE_CALL_SECONDS):
                self._stop(TIME_IS_OVER)
                return

    def _start_calls(self) -> float | None:
        """Start what may be started now; return the seconds after which the pace allows the next call, if any waits."""
        while self._workers.running < self._plan.window(self._concurrent_requests) and self._may_go_on():
            call = self._next = self._next or self._next_call()
            if call is None:
                return None
            delay = self._pace.delay(self._clock.monotonic())
            if delay >= self._deadline.remaining():
                self._stop(TIME_IS_OVER)
            elif delay > 0:
                return delay
            else:
                self._start(call)
        return None

    def _may_go_on(self) -> bool:
        return self._report.stopped is None and self._barred is None and not self._deadline.expired()

    def _next_call(self) -> Call | None:
        while (call := self._plan.next_call(more_due=self._more_due)) is None and self._more_due:
            claimed = self._ledger.claim(self._batch)
            self._claimed |= {job.job_id: job for job in claimed}
            self._plan.add(claimed)
            self._more_due = len(claimed) == self._batch
        return call

    def _start(self, call: Call) -> None:
        self._next = None
        self._pace.begin(self._clock.monotonic())
        self._asked.update(call.ids)
        deadline = Deadline(self._clock, call_seconds(self._deadline.remaining()))
        self._workers.start(call, lambda: self._ask(call, deadline))

    def _ask(self, call: Call, deadline: Deadline) -> list[Observation]:
        return observations_of(self._api.results(call.ids, deadline=deadline), self._clock.now_ms())

    def _finish(self, call: Call, outcome: list[Observation] | BaseException) -> None:
        match outcome:
            case list():
                self._account_works = self._account_works or any(isinstance(one, Answered) for one in outcome)
                self._plan.answered(call)
                self._answers += outcome
            case AkoolConfigurationError() | AkoolCredentialsError() | AkoolAccountError():
                self._barred = self._barred or outcome
            case AkoolThrottledError():
                pause_ms = throttle_pause_ms(outcome.retry_after)
                self._hold_until = max(self._hold_until, self._clock.now_ms() + pause_ms)
                self._ledger.hold(self._hold_until)
                self._stop(f"{outcome} Polling goes on in {pause_ms / 1000:.0f} s.")
            case AkoolDeadlineError() if self._deadline.expired():
                self._stop(TIME_IS_OVER)
            case AkoolError():
                self._fail(call, outcome)
            case _:
                raise outcome
        if self._plan.limit != self._limit:
            self._limit = self._plan.limit
            self._ledger.set_call_limit(self._limit)

    def _fail(self, call: Call, error: AkoolError) -> None:
        """Halve the call; conclude what there is to conclude when it asked for one id alone."""
        self._last_failure = error
        self._refusals_alone = self._refusals_alone and isinstance(error, AkoolContentError)
        alone = call.jobs[0] if len(call.jobs) == 1 else None
        is_miss = alone is not None and self._is_miss(error)
        size = self._plan.refused(call) if is_miss else self._plan.failed(call)
        if alone is None or alone.call_size != size:
            self._ledger.set_call_size(call.ids, size)
        if alone is not None:
            if is_miss or self._account_works:
                self._record([self._concluded(alone.job_id, error)])
            else:
                self._doubtful[alone.job_id] = error
        if self._plan.must_stop:
            self._retry_ms = RETRY_AFTER_FAILURES_MS
            self._stop(str(error))

    def _record_doubtful(self) -> None:
        """Record the ids whose calls failed before it was clear whether Akool answers this account at all."""
        self._record([self._concluded(job_id, error) for job_id, error in self._doubtful.items()])

    def _concluded(self, job_id: str, error: AkoolError) -> Observation:
        """Return what a failed call for one id alone says of the job."""
        if self._is_miss(error):
            return Missed(job_id=job_id, code=error.code)
        return Unanswered(job_id=job_id, error=str(error), others_answered=self._account_works)

    def _is_miss(self, error: AkoolError) -> bool:
        """Return whether a failed call for one id alone means that Akool does not have the id."""
        return isinstance(error, AkoolContentError) and (self._account_works or error.code not in PERHAPS_THE_ACCOUNT)

    def _explain(self) -> None:
        """Say why the pass left something due, and why it had no answer if it had none."""
        error = self._last_failure
        if self._plan.answers or error is None:
            if (self._claimed or self._more_due) and self._deadline.expired():
                self._stop(TIME_IS_OVER)
            return
        if self._refusals_alone:
            self._retry_ms = RETRY_AFTER_REFUSALS_MS
            self._report = replace(
                self._report,
                stopped=f"Akool refused every call of this pass, the last one with code {error.code}. Check that "
                "AKOOL_API_KEY belongs to the account that made the jobs and that its plan has the Image to Video API. "
                f"Every job stays pending; these ids are asked for again in {RETRY_AFTER_REFUSALS_MS // 60_000} "
                "minutes.",
            )
        else:
            self._stop(str(error))

    def _record(self, observations: Sequence[Observation]) -> None:
        if not observations:
            return
        recorded = self._ledger.record(observations, self._polling)
        for observation in observations:
            self._claimed.pop(observation.job_id, None)
        self._report = replace(
            self._report,
            polled=self._report.polled + len(observations),
            recorded=self._report.recorded + recorded,
            unreadable=self._report.unreadable + sum(isinstance(one, Unreadable | Unanswered) for one in observations),
            not_returned=self._report.not_returned + sum(isinstance(one, Missed) for one in observations),
        )

    def _release(self) -> None:
        """Give back what has no answer: at its old time, or later where it was asked for in vain."""
        later = self._clock.now_ms() + self._retry_ms
        self._ledger.release(
            {
                job.job_id: later if self._retry_ms and job.job_id in self._asked else job.due_at
                for job in self._claimed.values()
            }
        )

    def _stop(self, reason: str) -> None:
        if self._report.stopped is None:
            self._report = replace(self._report, stopped=reason)
