"""Which faults are on: for good or so many times, by chance, by script, or drawn at random."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from akool_dagster.base.job_ids import normalise_id
from akool_dagster.emulator.answers import Answer
from akool_dagster.emulator.fault_kinds import Endpoint, FaultKind, Options
from akool_dagster.emulator.fault_table import FAULT_KINDS

RANDOM_HOLD_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Fault:
    """A fault that is switched on, and what it is limited to. None means no limit."""

    number: int
    kind: FaultKind
    endpoints: frozenset[Endpoint]
    times: int | None
    job_id: str | None
    probability: float
    options: Options

    @property
    def answer(self) -> Answer | None:
        """The answer in place of the real one, with its ``Retry-After``."""
        return None if self.kind.answer is None else self.kind.answer(self.options)

    def concerns(self, endpoint: Endpoint, job_ids: Collection[str]) -> bool:
        """Return whether it may happen to a call to the endpoint that asks for the jobs."""
        return endpoint in self.endpoints and (self.job_id is None or self.job_id in job_ids)

    def happens_to(self, job_id: str, *, completed: bool) -> bool:
        """Return whether it is a fault of one job that can happen to this one."""
        return self.kind.is_of_one_job and self.job_id in (None, job_id) and (completed or not self.kind.of_completed)


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultScript:
    """What happens to the next calls to an endpoint, or to those of them that ask for one job: a fault, or none."""

    number: int
    steps: Sequence[Fault | None]
    endpoint: Endpoint
    job_id: str | None

    def concerns(self, endpoint: Endpoint, job_ids: Collection[str]) -> bool:
        """Return whether a call to the endpoint that asks for the jobs takes the next step."""
        return endpoint == self.endpoint and (self.job_id is None or self.job_id in job_ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomFaults:
    """Faults of several kinds, drawn anew for each call. None means every endpoint."""

    number: int
    probability: float
    kinds: Sequence[FaultKind]
    endpoint: Endpoint | None
    hold_seconds: float

    def concerns(self, endpoint: Endpoint, job_ids: Collection[str]) -> bool:
        """Return whether a call to the endpoint may be hit."""
        return self.endpoint in (None, endpoint) and any(endpoint in kind.allowed for kind in self.kinds)

    def draw(self, endpoint: Endpoint, job_ids: Collection[str], chance: random.Random) -> Fault:
        """Return one fault for this call; a fault of rows happens to one of its jobs."""
        kind = chance.choice([kind for kind in self.kinds if endpoint in kind.allowed])
        options = dict(kind.options)
        if "seconds" in options:
            options["seconds"] = self.hold_seconds
        return Fault(
            number=self.number,
            kind=kind,
            endpoints=frozenset({endpoint}),
            times=1,
            job_id=chance.choice(sorted(job_ids)) if kind.is_of_one_job and job_ids else None,
            probability=1.0,
            options=options,
        )


FaultSource = Fault | FaultScript | RandomFaults
Step = str | Mapping[str, object] | None
_Source = TypeVar("_Source", Fault, FaultScript, RandomFaults)


class FaultSwitch:
    """Which faults are on. Safe for many threads; chances are drawn from a generator with the emulator's seed.

    All methods raise ``ValueError`` for what makes no sense, and then switch nothing on.
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
        with self._lock:
            left = self._times_left.get(source, 0)
        return None if left == float("inf") else int(left)

    def add(
        self,
        /,
        name: str,
        *,
        times: int | None = None,
        job_id: str | None = None,
        endpoint: str | None = None,
        probability: float = 1.0,
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
        fault = self._fault(kind, endpoints, times, job_id, probability, options)
        return self._switched_on(fault, float("inf") if times is None else times)

    def script(
        self, steps: Sequence[Step], *, endpoint: str = "resultsByIds", job_id: str | None = None
    ) -> FaultScript:
        """Let the next calls to the endpoint go as told, one step a call, and then as usual again.

        A step is None, the name of a fault, or a mapping with ``name`` and the kind's own options. With a
        ``job_id`` only calls that ask for that job take a step. A step decides its call: what else is on for
        whole calls does not happen to it.
        """
        place = _endpoint(endpoint)
        parsed = [None if step is None else self._step(step, place, job_id) for step in steps]
        if not parsed:
            raise ValueError("A script has at least one step.")
        script = FaultScript(number=next(self._numbers), steps=parsed, endpoint=place, job_id=_job_id(job_id))
        return self._switched_on(script, len(parsed))

    def add_random(
        self,
        probability: float,
        *,
        names: Collection[str] | None = None,
        endpoint: str | None = None,
        hold_seconds: float = RANDOM_HOLD_SECONDS,
    ) -> RandomFaults:
        """Let each call meet, with that probability, a random fault of those that its endpoint can show.

        Without ``names`` all kinds that pass by themselves are drawn from: whoever asks again often enough gets
        every job and every file. ``hold_seconds`` is how long ``latency``, ``timeout`` and ``slow_drip`` last;
        the last two end with a reset then, if the client has not left before.
        """
        kinds = [kind for kind in FAULT_KINDS.values() if kind.passes_by_itself] if names is None else _kinds(names)
        place = None if endpoint is None else _endpoint(endpoint)
        if not any(place is None or place in kind.allowed for kind in kinds):
            raise ValueError(f"None of these faults can happen at {endpoint!r}.")
        _check_probability(probability)
        if hold_seconds < 0:
            raise ValueError(f"A fault does not last {hold_seconds} seconds.")
        faults = RandomFaults(
            number=next(self._numbers),
            probability=probability,
            kinds=kinds,
            endpoint=place,
            hold_seconds=hold_seconds,
        )
        return self._switched_on(faults, float("inf"))

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
        if not self._times_left:
            return None
        with self._lock:
            for source in list(self._times_left):
                if not source.concerns(endpoint, job_ids):
                    continue
                if isinstance(source, FaultScript):
                    step = source.steps[len(source.steps) - int(self._times_left[source])]
                    self._count(source)
                    return step
                if (isinstance(source, Fault) and source.kind.is_of_one_job) or not self._happens(source):
                    continue
                if isinstance(source, RandomFaults):
                    return source.draw(endpoint, job_ids, self.chance)
                self._count(source)
                return source
        return None

    def take_for_job(self, job_id: str, *, completed: bool = True) -> Fault | None:
        """Return the first fault that happens to this job in a call, and count it as happened."""
        if not self._times_left:
            return None
        with self._lock:
            for source in self._times_left:
                if (
                    isinstance(source, Fault)
                    and source.happens_to(job_id, completed=completed)
                    and self._happens(source)
                ):
                    self._count(source)
                    return source
        return None

    def draw_seconds(self, fault: Fault) -> float:
        """Return how long this time: the fault's seconds, more or less by its jitter, and never below 0."""
        seconds, jitter = (float(fault.options.get(name) or 0.0) for name in ("seconds", "jitter"))
        return max(0.0, seconds + jitter * (2 * self.chance.random() - 1)) if jitter else seconds

    def _happens(self, source: Fault | RandomFaults) -> bool:
        return source.probability == 1.0 or self.chance.random() < source.probability

    def _count(self, source: FaultSource) -> None:
        if self._times_left[source] <= 1:
            del self._times_left[source]
        else:
            self._times_left[source] -= 1

    def _step(self, step: str | Mapping[str, object], endpoint: Endpoint, job_id: str | None) -> Fault:
        options = {} if isinstance(step, str) else {name: value for name, value in step.items() if name != "name"}
        kind = _kind(step if isinstance(step, str) else str(step.get("name")))
        return self._fault(kind, frozenset({endpoint}), 1, job_id, 1.0, options)

    def _fault(
        self,
        kind: FaultKind,
        endpoints: frozenset[Endpoint],
        times: int | None,
        job_id: str | None,
        probability: float,
        options: Mapping[str, object],
    ) -> Fault:
        if not endpoints <= kind.allowed:
            raise ValueError(f"The fault {kind.name!r} cannot happen at {', '.join(map(repr, map(str, endpoints)))}.")
        if kind.needs_job and job_id is None:
            raise ValueError(f"The fault {kind.name!r} is of one job: say which with job_id.")
        if times is not None and times < 1:
            raise ValueError(f"A fault happens at least once, not {times} times.")
        _check_probability(probability)
        return Fault(
            number=next(self._numbers),
            kind=kind,
            endpoints=endpoints,
            times=times,
            job_id=_job_id(job_id),
            probability=probability,
            options=kind.read_options(options),
        )

    def _switched_on(self, source: _Source, times: float) -> _Source:
        with self._lock:
            self._times_left[source] = times
        return source


def _kind(name: str) -> FaultKind:
    kind = FAULT_KINDS.get(name)
    if kind is None:
        raise ValueError(f"There is no fault {name!r}. The faults are {', '.join(sorted(FAULT_KINDS))}.")
    return kind


def _kinds(names: Collection[str]) -> Sequence[FaultKind]:
    kinds = [_kind(name) for name in names]
    for kind in kinds:
        if kind.needs_job:
            raise ValueError(f"The fault {kind.name!r} is of one job and cannot be drawn at random.")
    return kinds


def _endpoint(name: str) -> Endpoint:
    try:
        return Endpoint(name)
    except ValueError:
        known = ", ".join(Endpoint)
        raise ValueError(f"There is no endpoint {name!r}. The endpoints are {known}.") from None


def _job_id(job_id: str | None) -> str | None:
    return None if job_id is None else normalise_id(job_id)


def _check_probability(probability: float) -> None:
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"A probability is between 0 and 1, not {probability}.")
