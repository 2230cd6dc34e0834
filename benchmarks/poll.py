"""Poll: many due ids against an emulator in another process, and a bare loop that only posts and parses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import requests

from akool_dagster.api.client import AkoolClient, ApiKey
from akool_dagster.clock import Clock, Deadline, SystemClock
from akool_dagster.emulator import AkoolEmulator, EmulatedJob
from akool_dagster.ledger import JobLedger
from akool_dagster.polling import DEFAULT_IDS_PER_REQUEST, run_poll_pass
from benchmarks.ledgers import ACCOUNT, DAY_MS, DAY_START_MS, create_ledger, job_ids, pending_job
from benchmarks.processes import in_fresh_process, peak_memory
from benchmarks.report import Line, megabytes, say, seconds

IDS, QUICK_IDS = 100_000, 10_000
QUEUEING_SHARE = 0.2
SINGLE_SHARE = 0.02
API_KEY = "benchmark-key"
NEVER = 1_000_000_000
TURNS = 10
"""Ours and the bare loop take turns at a tenth of the ids each, so that a busy machine is busy for both."""
FIRST_DUE_MS = DAY_START_MS + DAY_MS
MOST_TIMES_BARE = 5.0
MOST_MS_A_CALL = 5.0
LEAST_TIMES_SINGLE = 5.0
FLAT_BYTES = 8_000_000
"""Growth over nine tenths of the calls that still counts as flat: a tenth of what keeping every answer would take."""


class SteppedClock(SystemClock):
    """The machine's clock with a calendar that only moves when told to: no id becomes due before its turn, or twice."""

    calendar_ms = FIRST_DUE_MS

    def now_ms(self) -> int:
        """Return the calendar's moment."""
        return self.calendar_ms


@dataclass(frozen=True, slots=True)
class Asked:
    """What reached the server."""

    calls: int
    ids: int
    distinct_ids: int


