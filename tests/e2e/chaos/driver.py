"""The chaos itself: kills at fail-points and at random, work that goes on meanwhile, then peace and the check."""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import dagster as dg

from akool_dagster.emulator import AkoolEmulator
from akool_dagster.emulator.faults import Fault
from tests.e2e.chaos import faults
from tests.e2e.chaos.boundaries import ONLY_AT_THE_FIRST_LANDING, Place
from tests.e2e.chaos.check import (
    Evidence,
    ask_akool,
    check_event_log,
    check_ledger,
    check_tables,
    check_videos,
    examine,
)
from tests.e2e.chaos.databases import CONNECTION
from tests.e2e.chaos.deployment import Deployment
from tests.e2e.chaos.failpoints import Failpoint
from tests.e2e.chaos.findings import Finding, Harm
from tests.e2e.chaos.outcome import Outcome, Plan, longest_wait
from tests.e2e.chaos.waits import STALE_SECONDS
from tests.e2e.chaos.watcher import Watcher
from tests.e2e.chaos.workload import Step, Workload
from tests.e2e.processes import Kind, Process, kill_everything

ARMED_AT_ONCE = {Place.TICK: 1, Place.RUN: 3, Place.COMMAND: 1}
ARMED_SECONDS = 60.0
"""How long a fail-point waits for somebody to reach it before another has its turn."""
REST_TICKS = 1
REST_UNTIL_LANDED_SECONDS = 40.0
"""After the daemon or the code server died neither dies again until so many ticks have begun, and until something has
landed or so much time has passed. If every tick died, no run would ever begin."""
REST_SECONDS = 3.0
"""After a run died at a fail-point, so that others get past it."""
STRIKES: dict[str, int] = {Kind.RUN: 4, Kind.CODE_SERVER: 2, Kind.DAEMON: 2, "everything": 1}
"""What is killed at random, and how often against the others."""
BREAKS_LITTLE = frozenset({Kind.RUN, CONNECTION})
"""What may be killed at any time: the next tick is on its way all the same."""
FAILPOINT = "fail-point"
UNAVAILABLE = "cannot be used now"
"""What a command says when its database was struck: it may be begun anew, and nothing is wrong."""
QUIET_TICKS = 3
"""Two whole ticks after the one that may just be under way."""
IDS_PER_CALL = 100
LOOKS_BEFORE_TRACKING_AGAIN = 20
RUN_SECONDS = 120.0
"""Most seconds from a run's cleaning of its folder to its last file there."""


class _Armed(NamedTuple):
    until: float
    fault: Fault | None


class _Rest(NamedTuple):
    """What the deployment must have reached before its daemon or code server dies again."""

    ticks: int
    looks: int
    until: float


