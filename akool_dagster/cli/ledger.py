"""The commands ``akool-dagster ledger ...``: looking after the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import click

from akool_dagster.base.clock import SystemClock
from akool_dagster.cli.options import account_option, confirm, yes_option
from akool_dagster.cli.terminal import printable
from akool_dagster.ledger import JobLedger
from akool_dagster.operations.adopt import AdoptionPlan, AdoptionReport, adopt, plan_adoption
from akool_dagster.operations.check import CheckReport, check
from akool_dagster.operations.findings import Finding, Level
from akool_dagster.operations.forget import ForgetReport, forget
from akool_dagster.operations.prune import prune
from akool_dagster.settings import ledger_url_from, settings_from
from akool_dagster.storage import StorageRoot

SHOWN_FINDINGS = 50


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


@ledger_group.command("adopt")
@yes_option
@account_option
def adopt_command(yes: bool, account: str) -> None:
    """Make the storage root this ledger's, and let the ledger know what the tables know.

    For every change of ledger or root: the ledger was lost, restored from a backup or made anew; the files were moved,
    or start anew in an empty place. Jobs that only the tables know are tracked, and nothing is taken back. Then every
    partition lands again. Run it again after a crash. Asks before it begins; in a script answer with --yes.
    """
    with _opened(account) as (ledger, root):
        mine = ledger.account(account)
        plan = plan_adoption(mine, root)
        _echo_plan(plan, ledger, root, account)
        confirm("Is every deployment with another ledger of this root stopped, and shall it be so?", yes)
        report = adopt(mine, root, plan, clock=SystemClock(), progress=lambda line: click.echo(line, err=True))
        _echo_adoption(report)
        click.echo(f"{root.uri(account)} is ledger {ledger.ledger_id}'s. The next ticks land every partition again.")
    _exit(not any(finding.level == Level.PROBLEM for finding in report.findings))


def _echo_plan(plan: AdoptionPlan, ledger: JobLedger, root: StorageRoot, account: str) -> None:
    place, there = root.uri(account), f"It has {len(plan.files)} table files."
    if plan.reason is None:
        click.echo(f"{place} is ledger {ledger.ledger_id}'s already. {there} Adopting again does no harm.")
    else:
        click.echo(f"{place} is not ledger {ledger.ledger_id}'s: {plan.reason}. {there}")


def _echo_adoption(report: AdoptionReport) -> None:
    _echo_findings(report.findings)
    jobs = report.jobs
    click.echo(
        f"{report.files} table files of {report.partitions} partitions read. Jobs: {jobs.added} added, {jobs.settled} "
        f"settled, {jobs.moved} moved to the partition of their rows, {jobs.filled} filled in, {jobs.unchanged} known "
        "as they are."
    )
    if report.asked_again:
        click.echo(f"{report.asked_again} ended without a row in results: Akool is asked for them again.")
    if jobs.added:
        click.echo("Jobs that never landed are in no table: track them again.")


@ledger_group.command("prune")
@click.option(
    "--older-than",
    "days",
    required=True,
    type=click.IntRange(1, 36_500),
    metavar="DAYS",
    help="How old a partition must be.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@account_option
def prune_command(days: int, dry_run: bool, account: str) -> None:
    """Empty old jobs whose rows the tables in the storage root hold.

    Jobs that failed, or whose video is stored or lost, keep their id, partition and end. From then on the tables'
    files are the only copy: back them up. --dry-run says first what would be emptied.
    """
    with _opened(account) as (ledger, root):
        report = prune(
            ledger, ledger.account(account), root, older_than_days=days, clock=SystemClock(), dry_run=dry_run
        )
    _echo_findings(report.findings)
    what = "would be pruned" if dry_run else "pruned"
    click.echo(
        f"{report.pruned} jobs of {report.partitions} partitions {what}; {report.kept} were kept, since a table does "
        "not show them as they are."
    )
    if report.pruned and not dry_run:
        click.echo("The database reuses the space. To give it back to the disk, stop the daemon and run VACUUM.")
    _exit(not any(finding.level == Level.PROBLEM for finding in report.findings))


@ledger_group.command("forget")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@yes_option
@account_option
def forget_command(ids: tuple[str, ...], yes: bool, account: str) -> None:
    """Remove everything of these jobs but their ids: rows, videos, labels, Akool's answers.

    For a person's right, or a mistake. It cannot be undone: a forgotten id is never tracked again. Run it again after
    a crash. Asks before it begins; in a script answer with --yes.
    """
    with _opened(account) as (ledger, root):
        confirm(f"Remove the rows, videos and answers of {len(set(ids))} jobs for good?", yes)
        report = forget(ledger.account(account), root, ids, clock=SystemClock())
    _echo_forgotten(report)
    _exit(not report.findings)


def _echo_forgotten(report: ForgetReport) -> None:
    _echo_findings(report.findings)
    click.echo(
        f"{report.jobs} jobs forgotten: {report.rows} rows of {report.tables} table files and {report.files} files of "
        "videos removed."
    )
    if report.unknown:
        click.echo(f"Neither the ledger nor a table knew: {', '.join(report.unknown)}.")
    click.echo(
        "Not touched: Dagster's event log, backups of the ledger and the storage, and tables that another IO manager "
        "keeps. After restoring a backup, run this command again."
    )


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
        click.echo(f"{mark} ({finding.about}): {printable(finding.what)}\n    {finding.hint}")
    if len(findings) > SHOWN_FINDINGS:
        click.echo(f"... and {len(findings) - SHOWN_FINDINGS} more.")


def _in_words(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(numbers.items()) if number) or "none"


def _exit(ok: bool) -> None:
    if not ok:
        click.get_current_context().exit(1)
