"""Which faults are on: for good or so many times, by chance, by script, or drawn at random."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Annotated, TypeVar

from pydantic import Field, validate_call

from akool_dagster.base.job_ids import normalise_id
from akool_dagster.emulator.answers import Answer
from akool_dagster.emulator.fault_kinds import FAULT_KINDS, Endpoint, FaultKind, Options

Step = str | Mapping[str, object] | None
_Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultSource:
    """Something that is switched on, and what it is limited to."""

    number: int
    endpoints: frozenset[Endpoint]
    job_id: str | None = None
    """The one job it happens to, or whose calls it happens to; None for any."""
    probability: float = 1.0

    def concerns(self, endpoint: Endpoint, job_ids: Collection[str]) -> bool:
        """Return whether it may happen to a whole call to the endpoint that asks for the jobs."""
        return endpoint in self.endpoints and (self.job_id is None or self.job_id in job_ids)

    def pick(self, endpoint: Endpoint, job_ids: Collection[str], left: float, chance: random.Random) -> Fault | None:
        """Return what happens to this call; ``left`` is how often the source still happens."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Fault(FaultSource):
    """A fault of one kind."""

    kind: FaultKind
    options: Options

    @property
    def answer(self) -> Answer | None:
        """The answer in place of the real one, with its ``Retry-After``."""
        answer = self.kind.answer(self.options) if callable(self.kind.answer) else self.kind.answer
        retry_after = self.options.get("retry_after")
        if answer is None or retry_after is None:
            return answer
        return answer.with_headers({"Retry-After": str(retry_after)})

    def concerns(self, endpoint: Endpoint, job_ids: Collection[str]) -> bool:
        return not self.kind.is_of_one_job and super().concerns(endpoint, job_ids)

    def pick(self, endpoint: Endpoint, job_ids: Collection[str], left: float, chance: random.Random) -> Fault:
        return self

    def happens_to(self, job_id: str, *, completed: bool) -> bool:
        """Return whether it is a fault of one job that can happen to this one."""
        return self.kind.is_of_one_job and self.job_id in (None, job_id) and (completed or not self.kind.of_completed)


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultScript(FaultSource):
    """What happens to the next calls, one step a call: a fault, or none."""

    steps: Sequence[Fault | None]

    def pick(self, endpoint: Endpoint, job_ids: Collection[str], left: float, chance: random.Random) -> Fault | None:
        return self.steps[-int(left)]


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomFaults(FaultSource):
    """Faults of several kinds, drawn anew for each call."""

    kinds: Sequence[FaultKind]
    hold_seconds: float

    def pick(self, endpoint: Endpoint, job_ids: Collection[str], left: float, chance: random.Random) -> Fault:
        kind = chance.choice([kind for kind in self.kinds if endpoint in kind.allowed])
        return Fault(
            number=self.number,
            kind=kind,
            endpoints=frozenset({endpoint}),
            job_id=chance.choice(sorted(job_ids)) if kind.is_of_one_job and job_ids else None,
            options={**kind.options, "seconds": self.hold_seconds},
        )


_Source = TypeVar("_Source", bound=FaultSource)


