"""Which ids to ask for together: a pure queue of calls that parts bad ids from good ones and learns how long to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from akool_dagster.ledger import ClaimedJob

FAILURES_BEFORE_STOP = 12
"""A pass stops after this many failed calls more than twice the answered ones."""
FIRST_WINDOW = 2
"""Calls at a time before the first answer: a pass that meets an outage spends its failures on few ids."""


@dataclass(slots=True, eq=False)
class _Split:
    """A call that failed and whose halves are asked for."""

    length: int
    answered_halves: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Jobs to ask for together."""

    jobs: tuple[ClaimedJob, ...]
    half_of: _Split | None = None

    @property
    def ids(self) -> list[str]:
        """Return the ids to ask for."""
        return [job.job_id for job in self.jobs]


class CallPlan:
    """Claimed jobs in, calls out; told of each call how it went.

    A job's ``call_size`` is the most ids in a call that asks for it. A call that failed comes back in halves before
    anything else is asked for. When both halves of a call are answered, and no call as long was answered in the pass,
    the call failed for its length: its half becomes the limit. One call at a time tries twice the limit; an answer
    lifts the limit, and a failure ends the trying for this pass.
    """

    def __init__(self, ids_per_request: int, limit: int | None) -> None:
        """``limit``: the longest call that Akool is known to answer, from earlier passes; None for no limit."""
        self._ids_per_request = ids_per_request
        self.limit = limit
        self._waiting: list[ClaimedJob] = []
        self._halves: list[Call] = []  # the last one is asked for next
        self._longest_answered = 0
        self._may_try_longer = True
        self.answers = 0
        self.failures = 0

    def add(self, jobs: Sequence[ClaimedJob]) -> None:
        """Take claimed jobs, longest due first."""
        self._waiting += jobs

    def window(self, concurrent_requests: int) -> int:
        """Return how many calls may be under way at once.

        One while failures prevail: calls that fail side by side would use up the failures that a pass may have before
        their ids are parted. Before that, no more than may fail together and still leave the failures that it takes to
        halve a call down to one id.
        """
        if self.failures > 2 * self.answers:
            return 1
        halvings = (self._ids_per_request - 1).bit_length()
        may_fail = 2 * self.answers + FAILURES_BEFORE_STOP - self.failures - halvings
        return max(1, min(concurrent_requests, FIRST_WINDOW + self.answers, may_fail))

    @property
    def must_stop(self) -> bool:
        """Whether so many calls failed that the trouble is not the ids'."""
        return self.failures >= 2 * self.answers + FAILURES_BEFORE_STOP

    def next_call(self, *, more_due: bool) -> Call | None:
        """Return what to ask for next, or None.

        With ``more_due``, jobs that do not fill a call wait for those that are still to be claimed, unless their
        call size was lowered: such jobs are rarely many, and must not wait until the end of every pass.
        """
        if self._halves:
            return self._next_half()
        length = self._length()
        whole = [job for job in self._waiting if _size(job, length) == length]
        if len(whole) >= length or (whole and not more_due):
            return self._take(whole[:length])
        lowered = [job for job in self._waiting if _size(job, length) < length]
        if not lowered:
            return None
        longest = min(length, self.limit or length)  # only whole calls try more than the limit
        size = max(_size(job, longest) for job in lowered)
        return self._take([job for job in lowered if _size(job, longest) == size][:size])

    def answered(self, call: Call) -> None:
        """Note that Akool answered the call."""
        self.answers += 1
        length = len(call.jobs)
        self._longest_answered = max(self._longest_answered, length)
        if self.limit is not None and length > self.limit:
            self.limit = length if length < self._ids_per_request else None
            self._may_try_longer = True
        split = call.half_of
        if split is not None:
            split.answered_halves += 1
            if split.answered_halves == 2 and self._longest_answered < split.length:
                self.limit = (split.length + 1) // 2

    def refused(self, call: Call) -> int:
        """Note that Akool answered a single id's call by refusing the id; return the new call size of its job."""
        self.answers += 1
        return _half(call)

    def failed(self, call: Call) -> int:
        """Note that the call failed; return the new call size of its jobs. Several jobs are asked for in halves."""
        self.failures += 1
        size = _half(call)
        if len(call.jobs) > 1:
            split = _Split(len(call.jobs))
            self._halves += [Call(call.jobs[size:], split), Call(call.jobs[:size], split)]
        return size

    def _length(self) -> int:
        if self.limit is None or self.limit >= self._ids_per_request:
            return self._ids_per_request
        return min(2 * self.limit, self._ids_per_request) if self._may_try_longer else self.limit

    def _next_half(self) -> Call:
        half = self._halves.pop()
        length = self._length()
        if len(half.jobs) > length:  # the limit became known while the half waited
            self._halves.append(Call(half.jobs[length:]))
            half = Call(half.jobs[:length])
        return self._noted(half)

    def _take(self, jobs: Sequence[ClaimedJob]) -> Call:
        taken = {job.job_id for job in jobs}
        self._waiting = [job for job in self._waiting if job.job_id not in taken]
        return self._noted(Call(tuple(jobs)))

    def _noted(self, call: Call) -> Call:
        if self.limit is not None and len(call.jobs) > self.limit:
            self._may_try_longer = False  # until it is answered
        return call


def _size(job: ClaimedJob, longest: int) -> int:
    return longest if job.call_size is None else min(job.call_size, longest)


def _half(call: Call) -> int:
    return (len(call.jobs) + 1) // 2