@dataclass(frozen=True, slots=True)
class EmulatorProcess:
    """An emulator elsewhere; `asked` tells what reached it since it was last asked."""

    base_url: str
    connection: Connection

    def asked(self) -> Asked:
        """Return what reached the server, and forget it there."""
        self.connection.send(None)
        answer: Asked = self.connection.recv()
        return answer


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds over all turns of our passes and of the bare loop; peak memory after the first turn and the last."""

    ours: float
    bare: float
    memory_at_first: int
    memory_at_last: int


def run(quick: bool) -> list[Line]:
    """Measure polling; raises AssertionError when an id was asked for more or less than once."""
    ids = job_ids(QUICK_IDS if quick else IDS)
    calls = ceil(len(ids) / DEFAULT_IDS_PER_REQUEST)
    settled = _measured(ids, DEFAULT_IDS_PER_REQUEST, settles=True)
    single = _measured(ids[: int(len(ids) * SINGLE_SHARE)], 1, settles=True)
    queueing = _measured(ids[: int(len(ids) * QUEUEING_SHARE)], DEFAULT_IDS_PER_REQUEST, settles=False)
    scaled = single.ours / SINGLE_SHARE
    grown = settled.memory_at_last - settled.memory_at_first
    what = f"Poll {len(ids):,} ids"
    return [
        Line(
            what=f"{what}: calls the server counted",
            ours=f"{calls:,}, each id once",
            target=f"{calls:,}",
            met=True,
        ),
        _against_bare(f"{what}, all settle", settled, calls),
        _against_bare(f"Poll {len(ids) * QUEUEING_SHARE:,.0f} ids, all go on", queueing, ceil(calls * QUEUEING_SHARE)),
        Line(
            what=f"{what}: {DEFAULT_IDS_PER_REQUEST} ids a call against 1",
            ours=f"{settled.ours:.1f} s",
            baseline=f"{scaled:.0f} s, scaled from {SINGLE_SHARE:.0%} of them",
            target=f"at most 1/{LEAST_TIMES_SINGLE:.0f}; is 1/{scaled / settled.ours:.1f}",
            met=scaled >= LEAST_TIMES_SINGLE * settled.ours,
        ),
        Line(
            what=f"{what}: peak memory",
            ours=f"{megabytes(settled.memory_at_last)} at the end",
            baseline=f"{megabytes(settled.memory_at_first)} after a tenth",
            target=f"flat (within {megabytes(FLAT_BYTES)}); grew {grown / 1e6:.1f} MB",
            met=grown <= FLAT_BYTES,
        ),
    ]


def _against_bare(what: str, measured: Measured, calls: int) -> Line:
    times = measured.ours / measured.bare
    above = (measured.ours - measured.bare) / calls * 1000
    return Line(
        what=what,
        ours=f"{measured.ours:.1f} s, {measured.ours / calls * 1000:.1f} ms a call",
        baseline=f"{measured.bare:.1f} s, {measured.bare / calls * 1000:.1f} ms a call: bare POST and parse",
        target=f"at most {MOST_TIMES_BARE:.0f}x, or {MOST_MS_A_CALL:.0f} ms a call above; "
        f"is {times:.1f}x, {above:.1f} ms",
        met=times <= MOST_TIMES_BARE or above < MOST_MS_A_CALL,
    )


def _measured(ids: Sequence[str], ids_per_request: int, *, settles: bool) -> Measured:
    say(f"Poll: {len(ids):,} ids, {ids_per_request} a call, {'all settle' if settles else 'all go on'} ...")
    turns = [ids[start : start + len(ids) // TURNS] for start in range(0, len(ids), len(ids) // TURNS)]
    content = (pending_job(job_id, FIRST_DUE_MS + turn) for turn, some in enumerate(turns) for job_id in some)
    with (
        tempfile.TemporaryDirectory(prefix="akool-bench-") as folder,
        _emulator(ids, settles) as for_ours,
        _emulator(ids, settles) as for_bare,
    ):
        url = create_ledger(Path(folder), content)
        measured = in_fresh_process(_take_turns, for_ours.base_url, for_bare.base_url, url, turns, ids_per_request)
        for emulator in (for_ours, for_bare):
            asked = emulator.asked()
            assert asked == Asked(ceil(len(ids) / ids_per_request), len(ids), len(ids)), asked
    return measured


def _take_turns(
    our_url: str, bare_url: str, ledger_url: str, turns: Sequence[Sequence[str]], ids_per_request: int
) -> Measured:
    clock = SteppedClock()
    ours = bare = 0.0
    peaks = []
    with (
        JobLedger.open(ledger_url, clock=clock) as ledger,
        AkoolClient(ApiKey(API_KEY), base_url=our_url) as client,
        requests.Session() as session,
    ):
        session.trust_env = False
        session.headers["x-api-key"] = API_KEY
        for turn, ids in enumerate(turns):
            clock.calendar_ms = FIRST_DUE_MS + turn
            bare += seconds(partial(_bare_loop, session, bare_url, ids, ids_per_request))
            ours += seconds(partial(_our_pass, ledger, client, clock, len(ids), ids_per_request))
            peaks.append(peak_memory())
    return Measured(ours=ours, bare=bare, memory_at_first=peaks[0], memory_at_last=peaks[-1])


def _bare_loop(session: requests.Session, base_url: str, ids: Sequence[str], ids_per_request: int) -> None:
    url = f"{base_url}/api/open/v4/image2Video/resultsByIds"
    for start in range(0, len(ids), ids_per_request):
        body = {"_ids": ",".join(ids[start : start + ids_per_request])}
        assert session.post(url, json=body, timeout=60).json()["code"] == 1000


def _our_pass(ledger: JobLedger, client: AkoolClient, clock: Clock, due: int, ids_per_request: int) -> None:
    report = run_poll_pass(
        ledger.account(ACCOUNT), client, clock=clock, deadline=Deadline(clock, 3600), ids_per_request=ids_per_request
    )
    assert (report.polled, report.recorded.changed) == (due, due), report


@contextmanager
def _emulator(ids: Sequence[str], settles: bool) -> Iterator[EmulatorProcess]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, ids, 0 if settles else NEVER), daemon=True)
    process.start()
    there.close()
    try:
        yield EmulatorProcess(here.recv(), here)
    finally:
        here.close()
        process.join()


def _serve(connection: Connection, ids: Sequence[str], polls: int) -> None:
    jobs = [EmulatedJob(job_id=job_id, queue_polls=polls, processing_polls=0) for job_id in ids]
    with AkoolEmulator(api_key=API_KEY, jobs=jobs) as emulator:
        connection.send(emulator.base_url)
        while True:
            try:
                connection.recv()
            except EOFError:
                return
            asked = [request.job_ids for request in emulator.journal.calls("resultsByIds")]
            emulator.journal.clear()
            everything = [job_id for call in asked for job_id in call]
            connection.send(Asked(len(asked), len(everything), len(set(everything))))