class FaultSwitch:
    """Which faults are on. Safe for many threads; chances are drawn from a generator with the emulator's seed.

    All methods raise ``ValueError`` for what makes no sense, and then switch nothing on. Example::

        emulator.faults.add("1005", times=2)
        emulator.faults.script(["502", None, "reset"], endpoint="cdn")
        emulator.faults.add_random(0.3)
        emulator.faults.clear()
    """

    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._times_left: dict[FaultSource, float] = {}

    @property
    def active(self) -> tuple[FaultSource, ...]:
        """What is on, in the order it was added."""
        with self._lock:
            return tuple(self._times_left)

    def times_left(self, source: FaultSource) -> int | None:
        """Return how often it still happens, or how many steps are left; None: until it is removed."""
        left = self._times_left.get(source, 0)
        return None if math.isinf(left) else int(left)

    @validate_call
    def add(
        self,
        name: str,
        /,
        *,
        times: Annotated[int, Field(ge=1)] | None = None,
        job_id: str | None = None,
        endpoint: str | None = None,
        probability: _Probability = 1.0,
        **options: object,
    ) -> Fault:
        """Switch a fault on and return it.

        ``times`` is how often it happens before it goes off by itself (None: until removed); faults of a job
        count rows, the others calls. ``job_id`` limits it to that job, or to calls that ask for it. ``endpoint``
        is one of `Endpoint`; without it the kind's default counts: throttling, 502 and reset hit the API only.
        ``options`` are the kind's own (`FaultKind.options`), such as ``retry_after``, which is sent as given, in
        seconds or as an HTTP date.
        """
        kind = _kind(name)
        endpoints = kind.default if endpoint is None else frozenset({_endpoint(endpoint)})
        fault = self._fault(kind, endpoints, job_id, options, probability)
        return self._switched_on(fault, math.inf if times is None else times)

    @validate_call
    def script(
        self,
        steps: Annotated[Sequence[Step], Field(min_length=1)],
        *,
        endpoint: str = "resultsByIds",
        job_id: str | None = None,
    ) -> FaultScript:
        """Let the next calls to the endpoint go as told, one step a call, and then as usual again.

        A step is None, the name of a fault, or a mapping with ``name`` and the kind's own options. With a
        ``job_id`` only calls that ask for that job take a step. A step decides its call: what else is on for
        whole calls does not happen to it.
        """
        endpoints = frozenset({_endpoint(endpoint)})
        parsed: list[Fault | None] = []
        for step in steps:
            options = {"name": step} if isinstance(step, str) else dict(step or {})
            kind = None if step is None else _kind(str(options.pop("name", None)))
            parsed.append(None if kind is None else self._fault(kind, endpoints, job_id, options))
        script = FaultScript(number=next(self._numbers), steps=parsed, endpoints=endpoints, job_id=_job_id(job_id))
        return self._switched_on(script, len(parsed))

    @validate_call
    def add_random(
        self,
        probability: _Probability,
        *,
        names: Sequence[str] | None = None,
        endpoint: str | None = None,
        hold_seconds: Annotated[float, Field(ge=0)] = 2.0,
    ) -> RandomFaults:
        """Let each call meet, with that probability, a random fault of those that its endpoint can show.

        Without ``names`` all kinds that pass by themselves are drawn from: whoever asks again often enough gets
        every job and every file. ``hold_seconds`` is how long ``latency``, ``timeout`` and ``slow_drip`` last;
        the last two end with a reset then, if the client has not left before.
        """
        kinds = [kind for kind in FAULT_KINDS.values() if kind.passes_by_itself] if names is None else _kinds(names)
        endpoints = frozenset(Endpoint) if endpoint is None else frozenset({_endpoint(endpoint)})
        endpoints &= frozenset[Endpoint]().union(*(kind.allowed for kind in kinds))
        if not endpoints:
            raise ValueError(f"None of these faults can happen at {endpoint!r}.")
        faults = RandomFaults(
            number=next(self._numbers),
            endpoints=endpoints,
            probability=probability,
            kinds=kinds,
            hold_seconds=hold_seconds,
        )
        return self._switched_on(faults, math.inf)

    def remove(self, source: FaultSource) -> None:
        """Switch one off; one that is off already stays off."""
        with self._lock:
            self._times_left.pop(source, None)

    def clear(self) -> None:
        """Switch everything off."""
        with self._lock:
            self._times_left.clear()

    def take_for_call(self, endpoint: Endpoint, job_ids: Collection[str]) -> Fault | None:
        """Return what happens to this whole call, and count it as happened.

        From a script or at random it may be a fault of one job, which then happens to the jobs of this call.
        """
        with self._lock:
            for source, left in self._times_left.items():
                if source.concerns(endpoint, job_ids) and self._happens(source):
                    self._count(source)
                    return source.pick(endpoint, job_ids, left, self.chance)
        return None

    def take_for_job(self, job_id: str, *, completed: bool = True) -> Fault | None:
        """Return the first fault that happens to this job in a call, and count it as happened."""
        with self._lock:
            for source in self._times_left:
                if not isinstance(source, Fault) or not source.happens_to(job_id, completed=completed):
                    continue
                if self._happens(source):
                    self._count(source)
                    return source
        return None

    def draw_seconds(self, fault: Fault) -> float:
        """Return how long this time: the fault's seconds, more or less by its jitter, and never below 0."""
        seconds, jitter = (float(fault.options.get(name) or 0.0) for name in ("seconds", "jitter"))
        return max(0.0, seconds + jitter * (2 * self.chance.random() - 1)) if jitter else seconds

    def _happens(self, source: FaultSource) -> bool:
        return source.probability == 1.0 or self.chance.random() < source.probability

    def _count(self, source: FaultSource) -> None:
        self._times_left[source] -= 1
        if self._times_left[source] < 1:
            del self._times_left[source]

    def _fault(
        self,
        kind: FaultKind,
        endpoints: frozenset[Endpoint],
        job_id: str | None,
        options: Mapping[str, object],
        probability: float = 1.0,
    ) -> Fault:
        if not endpoints <= kind.allowed:
            raise ValueError(f"The fault {kind.name!r} cannot happen at {', '.join(map(repr, map(str, endpoints)))}.")
        if kind.needs_job and job_id is None:
            raise ValueError(f"The fault {kind.name!r} is of one job: say which with job_id.")
        return Fault(
            number=next(self._numbers),
            kind=kind,
            endpoints=endpoints,
            job_id=_job_id(job_id),
            probability=probability,
            options=kind.read_options(options),
        )

    def _switched_on(self, source: _Source, times: float) -> _Source:
        with self._lock:
            self._times_left[source] = times
        return source


def _kind(name: str) -> FaultKind:
    if name not in FAULT_KINDS:
        raise ValueError(f"There is no fault {name!r}. The faults are {', '.join(sorted(FAULT_KINDS))}.")
    return FAULT_KINDS[name]


def _kinds(names: Sequence[str]) -> list[FaultKind]:
    kinds = [_kind(name) for name in names]
    for kind in kinds:
        if kind.needs_job:
            raise ValueError(f"The fault {kind.name!r} is of one job and cannot be drawn at random.")
    return kinds


def _endpoint(name: str) -> Endpoint:
    try:
        return Endpoint(name)
    except ValueError:
        raise ValueError(f"There is no endpoint {name!r}. The endpoints are {', '.join(Endpoint)}.") from None


def _job_id(job_id: str | None) -> str | None:
    return None if job_id is None else normalise_id(job_id)
