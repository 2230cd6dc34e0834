from __future__ import annotations

import ast
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from akool_dagster.emulator import FAULT_KINDS
from tests.e2e.chaos import check, databases, findings
from tests.e2e.chaos.boundaries import BOUNDARIES, ONLY_AT_THE_FIRST_LANDING, Boundary
from tests.e2e.chaos.deployment import Restart
from tests.e2e.chaos.failpoints import FAILPOINTS, FOLDER_VARIABLE, Arming, Failpoint, resolve
from tests.e2e.chaos.outcome import longest_wait
from tests.e2e.chaos.waits import SHORT_WAITS

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda boundary: boundary.name)
def test_every_boundary_is_a_function_of_the_package(boundary: Boundary) -> None:
    _, name, function = resolve(boundary.target)
    assert function.__name__ == name
    assert function.__module__.startswith("akool_dagster.")
    assert boundary.fault is None or boundary.fault in FAULT_KINDS


def test_a_boundary_that_the_package_no_longer_has_is_an_error() -> None:
    with pytest.raises(KeyError):
        resolve("akool_dagster.ledger.ledger:JobLedger.no_such_method")


def test_boundaries_have_names_of_their_own() -> None:
    names = {boundary.name for boundary in BOUNDARIES}
    assert len(names) == len(BOUNDARIES)
    assert names >= ONLY_AT_THE_FIRST_LANDING


@pytest.mark.parametrize(("module", "name", "value"), SHORT_WAITS, ids=lambda part: str(part)[:40])
def test_every_shortened_wait_is_one_of_the_package(module: str, name: str, value: object) -> None:
    original = getattr(import_module(module), name)
    assert callable(value) if callable(original) else value < original


def test_the_check_and_its_findings_use_nothing_of_the_package() -> None:
    for module in (check, databases, findings):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert imported
        assert not [name for name in imported if name.startswith("akool_dagster")]


@pytest.fixture
def arming(tmp_path: Path) -> Arming:
    arming = Arming(tmp_path / "failpoints")
    arming.prepare()
    return arming


def failpoint(name: str) -> Failpoint:
    return next(one for one in FAILPOINTS if str(one) == name)


def test_a_process_dies_where_it_is_armed_and_leaves_a_trace(arming: Arming, tmp_path: Path) -> None:
    after = failpoint("after track ids")
    arming.arm(failpoint("before track ids"), reached=2)
    arming.arm(after)
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "DAGSTER_HOME": str(tmp_path),
        FOLDER_VARIABLE: str(tmp_path / "failpoints"),
    }
    command = [sys.executable, "-m", "tests.e2e.chaos.command", "track", "68919a464b4dbdd4ab3d3034"]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(arming.take_fired()) == ["after track ids"]
    assert arming.take_fired() == {}
    assert not arming.disarm(after)
    assert arming.disarm(failpoint("before track ids"))  # reached once, and armed for the second time


def test_the_longest_wait_is_from_a_restart_with_something_to_land_to_the_next_request() -> None:
    restarts = [Restart(0, False), Restart(100, True), Restart(200, True), Restart(400, True)]
    assert longest_wait(restarts, [50, 130, 450]) == 200  # nothing was asked for from 200 to 400
    assert longest_wait(restarts, [50, 130, 220, 450]) == 50
    assert longest_wait(restarts[:1], [90]) == 0


def test_a_last_restart_after_which_nothing_was_asked_for_has_no_end() -> None:
    assert longest_wait([Restart(0, True)], []) == 0
