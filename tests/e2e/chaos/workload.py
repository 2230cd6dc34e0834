"""What is tracked during the chaos, little by little: the jobs there are, and what somebody does about them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from akool_dagster.emulator import EmulatedJob

DAY_SECONDS = 86_400
LATE_STEPS = 8
"""How many steps pass until a job that Akool did not know is there, and tracked again."""
REASON = "The input image was refused by the content check."


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a person, repeated until it succeeds."""

    ids: Sequence[str]
    labels: Mapping[str, str] = field(default_factory=dict)
    again: bool = False
    appears: Sequence[EmulatedJob] = ()
    """Jobs that Akool knows from this moment on."""

    @property
    def arguments(self) -> list[str]:
        """What follows ``akool-dagster``."""
        labels = [part for key, value in self.labels.items() for part in ("--label", f"{key}={value}")]
        return ["track", *self.ids, *labels, *(["--again"] if self.again else [])]


class Workload:
    """An endless row of steps, made from a seed.

    Of every 20 ids two fail, one is known to Akool only later, when it is tracked ``--again``, and one is never
    known. Every third step relabels ids that were tracked before, settled ones too.
    """

    def __init__(self, seed: int, now_s: int, days: int) -> None:
        self.labels: dict[str, dict[str, str]] = {}
        """What each id must be labelled with once the steps given out are done."""
        self._rng = random.Random(seed)
        self._now_s = now_s
        self._days = days
        self._steps = 0
        self._late: list[tuple[int, EmulatedJob]] = []
        self._came_late: list[str] = []

    def next_step(self, new_jobs: int | None = None) -> Step:
        """Return the next thing to do; ``new_jobs`` makes it one that tracks so many."""
        self._steps += 1
        overdue = [job for step, job in self._late if self._steps - step >= LATE_STEPS]
        if new_jobs is None and overdue:
            return self._appearing(overdue)
        if new_jobs is None and self._steps % 3 == 0:
            return self.relabelling("looked_at")
        return self._tracking(self._rng.randint(2, 5) if new_jobs is None else new_jobs)

    def last_step(self) -> Step | None:
        """Return what is left to do when no more jobs shall come: those that came late are tracked again.

        An answer from before a job appeared may be recorded after it was, and is the one too many that makes it
        missing. Then the user has to say so once more; so this may be done more than once.
        """
        step = self._appearing([job for _, job in self._late])
        return replace(step, ids=self._came_late) if self._came_late else None

    def relabelling(self, label: str) -> Step:
        """Return a step that relabels a few jobs."""
        ids = sorted(self._rng.sample(sorted(self.labels), min(4, len(self.labels))))
        return self._noted(Step(ids=ids, labels={label: str(self._steps)}))

    def _appearing(self, jobs: Sequence[EmulatedJob]) -> Step:
        self._late = [(step, job) for step, job in self._late if job not in jobs]
        self._came_late += [job.job_id for job in jobs]
        return self._noted(Step(ids=[job.job_id for job in jobs], again=True, appears=jobs))

    def _tracking(self, count: int) -> Step:
        known: list[EmulatedJob] = []
        ids: list[str] = []
        for _ in range(count):
            index = len(self.labels) + len(ids)
            job = self._job(index)
            ids.append(job.job_id)
            if index % 20 == 7:
                self._late.append((self._steps, job))
            elif index % 20 != 13:
                known.append(job)
        return self._noted(Step(ids=ids, labels={"batch": str(self._steps)}, appears=known))

    def _noted(self, step: Step) -> Step:
        for job_id in step.ids:
            self.labels.setdefault(job_id, {}).update(step.labels)
        return step

    def _job(self, index: int) -> EmulatedJob:
        rng = self._rng
        second = self._now_s - 600 - rng.randrange(DAY_SECONDS) - DAY_SECONDS * (index % self._days)
        failed = index % 10 == 3
        return EmulatedJob(
            job_id=f"{second:08x}{rng.getrandbits(64):016x}",
            queue_polls=rng.randrange(3),
            processing_polls=rng.randrange(3),
            outcome="failed" if failed else "completed",
            failure_reason=REASON if failed else None,
            video_duration=round(rng.uniform(0.5, 1.5), 3),
            deduction_credit=0 if failed else rng.choice((20, 25, 30)),
            prompt=f"Job {index}: the camera moves slowly.",
            width=64,
            height=48,
        )
