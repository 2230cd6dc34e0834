"""`ledger check`: whether a ledger is sound, whether the storage root is its own, and which jobs are stuck and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from akool_dagster.clock import Clock
from akool_dagster.landing import LandingKind
from akool_dagster.ledger import (
    Counts,
    JobLedger,
    LedgerError,
    LedgerMissingError,
    LedgerSchemaError,
    LedgerUnavailableError,
    VideoState,
)
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.inspection import damage, schema_differences
from akool_dagster.ledger.schema import SCHEMA_VERSION
from akool_dagster.operations.findings import Finding, Level, named
from akool_dagster.operations.stuck_jobs import stuck_jobs
from akool_dagster.operations.survey import Survey, survey, why_adopt
from akool_dagster.storage.marker import ledger_command
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables import RESULTS, TABLES, VIDEOS


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What is known of one account's ledger and storage root."""

    ledger: str
    """The ledger's URL, without its password."""
    storage: str
    account: str
    findings: Sequence[Finding]
    ledger_id: str | None = None
    schema: str | None = None
    revision: int | None = None
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
    schema: str | None = None
    findings: list[Finding] = []
    try:
        schema, findings = _look_at(database)
        if not any(finding.about == "schema" for finding in findings):
            with JobLedger.open(url, clock=clock) as ledger:
                return _check_open(ledger, root, account, clock, files, schema, findings)
    except LedgerError as error:
        findings = [*findings, _unusable(error)]
    finally:
        database.close()
    return CheckReport(ledger=database.shown, storage=root.uri(), account=account, findings=findings, schema=schema)


def _look_at(database: Database) -> tuple[str | None, list[Finding]]:
    """Return the schema's version and what is wrong with the database itself. Raises `LedgerError`s as they come."""
    try:
        database.require()  # before anything else: connecting to a SQLite file makes it
    except LedgerSchemaError as error:
        found = Finding(about="schema", what=str(error), todo="Do as it says; nothing else was checked.")
        return database.version(), [found]
    return SCHEMA_VERSION, list(_database_findings(database))


def _check_open(
    ledger: JobLedger,
    root: StorageRoot,
    account: str,
    clock: Clock,
    files: bool,
    schema: str | None,
    findings: list[Finding],
) -> CheckReport:
    found: Survey | None = None
    videos: int | None = None
    known = ledger.inspection(account).accounts()
    if account not in known and known:
        findings.append(
            Finding(
                about="account",
                what=f"The ledger has no jobs of {account}, but of {', '.join(known)}.",
                todo="Give the prefix of the account with --account.",
                level=Level.NOTICE,
            )
        )
    findings += _broken_rules(ledger, account)
    try:
        found = survey(ledger, root, account)
        findings += _identity(ledger, root, account, found)
        findings += _tables(ledger, account, found)
        findings += _gone(ledger, root, account, found)
        if files:
            videos, missing = _video_files(ledger, root, account)
            findings += missing
    except StorageError as error:
        findings.append(Finding(about="storage", what=str(error), todo="Mend it, or set AKOOL_STORAGE right."))
    findings += stuck_jobs(ledger, account, clock)
    return CheckReport(
        ledger=ledger.shown_url,
        storage=root.uri(),
        account=account,
        findings=findings,
        ledger_id=ledger.ledger_id,
        schema=schema,
        revision=ledger.revision(),
        counts=ledger.counts(account),
        table_files=None if found is None else len(found.files),
        videos_checked=videos,
    )


def _unusable(error: LedgerError) -> Finding:
    todo = {
        LedgerMissingError: "Do as it says; nothing else was checked.",
        LedgerUnavailableError: "Mend the database. If it is damaged, keep a copy of it, restore its newest backup and "
        "run `akool-dagster ledger restore`.",
    }.get(type(error), "Mend it as the message says.")
    return Finding(about="database", what=str(error), todo=todo)


def _database_findings(database: Database) -> Iterator[Finding]:
    differences = schema_differences(database)
    if differences:
        yield Finding(
            about="schema",
            what=f"The tables are not those of schema {SCHEMA_VERSION}: {'; '.join(differences)}.",
            todo="Something else changed them. Restore the ledger's newest backup.",
        )
    damaged = damage(database)
    if damaged:
        yield Finding(
            about="integrity",
            what=f"The database is damaged: {'; '.join(damaged[:5])}.",
            todo="Stop the daemon, keep a copy, restore its newest backup and run `akool-dagster ledger restore`.",
        )


def _broken_rules(ledger: JobLedger, account: str) -> Iterator[Finding]:
    for broken in ledger.inspection(account).broken_rules():
        yield Finding(
            about="rules",
            what=f"{broken.number} times it is not true that {broken.rule} (such as {broken.example}).",
            todo="Please report it, with what was done to the ledger. Its newest backup, followed by "
            f"{ledger_command('restore', account)}, puts it right.",
        )


