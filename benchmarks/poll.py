"""Poll: many due ids against an emulator in another process, and bare loops that only post and parse."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import process_time

import requests

from akool_dagster.api.client import AkoolClient, ApiKey
from akool_dagster.base.clock import Clock, Deadline, SystemClock
from akool_dagster.emulator import AkoolEmulator, EmulatedJob
from akool_dagster.ledger import JobLedger
from akool_dagster.polling import DEFAULT_CONCURRENT_REQUESTS, DEFAULT_IDS_PER_REQUEST, run_poll_pass
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
MOST_TIMES_BARE = 3.0
MOST_MS_A_CALL = 5.0
LEAST_TIMES_SINGLE = 5.0
LATENCY_SECONDS = 0.2
LATENCY_SHARE = 0.2
LEAST_SHARE_OF_LINE = 0.8
"""Of the ids a second that the calls at a time could carry if only the latency took time."""
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
    """Seconds over all turns of our passes and of the bare loop; peak memory after the first turn and the last.

    The CPU seconds are those of this process alone: its emulator runs in another one.
    """

    ours: float
    bare: float
    ours_cpu: float
    bare_cpu: float
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
        _delayed(ids[: int(len(ids) * LATENCY_SHARE)]),
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
    times = measured.ours_cpu / measured.bare_cpu
    ours, bare = (cpu / calls * 1000 for cpu in (measured.ours_cpu, measured.bare_cpu))
    return Line(
        what=f"{what}: CPU of a call",
        ours=f"{ours:.1f} ms ({measured.ours:.1f} s in all)",
        baseline=f"{bare:.1f} ms ({measured.bare:.1f} s in all): bare POST and parse, one call at a time",
        target=f"at most {MOST_TIMES_BARE:.0f}x, or {MOST_MS_A_CALL:.0f} ms above; "
        f"is {times:.1f}x, {ours - bare:.1f} ms",
        met=times <= MOST_TIMES_BARE or ours - bare <= MOST_MS_A_CALL,
    )


def _delayed(ids: Sequence[str]) -> Line:
    """Poll with a latency on each answer, beside as many plain threads as our pass may use."""
    say(f"Poll: {len(ids):,} ids with {LATENCY_SECONDS * 1000:.0f} ms of latency ...")
    with (
        tempfile.TemporaryDirectory(prefix="akool-bench-") as folder,
        _emulator(ids, settles=True, latency=LATENCY_SECONDS) as emulator,
    ):
        url = create_ledger(Path(folder), (pending_job(job_id, FIRST_DUE_MS) for job_id in ids))
        ours, bare = in_fresh_process(_with_latency, emulator.base_url, url, ids)
    line = DEFAULT_IDS_PER_REQUEST * DEFAULT_CONCURRENT_REQUESTS / LATENCY_SECONDS
    rate = len(ids) / ours
    return Line(
        what=f"Poll {len(ids):,} ids, {LATENCY_SECONDS * 1000:.0f} ms of latency on each answer",
        ours=f"{rate:,.0f} ids/s",
        baseline=f"{len(ids) / bare:,.0f} ids/s: {DEFAULT_CONCURRENT_REQUESTS} threads of bare POST and parse",
        target=f"at least {LEAST_SHARE_OF_LINE * line:,.0f} ids/s",
        met=rate >= LEAST_SHARE_OF_LINE * line,
    )


def _with_latency(base_url: str, ledger_url: str, ids: Sequence[str]) -> tuple[float, float]:
    clock = SteppedClock()
    with (
        JobLedger.open(ledger_url, clock=clock) as ledger,
        AkoolClient(ApiKey(API_KEY), base_url=base_url) as client,
        ThreadPoolExecutor(DEFAULT_CONCURRENT_REQUESTS) as pool,
    ):
        ours = seconds(partial(_our_pass, ledger, client, clock, len(ids), DEFAULT_IDS_PER_REQUEST))

        def post_some(first: int) -> None:
            with _session() as session:
                some = ids[first::DEFAULT_CONCURRENT_REQUESTS]
                _bare_loop(session, base_url, some, DEFAULT_IDS_PER_REQUEST)

        bare = seconds(lambda: list(pool.map(post_some, range(DEFAULT_CONCURRENT_REQUESTS))))
    return ours, bare


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["x-api-key"] = API_KEY
    return session


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
    ours = bare = ours_cpu = bare_cpu = 0.0
    peaks = []
    with (
        JobLedger.open(ledger_url, clock=clock) as ledger,
        AkoolClient(ApiKey(API_KEY), base_url=our_url) as client,
        _session() as session,
    ):
        for turn, ids in enumerate(turns):
            clock.calendar_ms = FIRST_DUE_MS + turn
            begun = process_time()
            bare += seconds(partial(_bare_loop, session, bare_url, ids, ids_per_request))
            between = process_time()
            ours += seconds(partial(_our_pass, ledger, client, clock, len(ids), ids_per_request))
            bare_cpu, ours_cpu = bare_cpu + between - begun, ours_cpu + process_time() - between
            peaks.append(peak_memory())
    return Measured(
        ours=ours,
        bare=bare,
        ours_cpu=ours_cpu,
        bare_cpu=bare_cpu,
        memory_at_first=peaks[0],
        memory_at_last=peaks[-1],
    )


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
def _emulator(ids: Sequence[str], settles: bool, latency: float = 0.0) -> Iterator[EmulatorProcess]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, ids, 0 if settles else NEVER, latency), daemon=True)
    process.start()
    there.close()
    try:
        yield EmulatorProcess(here.recv(), here)
    finally:
        here.close()
        process.join()


def _serve(connection: Connection, ids: Sequence[str], polls: int, latency: float) -> None:
    jobs = [EmulatedJob(job_id=job_id, queue_polls=polls, processing_polls=0) for job_id in ids]
    with AkoolEmulator(api_key=API_KEY, jobs=jobs) as emulator:
        if latency:
            emulator.faults.add("latency", seconds=latency)
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
