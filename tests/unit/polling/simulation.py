"""Poll passes over many ids without HTTP and without a database: the plan, and what a ledger keeps between passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from akool_dagster.ledger import ClaimedJob
from akool_dagster.polling.call_plan import Call, CallPlan

Fails = Callable[[Sequence[str]], bool]
IDS_PER_REQUEST = 50
TICK_SECONDS = 30
FAILED_ALONE_SECONDS = 300


@dataclass
class Simulation:
    """Every id that is answered settles. Calls that are under way end in a random order."""

    number: int
    fails: Fails
    concurrent_requests: int = 4
    ids_per_request: int = IDS_PER_REQUEST
    refuses: bool = False
    """Whether a call for a bad id alone tells that the id is bad."""
    seed: int = 1
    limit: int | None = None
    seconds: int = 0
    calls: int = 0
    alone: set[str] = field(default_factory=set)
    failures: list[int] = field(default_factory=list)
    """How many calls failed, by pass."""

    def __post_init__(self) -> None:
        self.ids = [f"{number:06}" for number in range(self.number)]
        self.size: dict[str, int | None] = dict.fromkeys(self.ids)
        self.due = dict.fromkeys(self.ids, 0)
        self.pending = set(self.ids)
        self._random = random.Random(self.seed)

    def run(self, passes: int) -> None:
        """Run passes until every id has settled, at most so many."""
        for _ in range(passes):
            if not self.pending:
                return
            self.run_pass()

    def run_pass(self) -> None:
        plan = CallPlan(self.ids_per_request, self.limit)
        due = [i for i in self.ids if i in self.pending and self.due[i] <= self.seconds]
        due.sort(key=lambda i: (self.due[i], i), reverse=True)
        claimed: dict[str, int] = {}
        asked: set[str] = set()
        under_way: list[Call] = []
        batch = self.ids_per_request * self.concurrent_requests
        more_due = True
        while True:
            while len(under_way) < plan.window(self.concurrent_requests) and not plan.must_stop:
                while (call := plan.next_call(more_due=more_due)) is None and more_due:
                    ids = [due.pop() for _ in range(min(batch, len(due)))]
                    claimed |= {i: self.due[i] for i in ids}
                    plan.add([ClaimedJob(job_id=i, call_size=self.size[i], due_at=self.due[i]) for i in ids])
                    more_due = len(ids) == batch
                if call is None:
                    break
                assert 1 <= len(call.ids) <= min(self.size[i] or self.ids_per_request for i in call.ids)
                assert claimed.keys() >= set(call.ids)
                under_way.append(call)
                asked.update(call.ids)
                self.calls += 1
            if not under_way:
                break
            self._finish(plan, under_way.pop(self._random.randrange(len(under_way))), claimed)
        for i, due_at in claimed.items():
            self.due[i] = self.seconds + TICK_SECONDS if plan.must_stop and i in asked else due_at
        self.limit = plan.limit
        self.failures.append(plan.failures)
        self.seconds += TICK_SECONDS

    def _finish(self, plan: CallPlan, call: Call, claimed: dict[str, int]) -> None:
        if not self.fails(call.ids):
            plan.answered(call)
            for i in call.ids:
                del claimed[i]
                self.pending.remove(i)
            return
        is_alone = len(call.ids) == 1
        size = plan.refused(call) if is_alone and self.refuses else plan.failed(call)
        self.size |= dict.fromkeys(call.ids, size)
        if is_alone:
            self.alone.update(call.ids)
            self.due[call.ids[0]] = self.seconds + FAILED_ALONE_SECONDS
            del claimed[call.ids[0]]
