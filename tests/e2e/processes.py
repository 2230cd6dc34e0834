"""The processes of one Dagster home, found by their environment, and their end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a process of a deployment is."""

    DAEMON = "daemon"
    CODE_SERVER = "code server"
    RUN = "run"
    COMMAND = "command"
    OTHER = "other"  # such as the resource tracker that multiprocessing starts


_SIGNS = (
    ("resource_tracker", Kind.OTHER),
    ("multiprocessing", Kind.RUN),
    ("dagster-daemon", Kind.DAEMON),
    ("grpc", Kind.CODE_SERVER),
    (" track", Kind.COMMAND),
)


@dataclass(frozen=True)
class Process:
    """A process that ran a moment ago."""

    pid: int
    kind: Kind
    command: str

    def kill(self) -> bool:
        """End it by SIGKILL; return whether it still was there."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def processes_of(home: Path) -> Iterator[Process]:
    """Yield the processes whose ``DAGSTER_HOME`` is that folder, but for this one. Needs ``/proc``."""
    sign = f"DAGSTER_HOME={home}\0".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if sign not in (folder / "environ").read_bytes() + b"\0":
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended, or is another user's
            continue
        kind = next((kind for part, kind in _SIGNS if part in command), Kind.OTHER)
        yield Process(int(folder.name), kind, command)


def kill_everything(home: Path) -> int:
    """Kill -9 every process of a home, also those that are being started; return how many it was."""
    killed = 0
    while found := [process for process in processes_of(home) if process.kill()]:
        killed += len(found)
    return killed
