"""The commands ``akool-dagster ledger ...``: looking after the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import click

from akool_dagster.clock import SystemClock
from akool_dagster.command_options import account_option
from akool_dagster.ledger import JobLedger
from akool_dagster.ledger.restoring import Outcome
from akool_dagster.operations.adopt import Adoption, adopt, plan_adoption
from akool_dagster.operations.check import CheckReport, check
from akool_dagster.operations.findings import Finding, Level
from akool_dagster.operations.prune import prune
from akool_dagster.operations.restore import RestoreReport, key_window, restore
from akool_dagster.storage.marker import ledger_command
from akool_dagster.settings import ledger_url_from, settings_from
from akool_dagster.storage import StorageRoot
from akool_dagster.terminal import printable

SHOWN_FINDINGS = 50
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")


@click.group("ledger")
def ledger_group() -> None:
    """Look after the ledger."""


@ledger_group.command("init")
def init_command() -> None:
    """Create the ledger, or upgrade it to this version's schema."""
    with JobLedger.create(ledger_url_from(os.environ)) as created:
        click.echo(f"Ledger {created.ledger_id} is ready at {created.shown_url}")


@ledger_group.command("check")
@click.option("--files", is_flag=True, help="Also look for the file of every stored video: a request each.")
@click.option("--json", "as_json", is_flag=True, help="Everything as a JSON object.")
@account_option
def check_command(files: bool, as_json: bool, account: str) -> None:
    """Say whether the ledger is sound, fits its storage root, and where jobs are stuck.

    Changes nothing. Exits with 1 when there is a problem; each says what to do next.
    """
    settings = settings_from(os.environ)
    report = check(settings.ledger_url, StorageRoot(settings.storage_root), account, clock=SystemClock(), files=files)
    if as_json:
        click.echo(json.dumps({"ok": report.ok, **asdict(report)}, indent=1))
    else:
        _echo_check(report)
    _exit(report.ok)


def _echo_check(report: CheckReport) -> None:
    click.echo(f"Ledger {report.ledger_id or '(unknown)'} at {report.ledger}, schema {report.schema or '(none)'}")
    files = "table files were not looked at" if report.table_files is None else f"{report.table_files} table files"
    click.echo(f"Storage root {report.storage}, account {report.account}: {files}")
    if report.counts is not None:
        click.echo(
            f"Jobs: {_in_words(report.counts.states)}; of the pending {_in_words(report.counts.pending_statuses)}"
        )
        looked_for = "" if report.videos_checked is None else f"; {report.videos_checked} files looked for"
        click.echo(f"Videos: {_in_words(report.counts.videos)}{looked_for}")
    _echo_findings(report.findings)
    if not report.ok:
        click.echo("There are problems: see above.")
    else:
        click.echo("No problems, but see the notices." if report.findings else "Everything is in order.")


def _checked_keys(_context: click.Context, _parameter: click.Parameter, keys: tuple[str, ...]) -> tuple[str, ...]:
    for key in keys:
        try:
            key_window(key)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return keys


@ledger_group.command("restore")
@_DRY_RUN
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="KEY",
    callback=_checked_keys,
    help="Only this day or hour; may be repeated.",
)
@click.option("--foreign", is_flag=True, help="Also from a storage root of another ledger than this one's.")
@account_option
def restore_command(dry_run: bool, partitions: tuple[str, ...], foreign: bool, account: str) -> None:
    """Bring a lost, older or pruned ledger up to the tables in the storage root.

    Adds the jobs it does not know, ends those that have ended, fills in pruned payloads. Nothing moves back, and
    nothing in the storage root is changed. Jobs that never landed are in no table: track them again. --dry-run says
    first what would be done.
    """
    with _opened(account) as (ledger, root):
        report = restore(
            ledger,
            root,
            account,
            clock=SystemClock(),
            dry_run=dry_run,
            partitions=partitions,
            foreign=foreign,
            progress=lambda line: click.echo(line, err=True),
        )
    _echo_restore(report, account)
    _exit(not report.problems)


def _echo_restore(report: RestoreReport, account: str) -> None:
    _echo_findings(report.findings)
    jobs = _in_words({outcome.value: report.outcomes.get(outcome, 0) for outcome in Outcome})
    click.echo(f"{report.files} tables of {report.partitions} partitions read. Jobs: {jobs}")
    if not report.files:
        click.echo("Nothing was restored: no table was read.")
        return
    if report.asked_again:
        click.echo(f"{report.asked_again} have ended without a full row in the tables: Akool is asked for them again.")
    if report.outcomes.get(Outcome.ADDED) or report.adoption is not None:
        track = "`akool-dagster track" + ("`" if account == "akool" else f" --account {account}`")
        click.echo(f"Jobs that never landed are in no table: track them again ({track}).")
    if report.dry_run:
        click.echo("Nothing was changed (--dry-run).")
    else:
        click.echo(f"The ledger counts on from revision {report.revision}.")
    if report.adoption is not None:
        click.echo(
            f"The storage root is not this ledger's yet: {report.adoption}. Next: {ledger_command('adopt', account)}"
        )


