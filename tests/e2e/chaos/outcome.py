"""What a crash test is to do, and what came of it: the plan, the outcome, and the longest wait for a landing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.e2e.chaos.deployment import Restart
from tests.e2e.chaos.failpoints import Failpoint
from tests.e2e.chaos.findings import Finding

LONGEST_WAIT_SECONDS = 120.0
"""From a restart with something to land to the next request of a landing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of it."""

    seed: int
    kills: int
    """How many at least."""
    failpoints: Sequence[Failpoint]
    """Each must be reached."""
    days: int
    """Over how many days the jobs are spread: each is a partition of five tables."""
    first_jobs: int
    """How many are tracked at the start; more come during the chaos."""
    step_seconds: float
    strike_seconds: tuple[float, float]
    """Between two kills at random."""
    chaos_seconds: float
    settle_seconds: float
    loses_its_ledger: bool = True
    """Whether the ledger is replaced by an older one in the end, and adopts the tables."""


@dataclass(kw_only=True)
class Outcome:
    """What happened, and what was found afterwards."""

    kills: Counter[str] = field(default_factory=Counter)
    processes: int = 0
    failpoints: Counter[str] = field(default_factory=Counter)
    missed_failpoints: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    """Those of the chaos, by endpoint."""
    spoilt: int = 0
    """How many of them met a fault."""
    runs: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    reopened: int = 0
    files_watched: int = 0
    chaos_seconds: float = 0.0
    settle_seconds: float = 0.0
    unsettled: str | None = None
    unneeded_runs: int = 0
    longest_wait_seconds: float = 0.0
    """From a restart with something to land to the next request of a landing."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Whether everything is as it must be."""
        return not (
            self.findings
            or self.unsettled
            or self.unneeded_runs
            or self.missed_failpoints
            or self.longest_wait_seconds > LONGEST_WAIT_SECONDS
        )


def longest_wait(restarts: Sequence[Restart], asked: Sequence[float]) -> float:
    """Return the longest time from a restart with something to land to the next request, both in epoch seconds.

    A restart whose deployment was killed again before anything was asked for counts for as long as it lived.
    """
    ends = [restart.at for restart in restarts[1:]] + [float("inf")]
    waits = [
        min([at for at in asked if restart.at <= at < end], default=end) - restart.at
        for restart, end in zip(restarts, ends, strict=True)
        if restart.has_to_land
    ]
    return max((wait for wait in waits if wait != float("inf")), default=0.0)
