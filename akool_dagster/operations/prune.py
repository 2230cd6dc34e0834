"""`ledger prune`: empties old jobs whose rows the tables hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from akool_dagster.base.clock import Clock
from akool_dagster.ledger import AccountLedger, JobLedger, JobState, LeaseHeldError, LeaseLostError
from akool_dagster.ledger.landings import VIDEOS
from akool_dagster.ledger.transitions import DAY_MS
from akool_dagster.operations.account_files import account_files
from akool_dagster.operations.findings import Finding, Level
from akool_dagster.operations.landed_rows import read_rows
from akool_dagster.operations.partitions import Window, both_leases
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.storage.marker import OwnershipError
from akool_dagster.tables.files import TableFile


@dataclass(slots=True, kw_only=True)
class PruneReport:
    """What pruning did, or with ``dry_run`` would do."""

    dry_run: bool
    partitions: int = 0
    """How many partitions are old enough and have jobs that could be pruned."""
    pruned: int = 0
    kept: int = 0
    """Jobs of those partitions that ended, and stay: a table does not show them as they are."""
    findings: list[Finding] = field(default_factory=list)


def prune(
    ledger: JobLedger,
    account: AccountLedger,
    root: StorageRoot,
    *,
    older_than_days: int,
    clock: Clock,
    dry_run: bool = False,
) -> PruneReport:
    """Empty the settled jobs of clean partitions that ended over so many days ago.

    A job is settled when it failed, or its video is stored or lost. Its row must be in every table that the deployment
    lands, read as the job is emptied: from then on the files are the only copy. Raises `OwnershipError` where the root
    is not this ledger's, or has no tables of this package.
    """
    there = account_files(account, root)
    there.require_own("Nothing was pruned.")
    tables = account.landings.enabled_assets()
    if not there.files or not tables:
        raise OwnershipError(
            f"{root.uri(account.name)} has no Parquet tables that ledger {account.ledger_id} has landed, so nothing "
            "proves that they hold its jobs. Another IO manager's tables are not looked at: with another IO manager, "
            "keep all jobs in the ledger. Nothing was pruned."
        )
    report = PruneReport(dry_run=dry_run)
    cutoff = clock.now_ms() - older_than_days * DAY_MS
    for window, files in there.by_window().items():
        if window[1] > cutoff or not account.pruning.prunable(*window):
            continue
        report.partitions += 1
        try:
            with both_leases(account, window, "prune") as check:
                version = ledger.version()
                if _is_dirty(account, window, tables):
                    report.findings.append(
                        _kept(files[0], "it has not landed as the ledger has it", "Prune after that.", Level.NOTICE)
                    )
                    continue
                candidates = account.pruning.prunable(*window)
                proven = _shown_by_all(candidates, root, files, tables)
                check()
                report.kept += len(candidates) - len(proven)
                report.pruned += len(proven) if dry_run else account.pruning.prune(proven, version)
        except (StorageError, LeaseHeldError, LeaseLostError) as error:
            report.findings.append(_kept(files[0], str(error), "Prune again once that is mended.", Level.PROBLEM))
    return report


def _is_dirty(account: AccountLedger, window: Window, tables: Sequence[str]) -> bool:
    start, end = window
    dirty = account.landings.dirty(end - start, [table for table in tables if table != VIDEOS], videos=VIDEOS in tables)
    return any(partition.partition_at == start for partition in dirty)


def _shown_by_all(
    candidates: Mapping[str, str], root: StorageRoot, files: Sequence[TableFile], tables: Sequence[str]
) -> list[str]:
    """Return the jobs, given by id with their state, that every table shows as they ended.

    The tables are read whole: a file with a damaged column is no copy.
    """
    by_table = {file.table: file for file in files}
    proven = list(candidates)
    for table in tables:
        rows = read_rows(root, by_table[table]) if table in by_table else None
        settled, index = (set(), {}) if rows is None else (rows.settled(), rows.index)
        proven = [
            job_id
            for job_id in proven
            if job_id in settled or (table == VIDEOS and candidates[job_id] == JobState.FAILED and job_id not in index)
        ]
    return proven


def _kept(file: TableFile, why: str, hint: str, level: Level) -> Finding:
    return Finding(about="tables", what=f"The jobs of {file.key} were kept: {why}", hint=hint, level=level)