def _identity(ledger: JobLedger, root: StorageRoot, account: str, found: Survey) -> Iterator[Finding]:
    reason = why_adopt(ledger.ledger_id, found.mark, found.ledger_ids)
    begun = ledger.landings(account).have_begun()
    if reason is None or (found.mark is None and found.unreadable_mark is None and not begun and not found.files):
        return
    restore, adopt = ledger_command("restore", account), ledger_command("adopt", account)
    yield Finding(
        about="identity",
        what=f"{root.uri(account)} is not the storage root of ledger {ledger.ledger_id}: {reason}.",
        todo="Is the storage mounted, and are AKOOL_STORAGE and AKOOL_LEDGER_URL right? If this ledger takes the "
        f"place of one that was lost, or the files were moved: {restore}, then {adopt}.",
    )


def _tables(ledger: JobLedger, account: str, found: Survey) -> Iterator[Finding]:
    restore = ledger_command("restore", account)
    for one in found.unreadable:
        yield Finding(
            about="tables",
            what=one.why
            if not one.pruned
            else f"{one.why} It is the only copy of {one.pruned} payloads, which were pruned from the ledger.",
            todo="A good backup of that file can take its place; so can a new landing of its partition, once it is "
            "moved away."
            if not one.pruned
            else "Bring it back from a backup: nothing else can. Leave it where it is until then.",
        )
    unknown = found.unknown_ids
    if unknown:
        yield Finding(
            about="tables",
            what=f"The tables have {len(unknown)} jobs that the ledger does not know: {named(unknown)}.",
            todo=f"The ledger is older than the tables: restore its newest backup, or run {restore}.",
        )
    unsettled = sorted({job_id for file in found.files for job_id in file.unsettled_ids})
    if unsettled:
        yield Finding(
            about="tables",
            what=f"The tables show {len(unsettled)} jobs as ended that the ledger does not: {named(unsettled)}.",
            todo=f"The ledger is older than the tables: restore its newest backup, or run {restore}.",
        )
    newer = [file.file.relative for file in found.files if file.is_newer]
    if newer:
        yield Finding(
            about="tables",
            what=f"{len(newer)} tables are at a higher revision than the ledger's rows: {named(newer)}. Their "
            "landings would be refused.",
            todo=f"The ledger was restored from an older backup, or was made anew: run {restore}.",
        )


def _gone(ledger: JobLedger, root: StorageRoot, account: str, found: Survey) -> Iterator[Finding]:
    """Yield what has landed, or was pruned because it had, and is in no file any more."""
    if found.only_copy_gone:
        yield Finding(
            about="tables",
            what=f"{len(found.only_copy_gone)} jobs whose payloads were pruned are in no readable file of "
            f"{root.uri(f'{account}/{RESULTS.name}')} any more: {named(found.only_copy_gone)}.",
            todo="Those files are the only copy: bring them back from a backup of the storage, and then run "
            f"{ledger_command('restore', account)}.",
        )
    landed = ledger.landings(account).known()
    for table in TABLES:
        kind = LandingKind.VIDEOS if table == VIDEOS.name else LandingKind.TABLES
        keys = [key for (of, key), known in sorted(landed.items()) if of == kind and known.revision is not None]
        there = found.keys_of(table)
        gone = [key for key in keys if key.replace(":", "") not in there]
        if there and gone:  # without any, another IO manager keeps them, or the table is switched off
            yield Finding(
                about="tables",
                what=f"{len(gone)} partitions have landed, and their file is not in {root.uri(f'{account}/{table}')}: "
                f"{named(gone)}.",
                todo="If they were not removed on purpose, and the table was switched on when they landed: bring the "
                "files back from a backup, or, unless payloads of that day were pruned, materialize those partitions.",
                level=Level.NOTICE,
            )


def _video_files(ledger: JobLedger, root: StorageRoot, account: str) -> tuple[int, list[Finding]]:
    looked_for = 0
    gone: list[str] = []
    for job in ledger.iter_jobs(account):
        if job.video_state != VideoState.STORED or job.video_record is None:
            continue
        looked_for += 1
        record = json.loads(job.video_record)
        path, size = record.get("path"), record.get("bytes")
        if not isinstance(path, str) or not root.exists(path) or root.size(path) != size:
            gone.append(str(path))
    if not gone:
        return looked_for, []
    return looked_for, [
        Finding(
            about="files",
            what=f"{len(gone)} stored videos are not in {root.uri()}, or not at their size: {named(gone)}.",
            todo="Bring them back from a backup of the storage, or from where the files were moved. Akool keeps them "
            "for 7 days only.",
        )
    ]
