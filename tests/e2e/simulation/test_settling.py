"""Whatever happens in whatever order: when the trouble stops, everything has landed once, and nothing went back."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from akool_dagster.emulator import FAULT_KINDS, AkoolEmulator, EmulatedJob
from tests.deployment import object_id
from tests.e2e.simulation.effects import Effects, Plan, tap, trouble
from tests.e2e.simulation.ledgers import Backup
from tests.e2e.simulation.world import DAY_SECONDS, TABLE_NAMES, Run, World
from tests.thoroughness import thorough

pytest_plugins = ["tests.integration.ledger_databases"]

MOST_SECONDS = 5 * DAY_SECONDS
"""Of an example's trouble: after seven days a video may rightly be lost, and a job given up."""
SERIALS = itertools.count(1)

# What lasts would last in real time here, since waiting takes no simulated one.
FAULTS = sorted(kind.name for kind in FAULT_KINDS.values() if kind.passes_by_itself and "seconds" not in kind.options)
WHAT = ("kill", "kill", "fail", "tick", "run", "stop for 90 s")


def interruptions(most: int) -> st.SearchStrategy[tuple[str, int] | None]:
    """Return what may happen to a process that has about so many effects, and at which of them."""
    return st.one_of(st.none(), *(st.tuples(st.just(what), st.integers(0, most)) for what in WHAT))


subsets = st.one_of(st.just(["videos"]), st.lists(st.sampled_from(TABLE_NAMES), min_size=1, unique=True))


def five_jobs(emulator: AkoolEmulator, noon: int) -> list[str]:
    """Give Akool four jobs of two days; return their ids and one that it does not know."""
    moments = (noon - 60, noon - 120, noon - DAY_SECONDS, noon - DAY_SECONDS - 60, noon - 180)
    shapes: tuple[dict[str, Any], ...] = (
        {},
        {"outcome": "failed"},
        {"processing_polls": 2},
        {"queue_polls": 1, "processing_polls": 1},
    )
    ids = [object_id(second, next(SERIALS)) for second in moments]
    for job_id, shape in zip(ids, shapes, strict=False):
        fields = {"queue_polls": 0, "processing_polls": 0, "video_duration": 0.2, "url_lifetime_seconds": 1e9} | shape
        emulator.add_job(EmulatedJob(job_id=job_id, **fields))
    return ids


def expected(emulator: AkoolEmulator, ids: Sequence[str]) -> Mapping[str, str]:
    """Return the state that every id ends in."""
    return {one: emulator.jobs[one].outcome if one in emulator.jobs else "missing" for one in ids}


