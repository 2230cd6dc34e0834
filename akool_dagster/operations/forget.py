"""`ledger forget`: removes everything of some jobs but their ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath

from akool_dagster.base.clock import Clock
from akool_dagster.ledger import AccountLedger, LeaseHeldError, LeaseLostError
from akool_dagster.ledger.records import normalise_job_id
from akool_dagster.operations.account_files import account_files
from akool_dagster.operations.findings import Finding
from akool_dagster.operations.landed_rows import read_rows
from akool_dagster.operations.partitions import Window, both_leases, window_of
from akool_dagster.operations.video_files import recorded_file
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables.files import TableFile, remove_rows, table_paths
from akool_dagster.videos.landing import FILE_ENDINGS

_MEND_THE_FILE = "Mend what it says, or bring the file back from a backup."


@dataclass(slots=True, kw_only=True)
class ForgetReport:
    """What forgetting removed."""

    jobs: int
    rows: int = 0
    tables: int = 0
    """How many table files had rows of the jobs."""
    files: int = 0
    """How many files of videos were removed."""
    unknown: list[str] = field(default_factory=list)
    """Ids that neither the ledger nor a table had. The ledger refuses to track these ids from now on."""
    findings: list[Finding] = field(default_factory=list)


def forget(account: AccountLedger, root: StorageRoot, job_ids: Iterable[str], *, clock: Clock) -> ForgetReport:
    """Leave an id and no more of these jobs, known to the ledger or only to the tables.

    The ledger forgets the jobs first, so that no landing brings their rows back; then their files and rows are removed.
    Running the command again after a crash finishes the removal. A file that cannot be read, or a partition that a run
    goes on holding, is a finding, and the others go on. Raises `InvalidJobError`, `OwnershipError` where the root is
    not this ledger's, and `StorageError` when the root cannot be reached.
    """
    wanted = {normalise_job_id(job_id) for job_id in job_ids}
    there = account_files(account, root)
    there.require_own("Nothing was forgotten.")
    known = account.pruning.partitions_of(wanted)
    recorded = {job_id: recorded_file(record)[0] for job_id, record in account.videos.records(wanted).items()}
    account.pruning.forget(wanted)
    report = ForgetReport(jobs=len(wanted))
    files = there.by_window()
    paths: dict[Window, dict[str, set[str]]] = {window: {} for window in files}
    for job_id, at in known.items():
        window = window_of(at, account.landings.granularity())
        paths.setdefault(window, {})[job_id] = {recorded.get(job_id, "")}
    for window, of_jobs in sorted(paths.items()):
        for file in files.get(window, ()):
            for job_id, path in _paths_in(root, file, wanted, report).items():
                of_jobs.setdefault(job_id, set()).add(path)
        if of_jobs:
            _remove(account, root, window, of_jobs, clock, report)
    report.unknown = sorted(wanted.difference(*paths.values()))
    report.findings = list(dict.fromkeys(report.findings))  # a damaged file is met twice
    return report


def _paths_in(root: StorageRoot, file: TableFile, wanted: Collection[str], report: ForgetReport) -> dict[str, str]:
    """Return the path of each job's video, or an empty text, by the ids that the table has."""
    try:
        rows = read_rows(root, file, ["path"]).of(sorted(wanted))
    except StorageError as error:
        report.findings.append(_left(error, _MEND_THE_FILE))
        return {}
    return {job_id: row.get("path") or "" for job_id, row in rows.items()}


def _remove(
    account: AccountLedger,
    root: StorageRoot,
    window: Window,
    paths: Mapping[str, Collection[str]],
    clock: Clock,
    report: ForgetReport,
) -> None:
    """Remove the videos and the rows of the jobs that ``paths`` names, in one partition."""
    try:
        with both_leases(account, window, "forget") as check:
            check()
            for job_id in sorted(paths):
                files = _video_files(account.name, window, job_id, paths[job_id])
                report.files += sum(root.remove(path) for path in files)
            # Every table, not only those with a row of the jobs: a run that ended meanwhile may have written a row.
            for relative in table_paths(account.name, window):
                check()
                try:
                    removed = remove_rows(root, relative, paths.keys(), clock)
                except StorageError as error:
                    report.findings.append(_left(error, _MEND_THE_FILE))
                    continue
                report.rows += removed
                report.tables += bool(removed)
    except (StorageError, LeaseHeldError, LeaseLostError) as error:
        report.findings.append(_left(error, "Mend what the message says."))


def _video_files(account: str, window: Window, job_id: str, recorded: Collection[str]) -> set[str]:
    """Return where the job's files can be. A path that is not the job's own is ignored."""
    folder = PurePosixPath(account, "videos")
    day = datetime.fromtimestamp(window[0] / 1000, UTC).date().isoformat()
    days = {day} | {
        path.parent.name
        for path in map(PurePosixPath, recorded)
        if path.parent.parent == folder and path.stem == job_id and path.parent.name != ".."
    }
    return {f"{folder / one / job_id}{suffix}" for one in days for suffix in FILE_ENDINGS}


def _left(error: Exception, hint: str) -> Finding:
    return Finding(
        about="tables",
        what=f"{error} What is there of the jobs was not removed.",
        hint=f"{hint} Then run the command again.",
    )
