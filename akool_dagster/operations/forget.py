"""`ledger forget`: removes everything of some jobs but their ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath

from akool_dagster.base.clock import Clock
from akool_dagster.ledger import AccountLedger, LeaseHeldError, LeaseLostError
from akool_dagster.ledger.records import normalise_job_id
from akool_dagster.operations.adopt import read_mark_or_why
from akool_dagster.operations.findings import Finding
from akool_dagster.operations.landed_rows import read_rows
from akool_dagster.operations.partitions import Window, both_leases, by_window, window_of
from akool_dagster.operations.video_files import recorded_file
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.storage.marker import OwnershipError, ledger_command
from akool_dagster.tables.files import TableFile, remove_rows, table_files, table_paths
from akool_dagster.videos.landing import FILE_ENDINGS


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
    """Ids that neither the ledger nor a table had. They are never tracked from now on."""
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class _Place:
    """What one partition has of the jobs."""

    ids: set[str] = field(default_factory=set)


def forget(account: AccountLedger, root: StorageRoot, job_ids: Iterable[str], *, clock: Clock) -> ForgetReport:
    """Leave an id and no more of these jobs, known to the ledger or only to the tables.

    The ledger forgets them first, so that no landing brings them back; then their files and rows are removed.
    Running it again after a crash finishes it. A file that cannot be read, or a partition that a run goes on holding,
    is a finding, and the others go on. Raises `InvalidJobError`, `OwnershipError` where the root is not this ledger's,
    and `StorageError` when it cannot be reached.
    """
    wanted = {normalise_job_id(job_id) for job_id in job_ids}
    files = table_files(root, account.name)
    mark, reason = read_mark_or_why(account, root)
    if reason is not None and (mark is not None or files or account.landings.root_is_marked()):
        raise OwnershipError(
            f"{root.uri(account.name)} is not the storage root of ledger {account.ledger_id}: {reason}. Check "
            f"AKOOL_STORAGE, or run {ledger_command('adopt', account.name)} first. Nothing was forgotten."
        )
    recorded: dict[str, set[str]] = defaultdict(set)
    """The files that are known of the jobs."""
    for job_id, record in account.videos.records(wanted).items():
        recorded[job_id].add(recorded_file(record)[0])
    known = account.pruning.partitions_of(wanted)
    account.pruning.forget(wanted)
    report = ForgetReport(jobs=len(wanted))
    places: dict[Window, _Place] = defaultdict(_Place)
    for job_id, at in known.items():
        places[window_of(at, account.landings.granularity())].ids.add(job_id)
    for window, there in by_window(files).items():
        for file in there:
            _look_into(root, file, wanted, places[window], recorded, report)
    report.unknown = sorted(wanted.difference(*(place.ids for place in places.values())))
    for window, place in sorted(places.items()):
        if place.ids:
            _remove(account, root, window, place, recorded, clock, report)
    report.findings = list(dict.fromkeys(report.findings))  # a damaged file is met twice
    return report


def _look_into(
    root: StorageRoot,
    file: TableFile,
    wanted: Collection[str],
    place: _Place,
    recorded: Mapping[str, set[str]],
    report: ForgetReport,
) -> None:
    try:
        table = read_rows(root, file, ["path"])
    except StorageError as error:
        report.findings.append(_left(str(error), "Mend what it says, or bring the file back from a backup."))
        return
    rows = table.of(sorted(table.index.keys() & set(wanted)))
    if rows:
        place.ids.update(rows)
        for job_id, row in rows.items():
            recorded[job_id].add(row.get("path") or "")


def _remove(
    account: AccountLedger,
    root: StorageRoot,
    window: Window,
    place: _Place,
    recorded: Mapping[str, set[str]],
    clock: Clock,
    report: ForgetReport,
) -> None:
    try:
        with both_leases(account, window, "forget") as check:
            check()
            for job_id in sorted(place.ids):
                paths = _video_files(account.name, window, job_id, recorded[job_id])
                report.files += sum(root.remove(path) for path in paths)
            # Every table, not those in which a row was seen: a run that ended meanwhile may have written one.
            for relative in table_paths(account.name, window):
                check()
                try:
                    removed = remove_rows(root, relative, place.ids, clock)
                except StorageError as error:
                    report.findings.append(
                        _left(str(error), "Mend what it says, or bring the file back from a backup.")
                    )
                    continue
                report.rows += removed
                report.tables += bool(removed)
    except (StorageError, LeaseHeldError, LeaseLostError) as error:
        report.findings.append(_left(str(error), "Mend what the message says."))


def _video_files(account: str, window: Window, job_id: str, recorded: Collection[str]) -> set[str]:
    """Return where the job's files can be. A path that is none of the job's own is not believed."""
    folder = PurePosixPath(account, "videos")
    day = datetime.fromtimestamp(window[0] / 1000, UTC).date().isoformat()
    days = {day} | {
        path.parent.name
        for path in map(PurePosixPath, recorded)
        if path.parent.parent == folder and path.stem == job_id and path.parent.name != ".."
    }
    return {f"{folder / one / job_id}{suffix}" for one in days for suffix in FILE_ENDINGS}


def _left(what: str, hint: str) -> Finding:
    return Finding(
        about="tables",
        what=f"{what} What is there of the jobs was not removed.",
        hint=f"{hint} Then run the command again.",
    )
