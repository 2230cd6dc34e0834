"""The faults the emulator can be told to show: what each one does is a table, which are on is a switch."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from akool_dagster.emulator.answers import Answer, access_denied, envelope, gateway_error
from akool_dagster.emulator.jobs import EmulatedJob, Row


class Endpoint(StrEnum):
    """The places a request can go to, named after the end of Akool's paths."""

    RESULTS = "resultsByIds"
    TOKEN = "getToken"  # noqa: S105 - an endpoint's name
    CREDIT = "quota/info"
    CDN = "cdn"


API = frozenset({Endpoint.RESULTS, Endpoint.TOKEN, Endpoint.CREDIT})
EVERYWHERE = API | {Endpoint.CDN}


class Break(Enum):
    """How a connection ends before its answer does."""

    RESET = "reset instead of any answer"
    SHORT = "closed after half of the body, under the Content-Length of the whole"


@dataclass(frozen=True, kw_only=True)
class FaultKind:
    """What a fault does. One of the last four says it; the others say where it may happen.

    ``answer`` is sent in place of the real one, ``breaks`` ends the connection, ``row`` turns a row of
    ``resultsByIds`` into the rows to send for it, and ``job`` changes the job itself, for good.
    """

    name: str
    summary: str
    allowed: frozenset[Endpoint]
    default: frozenset[Endpoint]
    takes_retry_after: bool = False
    answer: Answer | None = None
    breaks: Break | None = None
    row: Callable[[Row], Sequence[Row]] | None = None
    job: Callable[[EmulatedJob], EmulatedJob] | None = None

    @property
    def is_of_one_job(self) -> bool:
        """Whether it happens to one job of a call, and not to the call."""
        return self.row is not None or self.job is not None


def _fails(job: EmulatedJob) -> EmulatedJob:
    reason = job.failure_reason or "The video could not be generated, check your input resources."
    return replace(job, outcome="failed", queue_polls=0, processing_polls=0, failure_reason=reason)


_RESULTS = frozenset({Endpoint.RESULTS})
_CDN = frozenset({Endpoint.CDN})

FAULT_KINDS: Mapping[str, FaultKind] = {
    kind.name: kind
    for kind in (
        FaultKind(
            name="1005",
            summary="the call is throttled by Akool",
            allowed=API,
            default=API,
            takes_retry_after=True,
            answer=envelope(1005, "Operation is too frequent"),
        ),
        FaultKind(
            name="429",
            summary="the call is throttled by the gateway",
            allowed=EVERYWHERE,
            default=API,
            takes_retry_after=True,
            answer=gateway_error(429, "Too Many Requests"),
        ),
        FaultKind(
            name="502",
            summary="the gateway finds nobody behind it and answers HTML",
            allowed=EVERYWHERE,
            default=API,
            takes_retry_after=True,
            answer=gateway_error(502, "Bad Gateway"),
        ),
        FaultKind(
            name="reset",
            summary="the connection is reset before any answer",
            allowed=EVERYWHERE,
            default=API,
            breaks=Break.RESET,
        ),
        FaultKind(
            name="short_body",
            summary="the body ends before its Content-Length",
            allowed=EVERYWHERE,
            default=_CDN,
            breaks=Break.SHORT,
        ),
        FaultKind(
            name="expired_url",
            summary="the video's address is refused as if its lifetime were over",
            allowed=_CDN,
            default=_CDN,
            answer=access_denied(),
        ),
        FaultKind(
            name="missing_row",
            summary="the row of an existing job is left out",
            allowed=_RESULTS,
            default=_RESULTS,
            row=lambda row: (),
        ),
        FaultKind(
            name="failed_job",
            summary="the job fails at once, and stays failed",
            allowed=_RESULTS,
            default=_RESULTS,
            job=_fails,
        ),
    )
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Fault:
    """A fault that is switched on, and what it is limited to. None means no limit."""

    kind: FaultKind
    endpoints: frozenset[Endpoint]
    times: int | None
    job_id: str | None
    probability: float
    retry_after: str | None

    @property
    def answer(self) -> Answer | None:
        """The answer in place of the real one, with its ``Retry-After``."""
        if self.kind.answer is None or self.retry_after is None:
            return self.kind.answer
        return self.kind.answer.with_headers({"Retry-After": self.retry_after})


class FaultSwitch:
    """Which faults are on. Safe for many threads; chances are drawn from a generator with the emulator's seed."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._lock = threading.Lock()
        self._times_left: dict[Fault, float] = {}

    @property
    def active(self) -> tuple[Fault, ...]:
        """The faults that are on, in the order they were added."""
        with self._lock:
            return tuple(self._times_left)

    def add(
        self,
        name: str,
        *,
        times: int | None = None,
        job_id: str | None = None,
        endpoint: str | None = None,
        probability: float = 1.0,
        retry_after: float | str | None = None,
    ) -> Fault:
        """Switch a fault on and return it.

        ``times`` is how often it happens before it goes off by itself (None: until removed); faults of a job
        count rows, the others calls. ``job_id`` limits it to that job, or to calls that ask for it. ``endpoint``
        is one of `Endpoint`; without it the kind's default counts: throttling, 502 and reset hit the API only.
        ``retry_after`` is sent as given, in seconds or as an HTTP date. Raises ``ValueError`` for an unknown name
        and for options that the kind does not have.
        """
        kind = FAULT_KINDS.get(name)
        if kind is None:
            raise ValueError(f"There is no fault {name!r}. The faults are {', '.join(sorted(FAULT_KINDS))}.")
        endpoints = kind.default if endpoint is None else frozenset({Endpoint(endpoint)})
        if not endpoints <= kind.allowed:
            raise ValueError(f"The fault {name!r} cannot happen at {endpoint!r}.")
        if retry_after is not None and not kind.takes_retry_after:
            raise ValueError(f"The fault {name!r} sends no Retry-After.")
        if times is not None and times < 1:
            raise ValueError(f"A fault happens at least once, not {times} times.")
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"A probability is between 0 and 1, not {probability}.")
        fault = Fault(
            kind=kind,
            endpoints=endpoints,
            times=times,
            job_id=job_id,
            probability=probability,
            retry_after=None if retry_after is None else str(retry_after),
        )
        with self._lock:
            self._times_left[fault] = float("inf") if times is None else times
        return fault

    def remove(self, fault: Fault) -> None:
        """Switch one fault off; one that is off already stays off."""
        with self._lock:
            self._times_left.pop(fault, None)

    def clear(self) -> None:
        """Switch every fault off."""
        with self._lock:
            self._times_left.clear()

    def take_for_call(self, endpoint: Endpoint, job_ids: Collection[str]) -> Fault | None:
        """Return the first fault that happens to this whole call, and count it as happened."""
        return self._take(endpoint, job_ids, of_one_job=False)

    def take_for_job(self, job_id: str) -> Fault | None:
        """Return the first fault that happens to this job in a call, and count it as happened."""
        return self._take(Endpoint.RESULTS, (job_id,), of_one_job=True)

    def _take(self, endpoint: Endpoint, job_ids: Collection[str], *, of_one_job: bool) -> Fault | None:
        if not self._times_left:
            return None
        with self._lock:
            for fault, times_left in self._times_left.items():
                if (
                    fault.kind.is_of_one_job == of_one_job
                    and endpoint in fault.endpoints
                    and (fault.job_id is None or fault.job_id in job_ids)
                    and (fault.probability == 1.0 or self._rng.random() < fault.probability)
                ):
                    if times_left <= 1:
                        del self._times_left[fault]
                    else:
                        self._times_left[fault] = times_left - 1
                    return fault
        return None
