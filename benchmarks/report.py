"""What a benchmark says: lines of ours against a baseline, and what they were measured on."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter

from rich.console import Console
from rich.table import Table

PACKAGES = ("dagster", "pandas", "pyarrow", "sqlalchemy", "requests", "urllib3", "av")
PROGRAMS = {"nginx": "-v", "curl": "--version"}

console = Console()
_progress = Console(stderr=True, style="dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One comparison. ``met`` is None for a figure that is only stated."""

    what: str
    ours: str
    baseline: str = ""
    target: str = ""
    met: bool | None = None


def say(text: str) -> None:
    """Tell the person who waits what is being done."""
    _progress.print(text, highlight=False)


def seconds(work: Callable[[], object]) -> float:
    """Return how long the work took, in seconds of wall time."""
    begun = perf_counter()
    work()
    return perf_counter() - begun


def best_of_rounds(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return each contender's least seconds. They take turns, so that a busy moment of the machine hits all alike."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, run in contenders.items():
            best[name] = min(best[name], run())
    return best


def megabytes(number: float) -> str:
    """Return a number of bytes for people."""
    return f"{number / 1e6:,.0f} MB"


def show(lines: Iterable[Line], took: float) -> None:
    """Print the one table, and below it what it was measured on."""
    table = Table(title="akool-dagster: ours against a baseline of the same run", title_justify="left")
    for name in ("what", "ours", "baseline", "target"):
        table.add_column(name, overflow="fold")
    table.add_column("met", justify="center")
    verdicts = {True: "[green]yes[/]", False: "[bold red]NO[/]", None: ""}
    for line in lines:
        table.add_row(line.what, line.ours, line.baseline, line.target, verdicts[line.met])
    console.print(table)
    console.print(f"{_machine()}; took {took:.0f} s.", highlight=False, style="dim")


def _machine() -> str:
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    programs = [_program_version(name, flag) for name, flag in PROGRAMS.items()]
    return (
        f"{os.cpu_count()} cores of {platform.machine()} ({platform.system()} {platform.release()}){load}; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {', '.join([*versions, *programs])}"
    )


def _program_version(name: str, flag: str) -> str:
    path = shutil.which(name)
    if path is None:
        return f"no {name}"
    printed = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    return " ".join((printed.stdout + printed.stderr).splitlines()[0].replace("nginx version: ", "").split()[:2])
