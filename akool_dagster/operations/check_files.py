"""Compares the files in a storage root with the ledger: read only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from akool_dagster.base.accounts import shown_command
from akool_dagster.ledger import AccountLedger, JobState, VideoState
from akool_dagster.ledger.landings import VIDEOS
from akool_dagster.ledger.records import REOPENABLE_STATES
from akool_dagster.operations.account_files import AccountFiles, account_files
from akool_dagster.operations.adopt import lost_tombstones
from akool_dagster.operations.findings import CheckReport, Finding, Level, named
from akool_dagster.operations.landed_rows import TableRows, read_rows
from akool_dagster.operations.partitions import partition_key, window_of
from akool_dagster.operations.video_files import is_there, recorded_file
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.storage.marker import ledger_command

_VideoFile = tuple[str, int | None]
"""The path and the size in bytes of a stored video."""
_NOT_ENDED = REOPENABLE_STATES | {JobState.PENDING}
_DIFFERENCES = {
    "unknown": Finding(
        about="tables",
        what="The tables have {number} jobs that the ledger does not know: {ids}.",
        hint="Run {adopt}.",
    ),
    "moved": Finding(
        about="tables",
        what="{number} jobs have a row in another partition than in the ledger: {ids}.",
        hint="{adopt} moves those that have no other row.",
        level=Level.NOTICE,
    ),
    "unsettled": Finding(
        about="tables",
        what="The tables show {number} jobs as ended that the ledger does not: {ids}.",
        hint="The ledger is older than the tables. Run {adopt}.",
    ),
    "forgotten": Finding(
        about="forgotten",
        what="The tables have rows of {number} jobs that were forgotten: {ids}.",
        hint="Run {forget} with these ids again.",
    ),
}
"""What is said of ids on which the tables and the ledger do not agree."""


def check_files(account: AccountLedger, root: StorageRoot, report: CheckReport, *, videos: bool) -> None:
    """Compare the account's files with the ledger, and report the differences.

    ``videos``: look for the file of every stored video, too. A root that cannot be reached is a finding.
    """
    try:
        there = account_files(account, root)
        report.table_files = 0
        report.findings += _whose(account, root, there)
        in_manifest = _compare_rows(account, root, there, report)
        report.findings += _gone_files(account, root, there)
        if videos:
            _look_for_videos(account, root, in_manifest, report)
    except StorageError as error:
        hint = "Mend the storage, or set AKOOL_STORAGE right."
        report.findings.append(Finding(about="storage", what=str(error), hint=hint))


def _whose(account: AccountLedger, root: StorageRoot, there: AccountFiles) -> Iterator[Finding]:
    """Compare which ledger the root belongs to, and how long its partitions are."""
    if there.foreign is not None:
        yield Finding(
            about="identity",
            what=f"{there.foreign}.",
            hint="Is the storage mounted, and are AKOOL_STORAGE and AKOOL_LEDGER_URL right? If this ledger takes the "
            f"place of another, or the files were moved, run {ledger_command('adopt', account.name)}.",
        )
    marked = None if there.mark is None else there.mark.granularity
    shown = {account.landings.granularity(), marked, *there.granularities()} - {None}
    if len(shown) > 1:
        yield Finding(
            about="granularity",
            what=f"The partitions of {account.name} are both {' and '.join(sorted(map(str, shown)))}, by the ledger, "
            "ledger.json and the names of the files.",
            hint="Give the other partitions a prefix of their own, and move their files away.",
        )


def _compare_rows(
    account: AccountLedger, root: StorageRoot, there: AccountFiles, report: CheckReport
) -> dict[str, _VideoFile]:
    """Report the ids on which the tables and the ledger do not agree; return the videos that the tables have stored."""
    adopt, forget = ledger_command("adopt", account.name), ledger_command("forget ID...", account.name)
    rowless = set(account.pruning.tombstones())
    stored: dict[str, _VideoFile] = {}
    found: dict[str, set[str]] = {difference: set() for difference in _DIFFERENCES}
    for window, files in there.by_window().items():
        states = account.inspection.states(*window)
        for file in files:
            try:
                table = read_rows(root, file, ["state", "video_state", "path", "bytes"])
            except StorageError as error:
                hint = f"Bring the file back from a backup, and run {adopt}."
                report.findings.append(Finding(about="tables", what=str(error), hint=hint))
                continue
            report.table_files = (report.table_files or 0) + 1
            rowless -= table.index.keys()
            found["unknown"] |= table.index.keys() - states.keys()
            found["forgotten"] |= {one for one in table.index if states.get(one) == JobState.FORGOTTEN}
            found["unsettled"] |= {one for one in table.ended() if states.get(one) in _NOT_ENDED}
            if file.table == VIDEOS:
                stored |= _stored_in(table)
    found["moved"] = set(account.pruning.partitions_of(found["unknown"]))
    found["unknown"] -= found["moved"]
    for difference, words in _DIFFERENCES.items():
        if ids := sorted(found[difference]):
            what = words.what.format(number=len(ids), ids=named(ids))
            report.findings.append(replace(words, what=what, hint=words.hint.format(adopt=adopt, forget=forget)))
    if rowless:
        report.findings.append(lost_tombstones(sorted(rowless), root, account.name))
    return stored


def _stored_in(manifest: TableRows) -> dict[str, _VideoFile]:
    rows = manifest.of(sorted(manifest.settled()))
    return {
        job_id: (row.get("path") or "", row.get("bytes"))
        for job_id, row in rows.items()
        if row["video_state"] == VideoState.STORED
    }


def _gone_files(account: AccountLedger, root: StorageRoot, there: AccountFiles) -> Iterator[Finding]:
    """Report the partitions that have landed and have no file, of tables that have others."""
    files = {(file.start, file.table) for file in there.files}
    tables = {file.table for file in there.files}
    landed = (key for key, version in account.landings.landed(0).items() if version)
    gone = sorted((table, at) for at, table in landed if table in tables and (at, table) not in files)
    if gone:
        granularity = account.landings.granularity()
        keys = [f"{table} of {partition_key(window_of(at, granularity))}" for table, at in gone]
        yield Finding(
            about="tables",
            what=f"{len(gone)} files have landed and are not in {root.uri(account.name)}: {named(keys)}.",
            hint="If they were not removed on purpose: bring them back from a backup, or, unless jobs of that day were "
            "pruned, materialize those partitions.",
            level=Level.NOTICE,
        )


def _look_for_videos(
    account: AccountLedger, root: StorageRoot, in_manifest: Mapping[str, _VideoFile], report: CheckReport
) -> None:
    """Look for the file of every video that the ledger, or for pruned jobs the manifest, has as stored."""
    stored = dict(in_manifest)
    for job in account.jobs(JobState.COMPLETED):
        if job.video_state != VideoState.STORED:
            stored.pop(job.job_id, None)
        elif job.video_record is not None:
            stored[job.job_id] = recorded_file(job.video_record)
    report.videos_checked = len(stored)
    gone = sorted(job_id for job_id, file in stored.items() if not is_there(root, *file))
    if gone:
        what = f"{len(gone)} stored videos are not in {root.uri()}, or not at their size: {named(gone)}."
        hint = (
            "Bring the files back from a backup of the storage. Akool keeps them for 7 days: until then "
            f"{shown_command('track ID --again', account.name)} has those downloaded anew that were not pruned."
        )
        report.findings.append(Finding(about="files", what=what, hint=hint))
