"""The command ``akool-dagster jobs``: how the tracked jobs stand."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import islice

import click
from rich.console import Console
from rich.table import Table

from akool_dagster.base.clock import SystemClock
from akool_dagster.cli.options import account_option
from akool_dagster.cli.terminal import printable, require_output
from akool_dagster.ledger import Job, JobLedger, JobState
from akool_dagster.ledger.records import status_label
from akool_dagster.settings import ledger_url_from

SHOWN_JOBS = 200
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@click.command()
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state.")
@click.option("--json", "as_json", is_flag=True, help="All fields of all jobs, as a JSON array.")
@account_option
def jobs(state: str | None, as_json: bool, account: str) -> None:
    """Show the tracked jobs."""
    require_output()
    now = SystemClock().now_ms()
    with JobLedger.open(ledger_url_from(os.environ)) as ledger:
        found = ledger.account(account).jobs(state)
        if as_json:
            _echo_json(found)
            return
        shown = list(islice(found, SHOWN_JOBS))
        table = Table(title=f"Jobs of {account} in {ledger.shown_url}")
        for column in ("_id", "state", "status", "age", "polls", "next poll", "video", "remark"):
            table.add_column(column, no_wrap=column == "_id", overflow="fold")
        for job in shown:
            table.add_row(*_job_cells(job, now))
        # Akool's own words are shown: brackets in them are no markup, and colons no emoji.
        console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
        console.print(table)
        rest = sum(1 for _ in found)
        if rest:
            console.print(f"... and {rest} more. Narrow it with --state, or take --json.")


def _job_cells(job: Job, now: int) -> tuple[str, ...]:
    pending = job.state == JobState.PENDING
    return (
        job.job_id,
        job.state,
        status_label(job.status),
        _span((now - job.partition_at) / 1000),
        str(job.polls),
        ("now" if job.next_poll_at <= now else "in " + _span((job.next_poll_at - now) / 1000)) if pending else "",
        job.video_state or "",
        printable(job.failure_reason or job.last_error or job.video_error or ""),
    )


def _span(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _echo_json(found: Iterable[Job]) -> None:
    click.echo("[", nl=False)
    for index, job in enumerate(found):
        row = {("_id" if name == "job_id" else name): value for name, value in asdict(job).items()}
        for name in ("labels", "payload", "video_record"):
            row[name] = None if row[name] is None else json.loads(row[name])
        for name in row:
            if name.endswith(("_at", "_since")) and row[name] is not None:
                row[name] = _iso(row[name])
        click.echo(("," if index else "") + "\n" + json.dumps(row), nl=False)
    click.echo("\n]")


def _iso(milliseconds: int) -> str | int:
    try:
        return (EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds")
    except OverflowError:  # a time that no calendar has, made from an odd time in one of Akool's rows
        return milliseconds
