"""`make demo`: the main job end to end on the emulator, through Dagster's real daemon. `--ui` leaves the web UI on."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
from rich.console import Console
from rich.live import Live
from rich.table import Table

from akool_dagster import JobLedger, TrackRequest
from akool_dagster.base.clock import SystemClock
from akool_dagster.emulator import AkoolEmulator, population
from akool_dagster.ledger import AccountLedger, JobState, VideoState
from akool_dagster.tables import TABLES

JOBS = 24
DAYS = 4
SEED = 7
GIVE_UP_SECONDS = 240
REPOSITORY = Path(__file__).resolve().parent.parent
ACCOUNT = "akool"
DAY_MS = 86_400_000

console = Console()


@dataclass(frozen=True)
class Home:
    """Where one demo keeps everything."""

    folder: Path

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.folder}/akool/ledger.sqlite"

    @property
    def tables(self) -> Path:
        return self.folder / "akool" / ACCOUNT

    @property
    def log(self) -> Path:
        return self.folder / "dagster.log"


@dataclass(frozen=True)
class Standing:
    """How far the demo is."""

    jobs: dict[str, int]
    videos: dict[str, int]
    landed: int
    """Table files, the videos' manifests included."""
    dirty: int
    """Days with something that has not landed."""

    @property
    def done(self) -> bool:
        return not (self.jobs.get(JobState.PENDING) or self.videos.get(VideoState.PENDING) or self.dirty)


def standing(account: AccountLedger) -> Standing:
    """Return what the ledger knows of the jobs and of what has landed."""
    counts = account.counts()
    tables = [name for name in TABLES if name != "videos"]
    return Standing(
        jobs=dict(counts.states),
        videos=dict(counts.videos),
        landed=len(account.landings.landed(0)),
        dirty=len(account.landings.dirty(DAY_MS, tables, videos=True)),
    )


def progress(now: Standing, emulator: AkoolEmulator, seconds: float) -> Table:
    """Return what to show while waiting."""
    table = Table(show_header=False, box=None)
    ended = sum(number for state, number in now.jobs.items() if state != JobState.PENDING)
    table.add_row("jobs ended", f"{ended} of {sum(now.jobs.values())}")
    table.add_row("calls to resultsByIds", str(len(emulator.journal.calls("resultsByIds"))))
    table.add_row("videos stored", f"{now.videos.get(VideoState.STORED, 0)} of {sum(now.videos.values())}")
    table.add_row("Parquet files landed", f"{now.landed} ({now.dirty} days have more to land)")
    table.add_row("", f"{seconds:.0f} s (Dagster's daemon takes a few seconds to start)")
    return table


