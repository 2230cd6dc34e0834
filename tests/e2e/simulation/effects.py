"""Where a process touches the world, and what can happen to it right there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from akool_dagster.api.client import AkoolClient
from akool_dagster.base.clock import Clock
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.errors import LedgerUnavailableError
from akool_dagster.storage import StorageError, StorageRoot
from tests.clock import FakeClock


class Killed(BaseException):
    """The process is no more. Whatever it still tries to do to the world does not happen."""


@dataclass(frozen=True)
class Plan:
    """What happens to a process at one of its effects, counted from 0."""

    at: int
    happens: Callable[[str], None] | None
    """What happens there, told the effect's name; None: the process is killed."""


@dataclass
class Life:
    """One process: how many effects it has had, and whether it still lives."""

    plan: Plan | None = None
    effects: int = 0
    dead: bool = False


class Effects:
    """The effects of the process that runs now; processes that start meanwhile have a life of their own."""

    def __init__(self) -> None:
        self.names: list[str] = []
        """The effects that there were, in order."""
        self._lives: list[Life] = []
        self._thread = threading.get_ident()

    @contextmanager
    def life(self, plan: Plan | None) -> Iterator[Life]:
        """Run a process; when it is killed, the block ends quietly."""
        life = Life(plan=plan)
        self._lives.append(life)
        try:
            yield life
        except Killed:
            assert life.dead
        finally:
            assert self._lives.pop() is life

    def reach(self, name: str) -> None:
        """Come to an effect."""
        if not self._lives:  # the test itself is at work
            return
        life = self._lives[-1]
        if life.dead:
            raise Killed
        life.effects += 1
        self.names.append(name)
        plan = life.plan
        # What happens meanwhile happens in the simulation's own thread; a process is killed in any.
        if plan is None or life.effects <= plan.at:
            return
        if plan.happens is None:
            life.dead = True
            raise Killed
        if threading.get_ident() == self._thread:
            life.plan = None
            plan.happens(name)

    @property
    def inside(self) -> bool:
        """Return whether a process is at work."""
        return bool(self._lives)

    @property
    def dead(self) -> bool:
        """Return whether the process that runs now was killed."""
        return bool(self._lives) and self._lives[-1].dead


def trouble(name: str) -> None:
    """Fail as the ledger or the storage does now and then; the HTTP side has the emulator's faults."""
    if "ledger" in name:
        raise LedgerUnavailableError("The ledger cannot be used now: simulated.")
    if "file" in name:
        raise StorageError("Cannot write: simulated.")


def tap(patch: pytest.MonkeyPatch, effects: Effects) -> None:
    """Let every effect of the package come through `Effects.reach`, before and after it takes place."""

    def around(owner: type, method: str, name: str) -> None:
        original = getattr(owner, method)

        def tapped(self: Any, *args: Any, **options: Any) -> Any:
            effects.reach(f"before {name}")
            result = original(self, *args, **options)
            effects.reach(f"after {name}")
            return result

        patch.setattr(owner, method, tapped)

    around(StorageRoot, "publish", "file")
    around(AkoolClient, "results", "call")

    write = Database.write

    @contextmanager
    def tapped_write(self: Database, **options: Any) -> Iterator[sa.Connection]:
        effects.reach("before ledger write")
        with write(self, **options) as connection:
            yield connection
        effects.reach("after ledger write")

    patch.setattr(Database, "write", tapped_write)

    lock = StorageRoot.lock

    def tapped_lock(self: StorageRoot, relative: str, *, seconds: float, clock: Clock) -> AbstractContextManager[None]:
        # A process that holds the lock is held up in this very thread: to wait for it would take real time for nothing.
        return lock(self, relative, seconds=seconds, clock=FakeClock())

    patch.setattr(StorageRoot, "lock", tapped_lock)

    unlink = Path.unlink

    def tapped_unlink(self: Path, missing_ok: bool = False) -> None:
        if not effects.dead:  # a killed process leaves its temporary files
            unlink(self, missing_ok=missing_ok)

    patch.setattr(Path, "unlink", tapped_unlink)


@contextmanager
def unheard() -> Iterator[None]:
    """Say nothing of what the generators of a dead process try to do when they are collected."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
