"""`ledger check`: whether a ledger is sound, whether the storage root is its own, and which jobs are stuck and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from akool_dagster.base.clock import Clock
from akool_dagster.ledger import (
    AccountLedger,
    Counts,
    JobLedger,
    LedgerError,
    LedgerMissingError,
    LedgerSchemaError,
    LedgerUnavailableError,
)
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.inspection import damage, schema_differences
from akool_dagster.ledger.schema import SCHEMA_VERSION
from akool_dagster.operations.check_files import FileCheck, check_files
from akool_dagster.operations.findings import Finding, Level
from akool_dagster.operations.stuck_jobs import stuck_jobs
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.storage.marker import ledger_command


@dataclass(slots=True, kw_only=True)
class CheckReport:
    """What is known of one account's ledger and storage root."""

    ledger: str
    """The ledger's URL, without its password."""
    storage: str
    account: str
    findings: list[Finding] = field(default_factory=list)
    ledger_id: str | None = None
    schema: str | None = None
    version: int | None = None
    counts: Counts | None = None
    table_files: int | None = None
    """How many tables were read; None: they were not looked at."""
    videos_checked: int | None = None
    """How many stored videos were looked for in the storage root; None: that was not asked."""

    @property
    def ok(self) -> bool:
        """Return whether nothing is wrong."""
        return all(finding.level != Level.PROBLEM for finding in self.findings)


def check(url: str, root: StorageRoot, account: str, *, clock: Clock, files: bool = False) -> CheckReport:
    """Look at everything and change nothing. ``files``: ask the storage root for every stored video, a request each.

    Raises `LedgerUrlError` for a URL that is none; whatever else is wrong is a finding.
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
    except LedgerSchemaError as error:
        report.schema = database.version()
        report.findings.append(_unusable("schema", error, "Do as it says; nothing else was checked."))
    except LedgerMissingError as error:
        report.findings.append(_unusable("database", error, "Do as it says; nothing else was checked."))
    except LedgerUnavailableError as error:
        adopt = ledger_command("adopt", account)
        hint = f"Mend the database. If it is damaged, keep a copy, restore its newest backup, and run {adopt}."
        report.findings.append(_unusable("database", error, hint))
    except LedgerError as error:
        report.findings.append(_unusable("database", error, "Mend it as the message says."))
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
    checked = FileCheck()
    try:
        check_files(account, root, checked, videos=files)
    except StorageError as error:
        hint = "Mend the storage, or set AKOOL_STORAGE right."
        checked.findings.append(Finding(about="storage", what=str(error), hint=hint))
    report.findings += checked.findings
    report.table_files, report.videos_checked = checked.tables, checked.videos
    report.findings += stuck_jobs(account, clock)


def _unusable(about: str, error: LedgerError, hint: str) -> Finding:
    return Finding(about=about, what=str(error), hint=hint)


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
