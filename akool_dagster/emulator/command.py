"""The emulator for people: what ``akool-dagster emulator`` prints, and how it ends."""

from __future__ import annotations

import signal
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from akool_dagster.base.clock import Clock, SystemClock
from akool_dagster.emulator.errors import EmulatorError
from akool_dagster.emulator.fault_descriptions import parse_flag, switch_on
from akool_dagster.emulator.faults import FaultSwitch
from akool_dagster.emulator.jobs import population
from akool_dagster.emulator.server import AkoolEmulator

API_KEY = "emulator-key"


def serve(
    port: int,
    seed: int,
    jobs: int,
    speed: float,
    echo: Callable[[str], None],
    clock: Clock | None = None,
    *,
    faults: Sequence[str] = (),
    fault_rate: float = 0.0,
    max_ids_per_call: int | None = None,
) -> None:
    """Serve a population of jobs on the loopback until Ctrl-C or SIGTERM, after saying how to use it.

    ``port`` 0 takes a free one. ``faults`` are switched on, each as ``NAME[,option=value...]``; ``fault_rate`` is the
    probability that a call meets a random one of those that pass by themselves. Call it in the main thread, where
    signals arrive. Raises `EmulatorError` when the port is taken or a fault cannot be switched on, and ``ValueError``
    for a negative number of jobs or a speed that is not above 0.
    """
    clock = SystemClock() if clock is None else clock
    inhabitants = population(jobs, seed=seed, now_ms=clock.now_ms())
    emulator = AkoolEmulator(
        api_key=API_KEY,
        seed=seed,
        jobs=inhabitants,
        clock=clock,
        speed=speed,
        port=port,
        max_ids_per_call=max_ids_per_call,
    )
    _switch_on(emulator.faults, faults, fault_rate)
    with _stopped_by_signals() as stopped, emulator:
        noun = "job" if jobs == 1 else "jobs"
        echo(f"Akool emulator at {emulator.base_url}: {jobs} {noun}, seed {seed}, speed {speed:g}.")
        echo(f"\nexport AKOOL_BASE_URL={emulator.base_url} AKOOL_API_KEY={API_KEY}\n")
        if inhabitants:
            echo(track_command(job.job_id for job in inhabitants) + "\n")
        if emulator.faults.active:
            echo(f"Faults are on; {emulator.base_url}/emulator/faults shows and changes them.\n")
        echo("Ctrl-C stops it.")
        while not clock.wait(stopped, 3600.0):
            pass
    echo("The emulator has stopped.")


def _switch_on(faults: FaultSwitch, flags: Sequence[str], rate: float) -> None:
    try:
        for flag in flags:
            switch_on(faults, parse_flag(flag))
        if rate:
            faults.add_random(rate)
    except ValueError as error:
        raise EmulatorError(str(error)) from error


def track_command(job_ids: Iterable[str]) -> str:
    """Return one shell command that tracks the ids, on lines short enough to read."""
    lines = textwrap.wrap(" ".join(job_ids), width=104, break_on_hyphens=False)
    return " \\\n  ".join(["akool-dagster track", *lines])


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set; afterwards they do again what they did before."""
    stopped = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in signals]
    try:
        yield stopped
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