class Chaos:
    """One whole crash test. Call `run` once."""

    def __init__(self, plan: Plan, deployment: Deployment, emulator: AkoolEmulator, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._deployment = deployment
        self._emulator = emulator
        self._say = say
        self._rng = random.Random(plan.seed)
        self._workload = Workload(plan.seed, int(time.time()), plan.days)
        self._outcome = Outcome()
        self._begun = time.monotonic()
        self._waiting = self._rng.sample(list(plan.failpoints), len(plan.failpoints))
        self._armed: dict[Failpoint, _Armed] = {}
        self._step: Step | None = None
        self._command: subprocess.Popen[bytes] | None = None
        self._command_dies_at: float | None = None
        self._command_excused = False
        self._watcher = Watcher(deployment.tables, emulator.video_bytes)
        self._rest = _Rest(ticks=REST_TICKS, looks=1, until=self._after(REST_UNTIL_LANDED_SECONDS))
        self._rest_until = dict.fromkeys(Place, 0.0)
        self._next_step_at = 0.0
        self._next_strike_at = 0.0
        self._next_word_at = 0.0

    def run(self) -> Outcome:
        """Do all of it and return what came of it."""
        with self._watcher:
            self._torment()
            self._calm_down()
            self._settle()
            if self._plan.loses_its_ledger:
                self._restore_an_older_ledger()
            self._stay_quiet()
        outcome = self._outcome
        self._deployment.stop()
        self._account()
        with self._deployment.instance() as instance:
            outcome.findings = sorted({*examine(self._evidence(instance)), *self._watcher.findings})
            records = instance.get_run_records()
            outcome.runs = Counter(record.dagster_run.status.value for record in records)
            asked = [record.create_timestamp.timestamp() for record in records]
            outcome.longest_wait_seconds = longest_wait(self._deployment.restarts, asked)
        return outcome

    # The chaos

    def _torment(self) -> None:
        faults.switch_on(self._emulator)
        for failpoint in [one for one in self._waiting if one.boundary.name in ONLY_AT_THE_FIRST_LANDING]:
            self._arm(failpoint, until=float("inf"))
        self._step = self._workload.next_step(self._plan.first_jobs)
        self._next_strike_at = self._after(5)
        while not self._enough() and self._seconds() < self._plan.chaos_seconds:
            self._deployment.supervise()
            self._notice_the_dead()
            self._keep_armed()
            self._strike()
            self._work()
            self._tell()
            time.sleep(0.1)
        self._outcome.chaos_seconds = self._seconds()
        if not self._enough():
            wanted = sorted(map(str, {*self._waiting, *self._armed}))
            self._outcome.unsettled = (
                f"only {self._outcome.kills.total()} of {self._plan.kills} kills in {self._seconds():.0f} s"
            )
            self._outcome.missed_failpoints = [name for name in wanted if not self._outcome.failpoints[name]]

    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    def _after(self, seconds: float) -> float:
        """Return the moment so many seconds from now, more on a busy machine: others must get somewhere meanwhile."""
        return time.monotonic() + seconds * self._deployment.slowness

    def _killed_enough(self) -> bool:
        return self._outcome.kills.total() >= self._plan.kills

    def _enough(self) -> bool:
        return self._killed_enough() and all(
            self._outcome.failpoints[str(failpoint)] for failpoint in self._plan.failpoints
        )

    def _notice_the_dead(self) -> None:
        fired = self._deployment.arming.take_fired()
        for failpoint in [failpoint for failpoint in self._armed if str(failpoint) in fired]:
            self._take_back_fault(self._armed.pop(failpoint))
            self._rest_until[failpoint.boundary.place] = self._after(REST_SECONDS)
            if failpoint.boundary.place == Place.TICK:
                self._let_it_land()
        for name in fired:
            self._outcome.kills[FAILPOINT] += 1
            self._outcome.processes += 1
            self._outcome.failpoints[name] += 1

    def _keep_armed(self) -> None:
        now = time.monotonic()
        for failpoint, armed in list(self._armed.items()):
            if armed.until < now and self._deployment.arming.disarm(failpoint):
                self._take_back_fault(self._armed.pop(failpoint))
                if not self._outcome.failpoints[str(failpoint)]:
                    self._waiting.append(failpoint)
        for place, most in ARMED_AT_ONCE.items():
            if self._may_arm(place, most, now):
                chosen = self._next_failpoint(place)
                if chosen is not None:
                    self._arm(chosen, until=self._after(ARMED_SECONDS))

    def _may_arm(self, place: Place, most: int, now: float) -> bool:
        return (
            sum(failpoint.boundary.place == place for failpoint in self._armed) < most
            and now >= self._rest_until[place]
            and (place != Place.TICK or self._rested())
        )

    def _let_it_land(self) -> None:
        self._rest = _Rest(
            ticks=self._deployment.ticks() + REST_TICKS,
            looks=self._watcher.looks + 1,
            until=self._after(REST_UNTIL_LANDED_SECONDS),
        )

    def _rested(self) -> bool:
        landed = self._watcher.looks >= self._rest.looks or time.monotonic() > self._rest.until
        return landed and self._deployment.ticks() >= self._rest.ticks

    def _next_failpoint(self, place: Place) -> Failpoint | None:
        """Return the one that waits longest; when none does, any, but not all the time and only for the number."""
        for failpoint in self._waiting:
            if failpoint.boundary.place == place and failpoint.boundary.name not in ONLY_AT_THE_FIRST_LANDING:
                return failpoint
        if self._killed_enough():
            return None
        usual = [
            failpoint
            for failpoint in self._plan.failpoints
            if failpoint.boundary.place == place
            and failpoint not in self._armed
            and failpoint.boundary.name not in ONLY_AT_THE_FIRST_LANDING
        ]
        return self._rng.choice(usual) if usual and self._rng.random() < 0.02 else None

    def _arm(self, failpoint: Failpoint, *, until: float) -> None:
        if failpoint in self._waiting:
            self._waiting.remove(failpoint)
        boundary = failpoint.boundary
        fault = self._emulator.faults.add(boundary.fault, times=boundary.calls) if boundary.fault else None
        reached = self._rng.choice((1, 1, 2)) if self._outcome.failpoints[str(failpoint)] else 1
        self._deployment.arming.arm(failpoint, reached=reached)
        self._armed[failpoint] = _Armed(until, fault)

    def _take_back_fault(self, armed: _Armed) -> None:
        if armed.fault is not None:
            self._emulator.faults.remove(armed.fault)

    def _strike(self) -> None:
        if time.monotonic() < self._next_strike_at or self._killed_enough():
            return
        self._next_strike_at = self._after(self._rng.uniform(*self._plan.strike_seconds))
        of_database = self._deployment.ledger.strikes
        weights = STRIKES | {name: strike.weight for name, strike in of_database.items()}
        (what,) = self._rng.choices(list(weights), list(weights.values()))
        if what not in BREAKS_LITTLE:
            if not self._rested():
                return
            self._let_it_land()
        processes = self._deployment.processes()
        self._look_at_arguments(processes)
        if what == "everything":
            killed = kill_everything(self._deployment.home) if processes else 0
        elif what in of_database:
            killed = int(of_database[what].hit(self._rng))
            self._command_excused |= bool(killed)
        else:
            killed = self._kill_one([process for process in processes if process.kind == what])
        if killed:
            self._outcome.kills[what] += 1
            self._outcome.processes += killed

    def _look_at_arguments(self, processes: Sequence[Process]) -> None:
        for process in processes:
            for name, secret in self._deployment.secrets.items():
                if secret in process.command:
                    self._watcher.findings.add(Finding(Harm.SECRET, f"the {name} is an argument of a {process.kind}"))

    def _kill_one(self, processes: Sequence[Process]) -> int:
        return int(self._rng.choice(processes).kill()) if processes else 0

    # The work that goes on meanwhile

    def _work(self) -> None:
        now = time.monotonic()
        if self._command is not None:
            self._watch_command(self._command, now)
        elif self._step is not None:
            self._start(self._step, now)
        elif now >= self._next_step_at:
            self._step = self._workload.next_step()

    def _start(self, step: Step, now: float) -> None:
        for job in step.appears:
            if job.job_id not in self._emulator.jobs:
                self._emulator.add_job(job)
        with_failpoints = any(failpoint.boundary.place == Place.COMMAND for failpoint in self._armed)
        self._command = self._deployment.command(step.arguments, with_failpoints=with_failpoints)
        dies = self._rng.random() < 0.25 and not (with_failpoints or self._killed_enough())
        self._command_excused = False
        self._command_dies_at = now + self._rng.uniform(0.1, 1.2) if dies else None

    def _watch_command(self, command: subprocess.Popen[bytes], now: float) -> None:
        status = command.poll()
        if status is None:
            if self._command_dies_at is not None and now >= self._command_dies_at:
                command.kill()
                command.wait()
                self._outcome.kills[Kind.COMMAND] += 1
                self._outcome.processes += 1
                self._command = None  # and the step is begun anew
            return
        self._command = None
        if status == 0:
            self._step = None
            self._next_step_at = self._after(self._rng.uniform(0.5, 1.5) * self._plan.step_seconds)
        elif status > 0 and not (self._command_excused and UNAVAILABLE in self._deployment.last_line()):
            raise AssertionError(f"akool-dagster failed:\n{self._deployment.last_words()}")

    def _tell(self) -> None:
        if time.monotonic() < self._next_word_at:
            return
        self._next_word_at = time.monotonic() + 10
        kills = self._outcome.kills
        by_kind = ", ".join(f"{number} {what}" for what, number in kills.most_common())
        waiting = sum(not self._outcome.failpoints[str(failpoint)] for failpoint in self._plan.failpoints)
        self._say(
            f"{self._seconds():5.0f} s  {kills.total()} of {self._plan.kills} kills ({by_kind or 'none yet'}); "
            f"{waiting} fail-points to come; {len(self._workload.labels)} jobs tracked; "
            f"{len(list(self._deployment.tables.glob('videos/*/[!.]*.mp4')))} videos"
            + (f"; {self._deployment.slowness:.1f} times slower than it could be" * (self._deployment.slowness > 1.5))
        )

    # Peace

    def _calm_down(self) -> None:
        """End faults and kills, and do what is left to do."""
        self._emulator.faults.clear()
        journal = self._emulator.journal.requests
        self._outcome.requests = Counter(request.endpoint for request in journal)
        self._outcome.faults = Counter(fault for request in journal for fault in request.faults)
        self._outcome.spoilt = sum(bool(request.faults) for request in journal)
        for failpoint in list(self._armed):
            self._deployment.arming.disarm(failpoint)
        self._notice_the_dead()
        self._armed.clear()
        if self._command is not None:
            self._command.wait(60)
            self._watch_command(self._command, time.monotonic())
        for step in (self._step, self._workload.last_step()):
            if step is not None:
                self._do(step)
        self._step = None

    def _do(self, step: Step) -> None:
        self._command_dies_at = None
        self._start(step, time.monotonic())
        command, self._command = self._command, None
        if command is None or command.wait(60) != 0:
            raise AssertionError(f"akool-dagster failed:\n{self._deployment.last_words()}")

    def _settle(self) -> None:
        """Wait until the check finds nothing and nothing runs any more."""
        begun, looks = time.monotonic(), 0
        while True:
            self._deployment.supervise()
            open_ends = self._open_ends()
            seconds = time.monotonic() - begun
            if not open_ends:
                self._say(f"settled after {seconds:.0f} s")
                break
            if seconds > self._plan.settle_seconds:
                self._outcome.unsettled = f"after {seconds:.0f} s: {len(open_ends)} things, such as {open_ends[0]}"
                break
            self._say(f"      settling: {len(open_ends)} things are open, such as {open_ends[0]}")
            looks += 1
            if looks % LOOKS_BEFORE_TRACKING_AGAIN == 0 and (step := self._workload.last_step()) is not None:
                self._do(step)
            time.sleep(3)
        self._outcome.settle_seconds += time.monotonic() - begun

    def _open_ends(self) -> list[str]:
        with self._deployment.instance() as instance:
            evidence = self._evidence(instance)
            checks = (check_ledger, check_tables, check_videos, check_event_log)
            found = [str(finding) for check in checks for finding in check(evidence)]
        alive = [process for process in self._deployment.processes() if process.kind == Kind.RUN]
        return found + [f"run process {process.pid} is at work" for process in alive]

    def _restore_an_older_ledger(self) -> None:
        """Relabel jobs and let that land; restore the ledger from before, adopt the tables, and relabel again.

        The restored ledger has forgotten what landed. Everything must land once more, and no row may go back.
        """
        self._say("restoring an older ledger")
        ledger = self._deployment.ledger
        ledger.back_up()
        step = self._workload.relabelling("restored")
        self._do(step)
        self._settle()
        self._outcome.processes += kill_everything(self._deployment.home)
        self._outcome.kills["everything"] += 1
        ledger.put_back()
        adopted = self._deployment.command(["ledger", "adopt", "--yes"], with_failpoints=False)
        if adopted.wait(120) != 0:
            raise AssertionError(f"ledger adopt failed:\n{self._deployment.last_words()}")
        self._do(step)
        self._settle()

    def _stay_quiet(self) -> None:
        """Let the sensor tick on and count the runs that it asks for though everything has landed."""
        with self._deployment.instance() as instance:
            runs, ticks = len(instance.get_run_records()), self._deployment.ticks()
            begun = time.monotonic()
            while self._deployment.ticks() < ticks + QUIET_TICKS:
                self._deployment.supervise()
                if time.monotonic() - begun > self._plan.settle_seconds:
                    self._outcome.unsettled = self._outcome.unsettled or "the sensor does not tick any more"
                    return
                time.sleep(0.5)
            self._outcome.unneeded_runs = len(instance.get_run_records()) - runs

    # What is known of it all

    def _evidence(self, instance: dg.DagsterInstance) -> Evidence:
        ids = sorted(self._workload.labels)
        chunks = [ids[first : first + IDS_PER_CALL] for first in range(0, len(ids), IDS_PER_CALL)]
        base_url, api_key = self._deployment.base_url, self._deployment.api_key
        rows = [ask_akool(base_url, api_key, chunk) for chunk in chunks]
        return Evidence(
            home=self._deployment.home,
            ledger=self._deployment.ledger,
            tables=self._deployment.tables,
            instance=instance,
            labels=self._workload.labels,
            truth={job_id: row for answer in rows for job_id, row in answer.items()},
            video_of=self._emulator.video_bytes,
            journal=self._emulator.journal.requests,
            secrets=self._deployment.secrets,
            stale_seconds=STALE_SECONDS + RUN_SECONDS,
        )

    def _account(self) -> None:
        outcome = self._outcome
        outcome.jobs = len(self._workload.labels)
        outcome.files_watched = self._watcher.looks
        log = self._deployment.home / "command.log"
        outcome.reopened = sum(map(int, re.findall(r"(\d+) reopened", log.read_text())))