@ledger_group.command("adopt")
@click.option("--yes", is_flag=True, help="Do not ask.")
@account_option
def adopt_command(yes: bool, account: str) -> None:
    """Make this ledger the storage root's: after a loss, or in a new place.

    Everything lands anew, at revisions above those in the tables. The former ledger is refused from then on. Says
    first what it is about to do, and asks; in a script answer with --yes.
    """
    with _opened(account) as (ledger, root):
        plan = plan_adoption(ledger, root, account)
        if plan.reason is None:
            click.echo(f"{root.uri(account)} is ledger {ledger.ledger_id}'s already: nothing is to be done.")
            return
        _echo_plan(plan, ledger, root, account)
        if not yes:
            _confirm("Is every deployment with the former ledger stopped, and shall it be so?")
        adopt(ledger, root, account, plan)
        click.echo(f"{root.uri(account)} is ledger {ledger.ledger_id}'s now. The next ticks land everything anew.")


def _confirm(question: str) -> None:
    try:
        click.confirm(question, abort=True)
    except click.Abort:
        # A no, but also the end of the input, as in a script or a container without a terminal.
        raise click.ClickException("Not confirmed. Nothing was changed. Where nobody is asked, add --yes.") from None


def _echo_plan(plan: Adoption, ledger: JobLedger, root: StorageRoot, account: str) -> None:
    former = "no ledger" if plan.former is None else f"ledger {plan.former}"
    click.echo(f"{root.uri(account)} belongs to {former}: {plan.reason}.")
    click.echo(f"It has {plan.files} table files, the highest at revision {plan.revision}.")
    click.echo(f"It will be ledger {ledger.ledger_id}'s ({ledger.shown_url}).")
    for message in plan.unreadable:
        click.echo(f"Not looked at: {message}")
    if plan.pruned:
        restore_first = ledger_command("restore", account)
        click.echo(f"{plan.pruned} payloads are pruned, and land anew only after {restore_first}.")


@ledger_group.command("prune")
@click.option(
    "--older-than",
    "days",
    required=True,
    type=click.IntRange(1, 36_500),
    metavar="DAYS",
    help="How old a partition must be.",
)
@_DRY_RUN
@account_option
def prune_command(days: int, dry_run: bool, account: str) -> None:
    """Drop Akool's answers of old jobs that the tables in the storage root hold too.

    State, labels and times stay. From then on the tables' files are the only copy: back them up. To land such a day
    anew, run `akool-dagster ledger restore` first. --dry-run says first what would be dropped.
    """
    with _opened(account) as (ledger, root):
        report = prune(ledger, root, account, older_than_days=days, clock=SystemClock(), dry_run=dry_run)
    _echo_findings(report.problems)
    what = "would be dropped" if dry_run else "dropped"
    click.echo(
        f"{report.pruned.payloads} payloads {what}, {report.pruned.bytes} bytes, of {report.partitions} landed "
        f"partitions; {report.kept} as old were kept (their video is not settled, or no Parquet file shows them as "
        "they are)."
    )
    if report.pruned.payloads and not dry_run:
        click.echo("The database reuses the space. To give it back to the disk, stop the daemon and run VACUUM.")
    _exit(not report.problems)


@contextmanager
def _opened(account: str) -> Iterator[tuple[JobLedger, StorageRoot]]:
    settings = settings_from(os.environ)
    root = StorageRoot(settings.storage_root)
    with JobLedger.open(settings.ledger_url) as ledger:
        click.echo(f"Account {account}, ledger {ledger.ledger_id} at {ledger.shown_url}, storage root {root.uri()}")
        yield ledger, root


def _echo_findings(findings: Sequence[Finding]) -> None:
    for finding in findings[:SHOWN_FINDINGS]:
        mark = "PROBLEM" if finding.level == Level.PROBLEM else "Notice"
        click.echo(f"{mark} ({finding.about}): {printable(finding.what)}\n    {finding.todo}")
    if len(findings) > SHOWN_FINDINGS:
        click.echo(f"... and {len(findings) - SHOWN_FINDINGS} more.")


def _in_words(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(numbers.items()) if number) or "none"


def _exit(ok: bool) -> None:
    if not ok:
        click.get_current_context().exit(1)
