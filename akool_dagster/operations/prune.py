"""`ledger prune`: empties old jobs whose rows the tables hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from akool_dagster.base.clock import Clock
from akool_dagster.ledger import AccountLedger, JobLedger, JobState, LeaseHeldError, LeaseLostError, VideoState
from akool_dagster.ledger.landings import VIDEOS
from akool_dagster.ledger.transitions import DAY_MS
from akool_dagster.operations.findings import Finding, Level
from akool_dagster.operations.landed_rows import TableRows, read_rows
from akool_dagster.operations.partitions import Window, both_leases, by_window
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.storage.marker import OwnershipError, ledger_command, read_mark
from akool_dagster.tables.files import TableFile, table_files

_SETTLED_VIDEOS = frozenset({VideoState.STORED, VideoState.LOST})


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
    files = table_files(root, account.name)
    tables = account.landings.enabled_assets()
    mark = read_mark(root, account.name)
    if mark is None or mark.ledger_id != account.ledger_id or not files or not tables:
        raise OwnershipError(
            f"{root.uri(account.name)} has no Parquet tables that ledger {account.ledger_id} has landed, so nothing "
            f"proves that they hold its jobs. Run {ledger_command('check', account.name)}. Another IO manager's tables "
            "are not looked at: with one, keep all jobs in the ledger. Nothing was pruned."
        )
    report = PruneReport(dry_run=dry_run)
    cutoff = clock.now_ms() - older_than_days * DAY_MS
    for window, there in by_window(files).items():
        if window[1] > cutoff or not account.pruning.prunable(*window):
            continue
        report.partitions += 1
        try:
            with both_leases(account, window, "prune") as check:
                version = ledger.version()
                if _is_dirty(account, window, tables):
                    report.findings.append(
                        _kept(there[0], "it has not landed as the ledger has it", "Prune after that.", Level.NOTICE)
                    )
                    continue
                candidates = account.pruning.prunable(*window)
                proven = _shown_by_all(candidates, _read(root, there, tables))
                check()
                report.kept += len(candidates) - len(proven)
                report.pruned += len(proven) if dry_run else account.pruning.prune(proven, version)
        except (StorageError, LeaseHeldError, LeaseLostError) as error:
            report.findings.append(_kept(there[0], str(error), "Prune again once that is mended.", Level.PROBLEM))
    return report


def _is_dirty(account: AccountLedger, window: Window, tables: Sequence[str]) -> bool:
    landed = account.landings.landed(*window)
    with account.landings.snapshot(*window) as snapshot:
        asked = {table: snapshot.videos_version if table == VIDEOS else snapshot.tables_version for table in tables}
    return any(version > landed.get((window[0], table), 0) for table, version in asked.items())


def _read(root: StorageRoot, files: Sequence[TableFile], tables: Collection[str]) -> Mapping[str, TableRows | None]:
    """Return the partition's tables, whole: a damaged column is no copy. None for one that is not there."""
    there = {file.table: file for file in files}
    return {table: read_rows(root, there[table]) if table in there else None for table in tables}


def _shown_by_all(candidates: Mapping[str, str], tables: Mapping[str, TableRows | None]) -> list[str]:
    """Return the jobs, given by id with their state, that every table shows as they ended."""
    shown = {table: {} if landed is None else _ends(table, landed) for table, landed in tables.items()}
    return [
        job_id
        for job_id, state in candidates.items()
        if all(
            state == JobState.FAILED if table == VIDEOS and job_id not in ends else ends.get(job_id, False)
            for table, ends in shown.items()
        )
    ]


def _ends(table: str, landed: TableRows) -> dict[str, bool]:
    """Return, for every row of a table, whether it shows that the job, or its video, is settled."""
    column, settled = {
        VIDEOS: ("video_state", _SETTLED_VIDEOS),
        "statuses": ("state", frozenset({JobState.COMPLETED, JobState.FAILED})),
    }.get(table, ("_id", None))
    values = landed.rows.column(column).to_pylist() if column in landed.rows.schema.names else []
    return {job_id: settled is None or values[row] in settled for job_id, row in landed.index.items() if values}


def _kept(file: TableFile, why: str, hint: str, level: Level) -> Finding:
    return Finding(about="tables", what=f"The jobs of {file.key} were kept: {why}", hint=hint, level=level)
