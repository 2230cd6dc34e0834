"""The command ``akool-dagster``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from akool_dagster.clock import SystemClock
from akool_dagster.command_options import account_option
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.job_ids import OBJECT_ID_PATTERN
from akool_dagster.ledger import Job, JobLedger, JobState, LedgerMissingError
from akool_dagster.ledger.records import status_label
from akool_dagster.ledger_commands import ledger_group
from akool_dagster.settings import ledger_url_from
from akool_dagster.terminal import printable, read_input, require_output, write_any_text
from akool_dagster.tracking import TrackInput, parse_track_input

SHOWN_JOBS = 200
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Group(click.Group):
    """Shows an error of ours as its sentence, not as a stack trace."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except AkoolDagsterError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="akool-dagster")
def main() -> None:
    """Track Akool image-to-video jobs and see how they stand.

    The ledger is at AKOOL_LEDGER_URL, or in the folder akool of DAGSTER_HOME.
    """
    write_any_text()


@main.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--from-file", "source", type=click.Path(allow_dash=True), help="Ids from a file, or - for standard input."
)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label for every id; may be repeated.")
@click.option("--again", is_flag=True, help="Poll missing and abandoned jobs anew, and try lost videos once more.")
@account_option
def track(ids: tuple[str, ...], source: str | None, labels: tuple[str, ...], again: bool, account: str) -> None:
    """Watch jobs until Akool says how they ended.

    A file has one id a line, ids separated by commas or blanks, CSV with a column _id (commas, semicolons or tabs),
    or JSON (lines or an array) with a field _id. CSV and JSON may give labels in a column or field `labels` (in CSV
    as JSON text). Ids that are tracked already only gain labels.
    """
    if not ids and source is None:
        raise click.UsageError("Give at least one ID, or --from-file PATH (- for standard input).")
    common = dict(_parsed_label(label) for label in labels)
    given: list[tuple[str | None, TrackInput]] = [(None, parse_track_input("\n".join(ids), common))] if ids else []
    if source is not None:
        given.append((source, parse_track_input(_text_of(source), common)))
    for name, parsed in given:
        _echo_problems(name, parsed)
    requests = [request for _, parsed in given for request in parsed.requests]
    refused = sum(len(parsed.problems) for _, parsed in given)
    if refused and not requests:
        raise click.ClickException(f"refused: {refused} (see above). Nothing was tracked.")
    url = ledger_url_from(os.environ)
    is_new = not _is_there(url)
    with JobLedger.create(url) as ledger:
        known = ledger.inspection(account).accounts()
        if known and account not in known:
            click.echo(f"Note: the ledger had no jobs of {account} yet, but of {', '.join(known)}.", err=True)
        report = ledger.track(account, requests, again=again)
        parts = [f"{report.added} new", f"{report.known} tracked already"]
        if report.repeated:
            parts.append(f"{report.repeated} given twice")
        if report.relabelled:
            parts.append(f"{report.relabelled} relabelled")
        if again:
            hint = "" if report.reopened else " (only missing and abandoned jobs and lost videos can be)"
            parts.append(f"{report.reopened} reopened{hint}")
        odd = sum(not OBJECT_ID_PATTERN.fullmatch(request.job_id) for request in requests)
        if odd:
            click.echo(f"Note: {odd} of the ids are not 24 hex digits, as Akool's are. Is that right?", err=True)
        made = ", which was made for it: there was none" if is_new else ""
        click.echo(f"{', '.join(parts)}; account {account}, ledger {ledger.shown_url}{made}")
    if refused:
        raise click.ClickException(f"refused: {refused} (see above). The others are tracked.")


def _is_there(ledger_url: str) -> bool:
    try:
        JobLedger.open(ledger_url).close()
    except LedgerMissingError:
        return False
    return True


def _parsed_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
    return key.strip(), value


def _text_of(source: str) -> str:
    try:
        raw = read_input() if source == "-" else Path(source).read_bytes()
        return raw.decode("utf-8")
    except OSError as error:
        raise click.ClickException(f"Cannot read {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{source} is not UTF-8 text (byte {error.start}). Nothing was tracked.") from error


def _echo_problems(name: str | None, parsed: TrackInput) -> None:
    for problem in parsed.problems:
        where = f"argument {problem.line}" if name is None else f"{name}, line {problem.line}"
        click.echo(f"{where}: {problem.message}", err=True)


@main.command()
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state.")
@click.option("--json", "as_json", is_flag=True, help="All fields of all jobs, as a JSON array.")
@account_option
def jobs(state: str | None, as_json: bool, account: str) -> None:
    """Show the tracked jobs."""
    require_output()
    now = SystemClock().now_ms()
    with JobLedger.open(ledger_url_from(os.environ)) as ledger:
        found = ledger.iter_jobs(account, state)
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
    except OverflowError:  # a moment that no calendar has, made from an odd time in one of Akool's rows
        return milliseconds


main.add_command(ledger_group)


@main.command()
@click.option("--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option("--seed", default=0, show_default=True, help="The same seed makes the same jobs.")
@click.option("--jobs", "count", default=24, show_default=True, type=click.IntRange(0), help="How many jobs there are.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How many times faster than life jobs move.",
)
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME[,option=value...]", help="A fault to show; may be repeated."
)
@click.option(
    "--fault-rate",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Probability that a call meets a random fault, of those that pass by themselves.",
)
@click.option("--max-ids-per-call", type=click.IntRange(1), help="Refuse calls with more ids. [default: no limit]")
@click.option("--list-faults", is_flag=True, help="Show the faults and their options, and exit.")
def emulator(
    port: int,
    seed: int,
    count: int,
    speed: float,
    faults: tuple[str, ...],
    fault_rate: float,
    max_ids_per_call: int | None,
    list_faults: bool,
) -> None:
    """Run a local Akool with real MP4s, to try everything without a key."""
    from akool_dagster.emulator.command import serve
    from akool_dagster.emulator.fault_descriptions import kinds_table

    if list_faults:
        click.echo(kinds_table())
        return
    serve(
        port,
        seed,
        count,
        speed,
        click.echo,
        faults=faults,
        fault_rate=fault_rate,
        max_ids_per_call=max_ids_per_call,
    )