class Settling(RuleBasedStateMachine):
    """A deployment with five jobs of two days, one of them unknown to Akool."""

    folder: ClassVar[Path]
    url: ClassVar[str]
    emulator: ClassVar[AkoolEmulator]
    effects: ClassVar[Effects]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.folder, self.url, self.emulator, self.effects)
        self.emulator.faults.clear()
        self.backup = self.world.database.backup()
        self.newest: Backup | None = None
        self.lost = self.urlless = False
        self.left = float(MOST_SECONDS)
        self.ids = five_jobs(self.emulator, self.world.began)

    @initialize(which=st.lists(st.integers(0, 4), min_size=3, max_size=5, unique=True))
    def begin(self, which: Sequence[int]) -> None:
        self.world.track([self.ids[index] for index in which], {})
        for _ in range(2):
            self.world.tick()

    def teardown(self) -> None:
        try:
            if self.lost:
                self._recover()
            self.world.set_the_clock_right()
            self.world.track(self.ids, {}, again=True)
            self.world.settle(expected(self.emulator, self.ids))
        finally:
            self.world.close()

    def _plan(self, interruption: tuple[str, int] | None) -> Plan | None:
        if interruption is None:
            return None
        what, at = interruption
        if what == "kill":
            return Plan(at=at, happens=None)
        if what == "fail":
            return Plan(at=at, happens=trouble)

        def meanwhile(_name: str) -> None:
            if what == "tick":
                self.world.tick()
            elif what == "run":
                for key in self.world.partition_keys()[1:3]:
                    self.world.materialize(TABLE_NAMES, key)
            else:
                self._pass(90)

        return Plan(at=at, happens=meanwhile)

    def _pass(self, seconds: float) -> None:
        if seconds <= self.left:
            self.left -= seconds
            self.world.clock.advance(seconds)

    @rule(
        which=st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True),
        label=st.sampled_from(["", "spring", "autumn"]),
        again=st.booleans(),
        interruption=interruptions(3),
    )
    def track(self, which: Sequence[int], label: str, again: bool, interruption: tuple[str, int] | None) -> None:
        labels = {"campaign": label} if label else {}
        self.world.track([self.ids[index] for index in which], labels, again=again, plan=self._plan(interruption))

    @rule(interruption=interruptions(16))
    def tick(self, interruption: tuple[str, int] | None) -> None:
        self.world.tick(self._plan(interruption))

    def _queued(self, index: int) -> Run:
        return self.world.queued[index % len(self.world.queued)]

    @precondition(lambda self: self.world.queued)
    @rule(index=st.integers(0, 9), interruption=interruptions(60))
    def start(self, index: int, interruption: tuple[str, int] | None) -> None:
        self.world.start(self._queued(index), self._plan(interruption))

    @precondition(lambda self: self.world.queued)
    @rule(index=st.integers(0, 9))
    def fail_to_launch(self, index: int) -> None:
        self.world.drop(self._queued(index))

    @rule(days=st.sampled_from([(1,), (2,), (0, 1, 2, 3)]), names=subsets, interruption=interruptions(50))
    def materialize(self, days: Sequence[int], names: Sequence[str], interruption: tuple[str, int] | None) -> None:
        """In the UI, one partition or a backfill; the videos are landed by a run of their own."""
        for day in days:
            self.world.materialize(names, self.world.partition_keys()[day], self._plan(interruption))

    @rule(
        what=st.one_of(
            st.just("wipe"),
            st.tuples(st.sampled_from(FAULTS), st.integers(1, 3)),
            st.sampled_from([-30, -2, 3, 26]),
        )
    )
    def disturb(self, what: str | tuple[str, int] | int) -> None:
        """Wipe the event log, let Akool answer badly, or let the machine's clock jump some hours."""
        match what:
            case int(hours):
                if hours * 3600 <= self.left:
                    self.left -= max(0, hours * 3600)
                    self.world.clock.jump(hours * 3600)
            case ("no_video_url", _) if self.urlless:
                pass  # after five such answers a video is rightly given up
            case (str(name), int(times)):
                self.urlless = self.urlless or name == "no_video_url"
                self.emulator.faults.add(name, times=times)
            case _:
                self.world.wipe_event_log()

    @rule(interruption=interruptions(12))
    def prune(self, interruption: tuple[str, int] | None) -> None:
        if not self.lost:
            self.world.prune(self._plan(interruption))

    @rule(seconds=st.sampled_from([5, 31, 121, 601, 3601, 7201]))
    def wait(self, seconds: int) -> None:
        self._pass(seconds)

    @rule(what=st.sampled_from(["back up", "put an older one back", "make a new one"]), newest_is_there=st.booleans())
    def replace_the_ledger(self, what: str, newest_is_there: bool) -> None:
        if self.lost:
            self._recover()
        elif what == "back up" or not self.world.has_an_owner:
            self.backup = self.world.database.backup()
        else:
            self.newest = self.world.database.backup() if newest_is_there else None
            self.lost = True
            self.world.forget_final_states()
            if what == "put an older one back":
                self.world.database.put_back(self.backup)
            else:
                self.world.database.make_anew()

    def _recover(self) -> None:
        """The operator puts the newest backup back, or goes on with this ledger, and adopts what has landed."""
        if self.newest is not None:
            self.world.database.put_back(self.newest)
        self.world.adopt()
        self.world.forget_final_states()
        self.lost = False

    @invariant()
    def no_final_job_moves(self) -> None:
        self.world.check_final_states()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing: records would keep the generators of dead processes alive."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()  # what is there already needs no looking at whenever a process of the simulation ends
    yield
    gc.unfreeze()
    logging.disable(logging.NOTSET)


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch, quiet: None) -> Effects:
    """Let every effect of the package be counted."""
    counted = Effects()
    tap(monkeypatch, counted)
    return counted


def test_everything_settles_once_the_trouble_stops(
    ledger_url: str, tmp_path: Path, emulator: AkoolEmulator, effects: Effects
) -> None:
    attributes = {"folder": tmp_path, "url": ledger_url, "emulator": emulator, "effects": effects}
    run_state_machine_as_test(
        type("SettlingHere", (Settling,), attributes),
        settings=settings(
            max_examples=thorough(4, 250),
            stateful_step_count=20,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("job", ["land_results", "land_videos", "tick"])
@pytest.mark.parametrize("trap", ["kill", "fail", "overtake"])
def test_a_process_that_ends_badly_at_any_effect_is_made_good(
    ledger_url: str, tmp_path: Path, emulator: AkoolEmulator, effects: Effects, job: str, trap: str
) -> None:
    """Kill it there, let it fail there, or hold it up until another has done its work."""
    stride = thorough(28, 1)
    at = thorough(9, 0) if ledger_url.startswith("postgresql") else 0  # so that the two take different effects
    interrupted = 0
    while True:
        world = World(tmp_path, ledger_url, emulator, effects)
        try:
            ids = five_jobs(emulator, world.began)[:2]
            world.track(ids, {})
            run = None if job == "tick" else next(one for one in world.tick() if one.job_name.endswith(job))

            def overtake(name: str, world: World = world, run: Run | None = run, ids: Sequence[str] = ids) -> None:
                world.clock.advance(61)
                world.track(ids, {"overtaken": name.replace(" ", "_")})  # so that the other one has more to show
                if run is None:
                    world.tick()
                else:
                    world.materialize(["videos"] if job == "land_videos" else TABLE_NAMES, run.partition_key)

            plan = Plan(at=at, happens={"kill": None, "fail": trouble, "overtake": overtake}[trap])
            effects.names = []
            if run is None:
                world.tick(plan)
            else:
                world.start(run, plan)
            reached = len(effects.names) > at
            if reached and run is not None and trap == "kill":
                assert world.asks_again(run)
            world.settle(expected(emulator, ids))
        finally:
            world.close()
        if not reached:
            break
        interrupted += 1
        at += stride
    assert interrupted >= thorough(1, 6)