@contextmanager
def running(command: list[str], home: Home, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Dagster process until the block ends; what it prints goes to the demo's log."""
    with home.log.open("ab") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_landed(account: AccountLedger, emulator: AkoolEmulator, daemon: subprocess.Popen[bytes]) -> bool:
    """Show the progress until everything has landed; return whether it did."""
    started = time.monotonic()
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            now = standing(account)
            seconds = time.monotonic() - started
            live.update(progress(now, emulator, seconds))
            if now.done:
                return True
            if daemon.poll() is not None or seconds > GIVE_UP_SECONDS:
                return False
            time.sleep(0.5)


def landed_days(home: Home) -> Table:
    """Read the tables as anybody would, and return a summary a day."""
    query = f"""
        SELECT strftime(s.partition_time AT TIME ZONE 'UTC', '%Y-%m-%d') AS day, count(*) AS jobs,
               count(*) FILTER (WHERE s.state = 'completed') AS completed,
               count(*) FILTER (WHERE s.state = 'failed') AS failed,
               sum(c.deduction_credit) AS credits, sum(v.probed_duration) AS seconds,
               count(*) FILTER (WHERE v.video_state = 'stored') AS files, sum(v.bytes) AS bytes
        FROM '{home.tables}/statuses/*.parquet' s
        LEFT JOIN '{home.tables}/credits/*.parquet' c USING (_id)
        LEFT JOIN '{home.tables}/videos/*.parquet' v USING (_id)
        GROUP BY day ORDER BY day
    """  # noqa: S608
    table = Table(title="What has landed")
    for heading in ("day (UTC)", "jobs", "completed", "failed", "credits", "seconds of video", "files", "MB"):
        table.add_column(heading, justify="left" if heading.startswith("day") else "right")
    for day, jobs, completed, failed, spent, seconds, files, size in duckdb.execute(query).fetchall():
        cells = (jobs, completed, failed, f"{spent or 0:.0f}", f"{seconds or 0:.1f}", files, f"{(size or 0) / 1e6:.1f}")
        table.add_row(day, *map(str, cells))
    return table


def say_where(home: Home, emulator: AkoolEmulator) -> None:
    """Print where the files are and how to read them."""
    files = list((home.tables / "videos").glob("*/*.mp4"))
    calls = len(emulator.journal.calls("resultsByIds"))
    console.print(f"{JOBS} jobs were polled in {calls} calls to resultsByIds.")
    console.print(f"Tables:  {home.tables}/<table>/<day>.parquet   ({', '.join(TABLES)})", soft_wrap=True)
    console.print(f"Videos:  {len(files)} files, such as {min(files, default='')}", soft_wrap=True)
    console.print(f"Dagster: {home.folder} (DAGSTER_HOME)\n", soft_wrap=True)
    console.print("Read them in pandas and in DuckDB:", style="bold")
    pandas_line = f"import pandas; print(pandas.read_parquet('{home.tables}/credits'))"
    duckdb_line = f"import duckdb; duckdb.sql('FROM \\'{home.tables}/results/*.parquet\\'').show()"
    for line in (pandas_line, duckdb_line):
        print(f'  .venv/bin/python -c "{line}"')


def is_free(port: int) -> bool:
    """Return whether a server can listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main() -> int:
    """Run the demo; return 0 when everything landed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", action="store_true", help="leave the web UI running")
    parser.add_argument("--port", type=int, default=3000, help="port of the web UI")
    options = parser.parse_args()
    if options.ui and not is_free(options.port):
        console.print(f"Port {options.port} is taken. Choose another: make dev PORT=3001", style="bold red")
        return 1
    # Without a handler SIGTERM would end this process alone and leave Dagster's running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = Home(Path(tempfile.mkdtemp(prefix="akool-demo-")))
    settings = (REPOSITORY / "example_repo" / "dagster.yaml").read_text()
    (home.folder / "dagster.yaml").write_text(settings + "telemetry:\n  enabled: false\nnux:\n  enabled: false\n")
    jobs = [
        # Moved by polls, so that each is seen in every state whatever the machine's speed.
        replace(job, queue_polls=index % 2, processing_polls=1 + index % 3 // 2)
        for index, job in enumerate(population(JOBS, seed=SEED, now_ms=SystemClock().now_ms(), days=DAYS))
    ]
    with ExitStack() as stack:
        emulator = stack.enter_context(AkoolEmulator(seed=SEED, jobs=jobs))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AKOOL_")} | {
            "DAGSTER_HOME": str(home.folder),
            "AKOOL_API_KEY": "emulator-key",
            "AKOOL_BASE_URL": emulator.base_url,
        }
        account = stack.enter_context(JobLedger.create(home.ledger_url)).account(ACCOUNT)
        requests = [
            TrackRequest(job_id=job.job_id, labels={"campaign": ("spring", "autumn")[index % 2]})
            for index, job in enumerate(jobs)
        ]
        report = account.track(requests)
        console.print(f"An emulated Akool runs at {emulator.base_url}; {report.added} jobs are tracked.")
        daemon = stack.enter_context(
            running([_tool("dagster-daemon"), "run", "-w", "workspace.yaml"], home, environment)
        )
        if options.ui:
            server = [_tool("dagster-webserver"), "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(options.port)]
            stack.enter_context(running(server, home, environment))
        if not wait_until_landed(account, emulator, daemon):
            console.print(f"Not everything landed: {standing(account)}", style="bold red")
            console.print("".join(home.log.read_text().splitlines(keepends=True)[-40:]), highlight=False)
            return 1
        console.print(landed_days(home))
        say_where(home, emulator)
        if options.ui:
            console.print(f"\nThe web UI is at http://127.0.0.1:{options.port}/asset-groups (Ctrl-C stops it).")
            try:
                daemon.wait()
            except KeyboardInterrupt:
                console.print("Stopping.")
    return 0


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    sys.exit(main())
