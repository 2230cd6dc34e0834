"""The crash test in small: a real deployment under faults, killed a bounded number of times. See `make chaos`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from akool_dagster.emulator import AkoolEmulator
from tests.e2e.chaos.boundaries import Place
from tests.e2e.chaos.databases import SqliteLedger
from tests.e2e.chaos.deployment import Deployment
from tests.e2e.chaos.driver import Chaos
from tests.e2e.chaos.failpoints import FAILPOINTS, Failpoint
from tests.e2e.chaos.outcome import Plan
from tests.e2e.chaos.report import report

API_KEY = "MARKED-SECRET-e2e-0815"
SEED = int(os.environ.get("CHAOS_SEED", "1"))
"""Which fail-points have their turn; another seed takes others."""
SELDOM_REACHED = {"renew lease", "hold polling", "halve a call", "record failed video", "keep newer URL"}
TURNS = {Place.TICK: 1, Place.RUN: 1, Place.COMMAND: 1}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes to kill in /proc")


def whose_turn_it_is(seed: int) -> list[Failpoint]:
    """Return a few fail-points of each place: the next ones in the table for the next seed."""
    chosen: list[Failpoint] = []
    for place, number in TURNS.items():
        usual = [
            failpoint
            for failpoint in FAILPOINTS
            if failpoint.boundary.place == place and failpoint.boundary.name not in SELDOM_REACHED
        ]
        chosen += [usual[(seed * number + turn) % len(usual)] for turn in range(number)]
    return chosen


def test_every_seed_in_turn_takes_the_next_failpoints() -> None:
    taken = {failpoint for seed in range(60) for failpoint in whose_turn_it_is(seed)}
    left_out = {failpoint.boundary.name for failpoint in set(FAILPOINTS) - taken}
    assert left_out == SELDOM_REACHED


@pytest.fixture
def emulator() -> Iterator[AkoolEmulator]:
    with AkoolEmulator(api_key=API_KEY, seed=SEED) as emulator:
        yield emulator


@pytest.fixture
def deployment(tmp_path: Path, emulator: AkoolEmulator) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, emulator.base_url, API_KEY, SqliteLedger(tmp_path / "akool" / "ledger.sqlite"))
    yield deployment
    deployment.stop()


def test_a_deployment_killed_again_and_again_under_faults_loses_and_doubles_nothing(
    deployment: Deployment, emulator: AkoolEmulator
) -> None:
    plan = Plan(
        seed=SEED,
        kills=6,
        failpoints=whose_turn_it_is(SEED),
        days=2,
        first_jobs=12,
        step_seconds=3,
        strike_seconds=(3, 6),
        chaos_seconds=240,
        settle_seconds=300,
        loses_its_ledger=False,
    )
    outcome = Chaos(plan, deployment, emulator, print).run()  # what is printed shows when it fails
    assert outcome.survived, report(outcome, SEED) + "\n" + deployment.last_words()
    assert outcome.kills.total() >= plan.kills
    assert {str(failpoint) for failpoint in plan.failpoints} <= outcome.failpoints.keys()
    assert outcome.faults.total() > 0
    assert outcome.files_watched > 0
    assert outcome.runs["SUCCESS"] > 0
    assert deployment.processes() == []
