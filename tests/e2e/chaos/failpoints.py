"""Fail-points: a process that reaches an armed boundary dies by SIGKILL, at once. They exist only in these tests.

The driver arms one by a file; the process that reaches it moves that file, as the trace, and kills itself.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.e2e.chaos.boundaries import BOUNDARIES, Boundary, Moment

FOLDER_VARIABLE = "CHAOS_FAILPOINTS"
"""The environment variable with the folder of the fail-points. Without it nothing is installed."""


@dataclass(frozen=True)
class Failpoint:
    """One side of one boundary."""

    boundary: Boundary
    moment: Moment

    def __str__(self) -> str:
        return f"{self.moment} {self.boundary.name}"


FAILPOINTS: tuple[Failpoint, ...] = tuple(Failpoint(boundary, moment) for boundary in BOUNDARIES for moment in Moment)


class Arming:
    """The folder through which the driver and the processes that are to die talk."""

    def __init__(self, folder: Path) -> None:
        self._armed = folder / "armed"
        self._fired = folder / "fired"

    def prepare(self) -> None:
        """Make the folders."""
        self._armed.mkdir(parents=True)
        self._fired.mkdir()

    def arm(self, failpoint: Failpoint, *, reached: int = 1) -> None:
        """Let the process die that reaches the fail-point for this many-th time."""
        hidden = self._armed / f".{failpoint}"
        hidden.write_text(json.dumps({"reached": reached}))
        hidden.rename(self._armed / str(failpoint))

    def disarm(self, failpoint: Failpoint) -> bool:
        """Take it back; return whether it was still armed."""
        try:
            (self._armed / str(failpoint)).unlink()
        except FileNotFoundError:
            return False
        return True

    def take_fired(self) -> dict[str, int]:
        """Return the process id that died at each fail-point since the last call."""
        fired: dict[str, int] = {}
        for trace in self._fired.glob("*.trace"):
            fired[trace.name.partition(".")[0]] = int(trace.name.split(".")[1])
            trace.unlink()
        return fired

    def reach(self, failpoint: Failpoint, reached: Counter[tuple[str, int]]) -> None:
        """Die if the fail-point is armed and its turn has come."""
        armed = self._armed / str(failpoint)
        try:
            wanted = json.loads(armed.read_text())["reached"]
            turn = (str(failpoint), armed.stat().st_ino)
        except FileNotFoundError:
            return
        reached[turn] += 1
        if reached[turn] >= wanted:
            self._die(armed)

    def _die(self, armed: Path) -> None:
        trace = self._fired / f"{armed.name}.{os.getpid()}.trace"
        try:
            armed.rename(trace)  # only one process gets it
        except FileNotFoundError:
            return
        for path in (trace, self._fired):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        os.kill(os.getpid(), signal.SIGKILL)


def resolve(target: str) -> tuple[Any, str, Callable[..., Any]]:
    """Return the owner, the name and the function of a target. Raises when there is none."""
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, import_module(module))
    function = vars(owner)[name]
    if not callable(function):
        raise TypeError(f"{target} is no function.")
    return owner, name, function


def install(arming: Arming) -> None:
    """Wrap every boundary in this process."""
    reached: Counter[tuple[str, int]] = Counter()
    for boundary in BOUNDARIES:
        owner, name, function = resolve(boundary.target)
        setattr(owner, name, _wrapped(function, boundary, arming, reached))


def install_if_asked(environment: dict[str, str]) -> bool:
    """Install the fail-points in this process when its environment names their folder; return whether it did."""
    folder = environment.get(FOLDER_VARIABLE)
    if folder is not None:
        install(Arming(Path(folder)))
    return folder is not None


def _wrapped(
    function: Callable[..., Any], boundary: Boundary, arming: Arming, reached: Counter[tuple[str, int]]
) -> Callable[..., Any]:
    before, after = (Failpoint(boundary, moment) for moment in Moment)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if boundary.suffix and not str(args[-1]).endswith(boundary.suffix):
            return function(*args, **kwargs)
        arming.reach(before, reached)
        result = function(*args, **kwargs)
        arming.reach(after, reached)
        return result

    return wrapper
