"""`ledger check`: whether a ledger is sound, whether the storage root is its own, and which jobs are stuck and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from akool_dagster.base.clock import Clock
from akool_dagster.ledger import (
    AccountLedger,
    JobLedger,
    LedgerError,
    LedgerSchemaError,
    LedgerUnavailableError,
)
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.inspection import damage, schema_differences
from akool_dagster.ledger.schema import SCHEMA_VERSION
from akool_dagster.operations.check_files import check_files
from akool_dagster.operations.findings import CheckReport, Finding, Level
from akool_dagster.operations.stuck_jobs import stuck_jobs
from akool_dagster.storage import StorageRoot
from akool_dagster.storage.marker import ledger_command


def check(url: str, root: StorageRoot, account: str, *, clock: Clock, files: bool = False) -> CheckReport:
    """Look at everything and change nothing. ``files``: ask the storage root for every stored video, a request each.

    Raises `LedgerUrlError` for a text that is no URL of a ledger; whatever else is wrong is a finding.
    """
    database = Database(url)
    report = CheckReport(ledger=database.shown, storage=root.uri(), account=account)
    try:
        database.require()  # before anything else: connecting to a SQLite file makes it
        report.schema = SCHEMA_VERSION
        report.findings += _database_findings(database)
        if not any(finding.about == "schema" for finding in report.findings):
            with JobLedger.open(url, clock=clock) as ledger:
                _check_open(ledger, root, report, clock, files)
    except LedgerError as error:
        about, hint = "database", "Do what the message says. Nothing else was checked."
        if isinstance(error, LedgerSchemaError):
            about, report.schema = "schema", database.version()
        if isinstance(error, LedgerUnavailableError):
            adopt = ledger_command("adopt", account)
            hint = f"Mend the database. If it is damaged, keep a copy, restore its newest backup, and run {adopt}."
        report.findings.append(Finding(about=about, what=str(error), hint=hint))
    finally:
        database.close()
    return report


def _check_open(ledger: JobLedger, root: StorageRoot, report: CheckReport, clock: Clock, files: bool) -> None:
    account = ledger.account(report.account)
    report.ledger_id = ledger.ledger_id
    report.version = ledger.version()
    report.counts = account.counts()
    report.findings += _unknown_account(ledger.accounts(), report.account)
    report.findings += _broken_rules(account)
    check_files(account, root, report, videos=files)
    report.findings += stuck_jobs(account, clock)


def _database_findings(database: Database) -> Iterator[Finding]:
    if differences := schema_differences(database):
        yield Finding(
            about="schema",
            what=f"The tables are not those of schema {SCHEMA_VERSION}: {'; '.join(differences)}.",
            hint="Something else changed them. Restore the ledger's newest backup.",
        )
    if damaged := damage(database):
        yield Finding(
            about="integrity",
            what=f"The database is damaged: {'; '.join(damaged[:5])}.",
            hint="Stop the daemon, keep a copy, restore the newest backup, and run `akool-dagster ledger adopt`.",
        )


def _unknown_account(known: Sequence[str], account: str) -> Iterator[Finding]:
    if known and account not in known:
        yield Finding(
            about="account",
            what=f"The ledger has no jobs of {account}, but of {', '.join(known)}.",
            hint="Give the prefix of the account with --account.",
            level=Level.NOTICE,
        )


def _broken_rules(account: AccountLedger) -> Iterator[Finding]:
    for broken in account.inspection.broken_rules():
        yield Finding(
            about="rules",
            what=f"{broken.number} times it is not true that {broken.rule} (such as {broken.example}).",
            hint="Please report it, with what was done to the ledger. Its newest backup, followed by "
            f"{ledger_command('adopt', account.name)}, puts it right.",
        )
