"""One bounded pass over the due ids: few calls, each answer recorded at once. And when to look again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from akool_dagster.api.errors import (
    AkoolAccountError,
    AkoolConfigurationError,
    AkoolContentError,
    AkoolCredentialsError,
    AkoolDeadlineError,
    AkoolError,
    AkoolResponseError,
    AkoolThrottledError,
    AkoolTransientError,
)
from akool_dagster.api.models import ResultRow, ResultsAnswer
from akool_dagster.clock import Clock, Deadline
from akool_dagster.ledger import (
    Answered,
    ClaimedJob,
    JobLedger,
    Missed,
    Observation,
    RecordReport,
    Unreadable,
)

DEFAULT_IDS_PER_REQUEST = 50
"""Akool publishes no maximum."""

SHORTEST_LOOK_MS = 5_000
LONGEST_LOOK_MS = 600_000
LOOK_SHARE_OF_AGE = 0.2

PAUSE_AFTER_THROTTLE_MS = 30_000
"""When Akool throttles without saying for how long."""
PAUSE_AFTER_REFUSAL_MS = 300_000
"""When Akool refuses everything: each such pass costs two calls for every id."""
LONGEST_PAUSE_MS = 3_600_000
"""However long Akool asks us to wait: one odd ``Retry-After`` must not stop polling for good."""
RETRY_AFTER_TROUBLE_MS = 30_000
CALL_SHARE = 0.5
"""A call takes at most this share of the time that is left ..."""
SHORTEST_CALL_SECONDS = 5.0
"""... or this long: what never answers must leave time to ask for its halves."""
TROUBLES_BEFORE_STOP = 2
FAILURES_OF_AN_OUTAGE = 2
"""Calls that fail in a row, beyond those that it takes to halve down to one id, before the trouble is Akool's ..."""
FAILURES_AMONG_SUCCESSES = 6
"""... and when other calls of the pass were answered."""

NEEDS_THE_USER = (AkoolConfigurationError, AkoolCredentialsError, AkoolAccountError)
"""Nothing but the user's action helps; every job stays pending until then."""


def look_again_ms(age_ms: int) -> int:
    """Return how long to wait before a job that is watched for so long is polled again, in milliseconds.

    Detection lags by at most a fifth of a job's age, and the calls for a job grow with the logarithm of it.
    """
    return int(min(max(LOOK_SHARE_OF_AGE * age_ms, SHORTEST_LOOK_MS), LONGEST_LOOK_MS))


class ResultsApi(Protocol):
    """What polling needs of `akool_dagster.api.client.AkoolClient`."""

    @property
    def calls(self) -> int:
        """HTTP calls made so far, repeated ones included."""
        ...

    def results(self, ids: Sequence[str], *, deadline: Deadline | None = None) -> ResultsAnswer:
        """Return what Akool says about the ids."""
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


def observation_of(row: ResultRow, now_ms: int) -> Answered:
    """Return what a row says, as the ledger records it."""
    return Answered(
        job_id=row.job_id,
        status=row.status,
        payload=row.to_payload(),
        has_video_url=row.has_usable_video_url,
        video_expires_at=row.expires_ms(now_ms),
        failure_reason=row.failure_reason,
    )


def run_poll_pass(
    ledger: JobLedger,
    api: ResultsApi,
    account: str,
    *,
    clock: Clock,
    deadline: Deadline,
    ids_per_request: int = DEFAULT_IDS_PER_REQUEST,
) -> PollReport:
    """Poll what is due, longest due first, until nothing is or the deadline is near; record each answer at once.

    Every job whose answer was not recorded stays as it was. Raises `AkoolCredentialsError`, `AkoolAccountError`
    or `AkoolConfigurationError` when no call can work until the user acts, and `LedgerError`.
    """
    if ids_per_request < 1:
        raise ValueError(f"ids_per_request must be at least 1, not {ids_per_request}")
    ledger.mend_schedule(account)
    pause_ms = ledger.poll_not_before(account) - clock.now_ms()
    if 0 < pause_ms <= LONGEST_PAUSE_MS:  # a longer one was noted under a clock that was set back since
        return PollReport(stopped=f"polling pauses for another {pause_ms / 1000:.0f} s, as Akool's answers asked")
    return _PollPass(ledger, api, account, clock, deadline).run(ids_per_request)


