"""What the files in a storage root say, held against the ledger: read only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from akool_dagster.ledger import AccountLedger, JobState, VideoState
from akool_dagster.ledger.records import FINAL_STATES
from akool_dagster.operations.adopt import lost_tombstones, read_mark_or_why
from akool_dagster.operations.findings import Finding, Level, named
from akool_dagster.operations.landed_rows import TableRows, read_rows
from akool_dagster.operations.partitions import Window, by_window, granularities, partition_key, window_of
from akool_dagster.operations.video_files import is_there, recorded_file
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.storage.marker import ledger_command
from akool_dagster.tables.files import TableFile, table_files

_END_COLUMNS = {"statuses": "state", "videos": "video_state"}


@dataclass(slots=True, kw_only=True)
class FileCheck:
    """What was looked at, and what was found."""

    findings: list[Finding] = field(default_factory=list)
    tables: int | None = None
    """How many table files were read; None: they could not be listed."""
    videos: int | None = None
    """How many stored videos were looked for; None: none were."""


def check_files(account: AccountLedger, root: StorageRoot, into: FileCheck, *, videos: bool) -> None:
    """Hold the account's files against the ledger. ``videos``: look for the file of every stored video, too.

    Raises `StorageError` when the root cannot be reached; ``into`` has what was found until then.
    """
    files = table_files(root, account.name)
    into.tables = 0
    comparison = _Comparison(account, root, into)
    comparison.identity(files)
    for window, there in by_window(files).items():
        comparison.partition(window, there)
    comparison.say_what_differs()
    comparison.gone_files(files)
    if videos:
        comparison.videos()


class _Comparison:
    def __init__(self, account: AccountLedger, root: StorageRoot, into: FileCheck) -> None:
        self._account = account
        self._root = root
        self._into = into
        self._adopt = ledger_command("adopt", account.name)
        self._rowless = set(account.pruning.tombstones())
        self._elsewhere: set[str] = set()
        """Ids that the ledger does not have in the partition of their row."""
        self._unsettled: set[str] = set()
        self._forgotten: set[str] = set()
        self._stored: dict[str, tuple[str, int | None]] = {}
        """The path and the size of each video that the manifest shows as stored."""

    def identity(self, files: Sequence[TableFile]) -> None:
        """Compare whose the root is, and how long its partitions are."""
        mark, reason = read_mark_or_why(self._account, self._root)
        is_new = mark is None and not files and not self._account.landings.root_is_marked()
        if reason is not None and not is_new:
            self._add(
                "identity",
                f"{self._root.uri(self._account.name)} is not the storage root of ledger {self._account.ledger_id}: "
                f"{reason}.",
                "Is the storage mounted, and are AKOOL_STORAGE and AKOOL_LEDGER_URL right? If this ledger takes the "
                f"place of another, or the files were moved, run {self._adopt}.",
            )
        known = {self._account.landings.granularity(), None if mark is None else mark.granularity} - {None}
        if len(shown := known | set(granularities(files))) > 1:
            self._add(
                "granularity",
                f"The partitions of {self._account.name} are both {' and '.join(sorted(map(str, shown)))}, by the "
                "ledger, ledger.json and the names of the files.",
                "Give the other partitions a prefix of their own, and move their files away.",
            )

    def partition(self, window: Window, files: Sequence[TableFile]) -> None:
        """Compare the rows of one partition."""
        states = self._account.inspection.states(*window)
        for file in files:
            column = _END_COLUMNS.get(file.table)
            try:
                table = read_rows(self._root, file, [column, "path", "bytes"] if column else [])
            except StorageError as error:
                self._add("tables", str(error), f"Bring the file back from a backup, and run {self._adopt}.")
                continue
            self._into.tables = (self._into.tables or 0) + 1
            self._rowless.difference_update(table.index)
            ended = _ended(file.table, table)
            for job_id in table.index:
                state = states.get(job_id)
                if state is None:
                    self._elsewhere.add(job_id)
                elif state == JobState.FORGOTTEN:
                    self._forgotten.add(job_id)
                elif state not in FINAL_STATES and job_id in ended:
                    self._unsettled.add(job_id)
            if file.table == "videos":
                rows = table.of(sorted(ended)) if "video_state" in table.rows.schema.names else {}
                self._stored |= {
                    job_id: (row.get("path") or "", row.get("bytes"))
                    for job_id, row in rows.items()
                    if row["video_state"] == VideoState.STORED
                }

    def say_what_differs(self) -> None:
        """Report the ids that the tables and the ledger do not agree on."""
        moved = self._account.pruning.partitions_of(self._elsewhere).keys()
        unknown = sorted(self._elsewhere - moved)
        if unknown:
            self._add(
                "tables",
                f"The tables have {len(unknown)} jobs that the ledger does not know: {named(unknown)}.",
                f"Run {self._adopt}.",
            )
        if moved:
            self._add(
                "tables",
                f"{len(moved)} jobs have a row in another partition than the ledger has them in: "
                f"{named(sorted(moved))}.",
                f"{self._adopt} moves those that have no other row.",
                Level.NOTICE,
            )
        if self._unsettled:
            self._add(
                "tables",
                f"The tables show {len(self._unsettled)} jobs as ended that the ledger does not: "
                f"{named(sorted(self._unsettled))}.",
                f"The ledger is older than the tables. Run {self._adopt}.",
            )
        if self._forgotten:
            self._add(
                "forgotten",
                f"The tables have rows of {len(self._forgotten)} jobs that were forgotten: "
                f"{named(sorted(self._forgotten))}.",
                f"Run {ledger_command('forget ID...', self._account.name)} with these ids again.",
            )
        if self._rowless:
            self._into.findings.append(lost_tombstones(sorted(self._rowless), self._root, self._account.name))

    def gone_files(self, files: Sequence[TableFile]) -> None:
        """Report the partitions that have landed and have no file, of tables that have others."""
        granularity = self._account.landings.granularity()
        there = {(file.start, file.table) for file in files}
        tables = {file.table for file in files}
        gone = sorted(
            (table, at)
            for (at, table), version in self._account.landings.landed(0).items()
            if version and table in tables and (at, table) not in there
        )
        if gone:
            keys = [f"{table} of {partition_key(window_of(at, granularity))}" for table, at in gone]
            self._add(
                "tables",
                f"{len(gone)} files have landed and are not in {self._root.uri(self._account.name)}: {named(keys)}.",
                "If they were not removed on purpose: bring them back from a backup, or, unless jobs of that day were "
                "pruned, materialize those partitions.",
                Level.NOTICE,
            )

    def videos(self) -> None:
        """Look for the file of every video that the ledger or the manifest has as stored."""
        for job in self._account.jobs(JobState.COMPLETED):
            if job.video_state == VideoState.STORED and job.video_record is not None:
                self._stored[job.job_id] = recorded_file(job.video_record)
            elif job.video_state != VideoState.STORED:
                self._stored.pop(job.job_id, None)
        self._into.videos = len(self._stored)
        gone = sorted(job_id for job_id, file in self._stored.items() if not is_there(self._root, *file))
        if gone:
            self._add(
                "files",
                f"{len(gone)} stored videos are not in {self._root.uri()}, or not at their size: {named(gone)}.",
                "Bring the files back from a backup of the storage. Akool keeps them for 7 days: until then "
                "`akool-dagster track ID --again` has those downloaded anew that were not pruned.",
            )

    def _add(self, about: str, what: str, hint: str, level: Level = Level.PROBLEM) -> None:
        self._into.findings.append(Finding(about=about, what=what, hint=hint, level=level))


def _ended(table: str, landed: TableRows) -> set[str]:
    """Return the ids that a table shows as ended."""
    if table != "statuses" or "state" not in landed.rows.schema.names:
        return set() if table == "statuses" else set(landed.index)
    states = landed.rows.column("state").to_pylist()
    return {job_id for job_id, row in landed.index.items() if states[row] in FINAL_STATES}