class _PollPass:
    def __init__(self, ledger: JobLedger, api: ResultsApi, account: str, clock: Clock, deadline: Deadline) -> None:
        self._ledger = ledger
        self._api = api
        self._account = account
        self._clock = clock
        self._deadline = deadline
        self._calls_before = api.calls
        self._report = PollReport()
        self._troubles: list[str] = []  # of the latest calls in a row
        # The answers of a first call whose every id was refused alike. Recorded unless a second call fares no better.
        self._suspect: list[Missed] = []
        self._account_works = False

    def run(self, ids_per_request: int) -> PollReport:
        while self._may_go_on():
            claimed = self._ledger.claim(self._account, ids_per_request)
            if not claimed:
                break
            unasked = list(claimed)
            try:
                for call in _calls_for(claimed):
                    if not self._may_go_on():
                        break
                    unasked = [job for job in unasked if job not in call]
                    self._poll(call)
            finally:
                now = self._clock.now_ms()
                self._ledger.release(self._account, [job.job_id for job in unasked], until=now)
        self._record(self._suspect)
        if self._troubles and self._report.stopped is None:
            self._stop(self._troubles[-1])  # the last call was in trouble, and perhaps it was the only one
        return replace(self._report, calls=self._api.calls - self._calls_before)

    def _may_go_on(self) -> bool:
        return self._report.stopped is None and not self._deadline.expired()

    def _poll(self, call: Sequence[ClaimedJob]) -> None:
        seen: list[Observation] = []
        try:
            self._ask([job.job_id for job in call], seen)
        except NEEDS_THE_USER:
            self._record_part(call, seen, self._clock.now_ms())
            self._release(self._suspect)
            raise
        except AkoolDeadlineError:
            self._record_part(call, seen, self._clock.now_ms())
            self._stop("the tick's time was over")
        except AkoolThrottledError as error:
            pause_ms = PAUSE_AFTER_THROTTLE_MS if error.retry_after is None else int(error.retry_after * 1000)
            pause_ms = min(pause_ms, LONGEST_PAUSE_MS)
            self._record_part(call, seen, self._clock.now_ms())
            self._ledger.hold_polling(self._account, self._clock.now_ms() + pause_ms)
            self._stop(f"{error} Polling goes on in {pause_ms / 1000:.0f} s.")
        except AkoolError as error:
            self._record_part(call, seen, self._clock.now_ms() + RETRY_AFTER_TROUBLE_MS)
            if len(call) > 1:
                self._stop(str(error))  # its parts failed too: an outage, or an address that is not Akool's
            else:
                self._trouble(str(error))
        else:
            self._judge(call, seen)
            if not call[0].poll_alone and all(
                isinstance(one, Unreadable) for one in seen
            ):  # taking a call apart costs two calls for every id
                self._trouble("Akool's answers cannot be read; the ledger's jobs say why")
            else:
                self._troubles = []

    def _ask(self, ids: Sequence[str], seen: list[Observation]) -> None:
        """Ask for the ids; when a call of several fails without one of Akool's codes, in halves, until too many fail.

        An id whose mere presence makes Akool answer HTTP 500 must not hold up the ids it happens to be asked with,
        and a gateway may refuse a call for its length. The first half is halved first: an id that failed alone is
        parted from the others for good, also when everything that was asked fails. When the time is over before,
        those of the last part that failed are asked for alone from then on.
        """
        parts = [ids]
        suspects: dict[str, str] = {}
        failures = 0
        alone: dict[str, str] = {}
        try:
            while parts:
                part = parts.pop(0)
                try:
                    self._ask_in_halves(part, seen)
                except AkoolDeadlineError:
                    known = {one.job_id for one in seen} | alone.keys()
                    seen.extend(
                        Unreadable(job_id=job_id, error=error, alone=True, is_certain=False)
                        for job_id, error in suspects.items()
                        if job_id not in known
                    )
                    raise
                except (AkoolTransientError, AkoolResponseError) as error:
                    failures += 1
                    suspects = dict.fromkeys(part, str(error))
                    if len(part) == 1:
                        alone[part[0]] = str(error)
                    known = {one.job_id for one in seen} | alone.keys()
                    parts = [*_halves([job_id for job_id in part if job_id not in known]), *parts]
                    patience = FAILURES_AMONG_SUCCESSES if self._account_works else FAILURES_OF_AN_OUTAGE
                    if failures >= len(ids).bit_length() + patience or not (parts or self._account_works):
                        raise
                else:
                    failures = 0
                    self._account_works = self._account_works or any(isinstance(one, Answered) for one in seen)
        finally:
            seen.extend(
                Unreadable(job_id=job_id, error=error, alone=True, is_certain=self._account_works)
                for job_id, error in alone.items()
            )

    def _ask_in_halves(self, ids: Sequence[str], seen: list[Observation]) -> None:
        """Ask for the ids; when Akool objects to one without saying which, in halves until it stands alone."""
        try:
            answer = self._results(ids)
        except (AkoolContentError, AkoolResponseError) as error:
            if error.code is None:
                raise
            if len(ids) > 1:
                for half in _halves(ids):
                    self._ask_in_halves(half, seen)
            elif isinstance(error, AkoolContentError):
                seen.append(Missed(job_id=ids[0], code=error.code, alone=True))
            else:
                seen.append(Unreadable(job_id=ids[0], error=str(error), alone=True))
            return
        now = self._clock.now_ms()
        seen.extend(observation_of(row, now) for row in answer.rows.values())
        seen.extend(Unreadable(job_id=job_id, error=why) for job_id, why in answer.unparsable.items())
        seen.extend(Missed(job_id=job_id) for job_id in answer.missing)

    def _results(self, ids: Sequence[str]) -> ResultsAnswer:
        left = self._deadline.remaining()
        share = min(left, max(SHORTEST_CALL_SECONDS, CALL_SHARE * left))
        try:
            return self._api.results(ids, deadline=Deadline(self._clock, share))
        except AkoolDeadlineError as error:
            if self._deadline.expired():
                raise
            raise AkoolTransientError(error.message, code=error.code) from error

    def _judge(self, call: Sequence[ClaimedJob], seen: Sequence[Observation]) -> None:
        """Record a call's answers, unless it looks as if Akool refuses the account and not the ids."""
        self._account_works = self._account_works or any(isinstance(one, Answered) for one in seen)
        refused = [one for one in seen if isinstance(one, Missed) and one.code is not None]
        alike = len(refused) == len(call) and len({one.code for one in refused}) == 1
        if alike and call[0].poll_alone:  # it was refused before, and says nothing of the others
            self._record(seen)
        elif not alike or self._account_works or (len(call) == 1 and not self._suspect):
            self._record(self._suspect)
            self._suspect = []
            self._record(seen)
        elif not self._suspect or self._suspect[0].code != refused[0].code:
            self._record(self._suspect)
            self._suspect = refused
        else:
            code = refused[0].code
            self._release([*self._suspect, *refused])
            self._ledger.hold_polling(self._account, self._clock.now_ms() + PAUSE_AFTER_REFUSAL_MS)
            raise AkoolAccountError(
                f"Akool refused every id of two calls with code {code}: this account may not read these results. "
                "Check that AKOOL_API_KEY belongs to the account that made the jobs and that its plan has the "
                "Image to Video API. Every job stays pending; polling goes on in "
                f"{PAUSE_AFTER_REFUSAL_MS // 60_000} minutes.",
                code=code,
            )

    def _record_part(self, call: Sequence[ClaimedJob], seen: Sequence[Observation], until: int) -> None:
        """Record what a broken-off call did answer and give the rest back.

        Refusals are not recorded: the call broke off before it was clear whether they are about the ids. The
        rest comes back in two halves, half a minute apart, so that an id whose mere presence makes Akool answer
        HTTP 500 is parted from the others within a few passes.
        """
        answered = [one for one in seen if not (isinstance(one, Missed) and one.code is not None)]
        self._record(answered)
        known = {one.job_id for one in answered}
        rest = [job.job_id for job in call if job.job_id not in known]
        middle = (len(rest) + 1) // 2
        self._ledger.release(self._account, rest[:middle], until=until)
        later = until if until <= self._clock.now_ms() else until + RETRY_AFTER_TROUBLE_MS
        self._ledger.release(self._account, rest[middle:], until=later)

    def _release(self, seen: Sequence[Observation]) -> None:
        self._ledger.release(self._account, [one.job_id for one in seen], until=self._clock.now_ms())

    def _record(self, seen: Sequence[Observation]) -> None:
        if not seen:
            return
        recorded = self._ledger.record(self._account, seen, look_again_ms)
        self._report = replace(
            self._report,
            polled=self._report.polled + len(seen),
            recorded=self._report.recorded + recorded,
            unreadable=self._report.unreadable + sum(isinstance(one, Unreadable) for one in seen),
            not_returned=self._report.not_returned + sum(isinstance(one, Missed) for one in seen),
        )

    def _trouble(self, reason: str) -> None:
        self._troubles.append(reason)
        if len(self._troubles) >= TROUBLES_BEFORE_STOP:
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        self._report = replace(self._report, stopped=reason)


def _halves(ids: Sequence[str]) -> list[Sequence[str]]:
    middle = len(ids) // 2
    return [half for half in (ids[:middle], ids[middle:]) if half]


def _calls_for(claimed: Sequence[ClaimedJob]) -> Iterator[Sequence[ClaimedJob]]:
    together = [job for job in claimed if not job.poll_alone]
    if together:
        yield together
    for job in claimed:
        if job.poll_alone:
            yield [job]
