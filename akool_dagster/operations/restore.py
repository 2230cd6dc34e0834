"""`ledger restore`: brings a lost, older or pruned ledger up to what its landed tables say."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from akool_dagster.clock import Clock
from akool_dagster.landed_files import TableFile, described, landed_file, read_parquet, table_files
from akool_dagster.landing import partition_window
from akool_dagster.ledger import InvalidJobError, JobLedger
from akool_dagster.ledger.inspection import PartitionFacts
from akool_dagster.ledger.records import FINAL_STATES
from akool_dagster.ledger.restoring import FoundJob, Outcome, Restored
from akool_dagster.ledger.rows import chunks
from akool_dagster.operations.findings import Finding, Level, named
from akool_dagster.operations.found_jobs import LandedRow, UnusableRowError, Values, found_job, has_ended, lacking
from akool_dagster.operations.survey import revision_of, why_adopt
from akool_dagster.storage.marker import LandedFile, Mark, OwnershipError, ledger_command, read_mark
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables import RESULTS, TABLES

_KEY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-[0-9]{2}:00)?")


def key_window(key: str) -> tuple[int, int]:
    """Return the first millisecond of a partition, and that of the next, by its key as Dagster writes it.

    Raises ValueError for what is no partition's key.
    """
    window = partition_window(key.replace(":", ""))
    if window is None or not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no partition's key: those are like 2025-10-09, or 2025-10-09-13:00 for an hour.")
    return window


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """What restoring did, or with ``dry_run`` would do."""

    dry_run: bool
    partitions: int
    files: int
    """How many were read."""
    outcomes: Mapping[Outcome, int]
    asked_again: int
    """Jobs that a table shows as ended while none has their full row yet, and that are polled for it."""
    revision: int
    """The ledger's counter afterwards."""
    adoption: str | None
    """Why the storage root is not this ledger's yet; None when it is."""
    findings: Sequence[Finding]

    @property
    def problems(self) -> list[Finding]:
        """Return what is wrong: without any, all that the tables say is in the ledger."""
        return [finding for finding in self.findings if finding.level == Level.PROBLEM]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Landed:
    """One table of one partition, read."""

    file: LandedFile
    table: pa.Table
    index: Mapping[str, int]

    def rows(self, ids: Sequence[str]) -> dict[str, Values]:
        there = [job_id for job_id in ids if job_id in self.index]
        picked = pa.array([self.index[job_id] for job_id in there], pa.int64())
        return dict(zip(there, self.table.take(picked).to_pylist(), strict=True))


class _Restoration:
    def __init__(
        self,
        ledger: JobLedger,
        root: StorageRoot,
        account: str,
        clock: Clock,
        files: Sequence[TableFile],
        *,
        dry_run: bool,
    ) -> None:
        self._ledger = ledger
        self._root = root
        self._account = account
        self._clock = clock
        self._files = files
        self._dry_run = dry_run
        self._ids_of: dict[str, frozenset[str] | None] = {}
        self.restored = Restored()
        self.files = 0
        self.met: set[str] = set()
        """The ledgers that files were written from."""
        self.findings: list[Finding] = []

    def partition(self, files: Sequence[TableFile], used: Collection[str]) -> None:
        """Restore one partition from its files."""
        start, end = files[0].start, files[0].end
        facts = self._ledger.inspection(self._account).partition(start, end)
        landed = {file.table: table for file in files if (table := self._read(file, facts)) is not None}
        if not landed:
            return
        unreadable = {file.table for file in files} - landed.keys()
        ids = sorted(set().union(*(table.index for table in landed.values())))
        left_out: list[str] = []
        twice: list[str] = []
        restoring = self._ledger.restoring(self._account)
        if not self._dry_run:
            restoring.count_on_from(max(table.file.revision for table in landed.values()))
        for chunk in chunks(ids):
            found = list(self._found(chunk, landed, (start, end), used, unreadable, left_out))
            staying = self._also_elsewhere(chunk, start, end)
            twice += sorted(staying)
            found = [replace(one, window=None) if one.job.job_id in staying else one for one in found]
            self.restored += restoring.restore(found, dry_run=self._dry_run)
        # What the ledger knows to have ended needs no row.
        left_out = [job_id for job_id in left_out if facts.states.get(job_id) not in FINAL_STATES]
        if left_out:
            self.findings.append(
                Finding(
                    about="tables",
                    what=f"{len(left_out)} jobs of {files[0].key} ended, but the file with their rows cannot be read: "
                    f"{named(left_out)}. They were left out.",
                    todo="Bring that file back from a backup, or move it away (Akool is then asked again), and restore "
                    "once more.",
                )
            )
        if twice:
            self.findings.append(
                Finding(
                    about="tables",
                    what=f"{len(twice)} jobs of {files[0].key} have landed in another partition too, or may have: "
                    f"{named(twice)}. They stay in that one, where the ledger has them.",
                    todo=f"Move the files of {files[0].key} away, out of every table that has one: what else is in "
                    "them is in the ledger now. Then restore once more, and materialize that partition.",
                )
            )
        if not self._dry_run:
            self._land_anew_where_newer(landed, start, end)

    def _read(self, file: TableFile, facts: PartitionFacts) -> _Landed | None:
        try:
            read = read_parquet(self._root, file.relative)
            landed = described(self._root, file.relative, read)
            table = _plain(file, read, landed.uri)
        except StorageError as error:
            self.findings.append(
                Finding(
                    about="tables",
                    what=f"{error}",
                    todo="Bring it back from a backup, and restore once more: payloads of that day were pruned."
                    if facts.pruned
                    else "Bring it back from a backup, or move it away, and restore once more. The others went on.",
                )
            )
            return None
        self.files += 1
        if landed.ledger_id is not None:
            self.met.add(landed.ledger_id)
        index = {job_id: row for row, job_id in enumerate(table.column("_id").to_pylist()) if job_id is not None}
        return _Landed(file=landed, table=table, index=index)

    def _found(
        self,
        ids: Sequence[str],
        landed: Mapping[str, _Landed],
        window: tuple[int, int],
        used: Collection[str],
        unreadable: set[str],
        left_out: list[str],
    ) -> Iterator[FoundJob]:
        rows: dict[str, dict[str, Values]] = defaultdict(dict)
        for name, table in landed.items():
            for job_id, values in table.rows(ids).items():
                rows[job_id][name] = values
        now = self._clock.now_ms()
        revisions = {name: table.file.revision for name, table in landed.items()}
        for job_id in ids:
            row = LandedRow(rows=rows[job_id], revisions=revisions, start=window[0], end=window[1])
            try:
                if has_ended(row.rows) and lacking(row.rows, used) & unreadable:
                    left_out.append(job_id)
                    continue
                yield found_job(self._account, job_id, row, used, now)
            except (UnusableRowError, InvalidJobError) as error:
                where = next(iter(row.rows))
                self.findings.append(
                    Finding(
                        about="tables",
                        what=f"Job {job_id[:80]!r} in {landed[where].file.uri} cannot be restored: {error}.",
                        todo="Track it again by hand, if it is yours. The others went on.",
                    )
                )

    def _also_elsewhere(self, job_ids: Sequence[str], start: int, end: int) -> set[str]:
        """Return those that the ledger has in another partition where a file shows them too, or cannot be read."""
        found = set()
        for job_id, at in self._ledger.inspection(self._account).elsewhere(job_ids, start, end).items():
            files = (file for file in self._files if file.start <= at < file.end)
            if any((ids := self._ids(file)) is None or job_id in ids for file in files):
                found.add(job_id)
        return found

    def _ids(self, file: TableFile) -> frozenset[str] | None:
        """Return the ids in a file; None when it cannot be read."""
        if file.relative not in self._ids_of:
            try:
                self._ids_of[file.relative] = frozenset(landed_file(self._root, file.relative).job_ids)
            except StorageError:
                self._ids_of[file.relative] = None
        return self._ids_of[file.relative]

    def report_without_payload(self, windows: Sequence[tuple[int, int]]) -> None:
        """Report the pruned jobs of these stretches of time (none: of all) that no table gave their payload back."""
        pruning = self._ledger.pruning(self._account)
        pruned = [pruning.pruned_ids(*window) for window in windows] if windows else [pruning.pruned_ids()]
        left = sorted(set().union(*pruned) - self.restored.filled)
        if left:
            self.findings.append(
                Finding(
                    about="pruned",
                    what=f"{len(left)} ended jobs still have no payload: it was pruned, and no readable file of "
                    f"{self._root.uri(f'{self._account}/{RESULTS.name}')} has their row: {named(left)}.",
                    todo="Those files are the only copy: bring them back from a backup of the storage, and restore "
                    "once more. Until then their partitions cannot land anew.",
                )
            )

    def _land_anew_where_newer(self, landed: Mapping[str, _Landed], start: int, end: int) -> None:
        # What the ledger knew already keeps its old revision, which the files may be above.
        facts = self._ledger.inspection(self._account).partition(start, end)
        above = max(table.file.revision for table in landed.values())
        if facts.states and any(table.file.revision > revision_of(facts, name) for name, table in landed.items()):
            self._ledger.landings(self._account).land_anew(start, end, above=above)


def restore(
    ledger: JobLedger,
    root: StorageRoot,
    account: str,
    *,
    clock: Clock,
    dry_run: bool = False,
    partitions: Collection[str] = (),
    foreign: bool = False,
    progress: Callable[[str], None] = lambda _line: None,
) -> RestoreReport:
    """Make the ledger know at least what the account's tables in the storage root say.

    ``partitions``: only these keys; all by default. Raises ValueError for what is no key, `OwnershipError` when the
    root is another ledger's while this one has landed elsewhere, unless that is meant (``foreign``), and
    `StorageError` when it cannot be reached.
    """
    windows = {key: key_window(key) for key in partitions}
    mark = _mark(root, account)
    if not foreign:
        _refuse_foreign(ledger, root, account, mark)
    files = table_files(root, account)
    used = {file.table for file in files}
    wanted = {key.replace(":", ""): key for key in windows}
    by_key: dict[str, list[TableFile]] = defaultdict(list)
    for file in files:
        if not wanted or file.key in wanted:
            by_key[file.key].append(file)
    work = _Restoration(ledger, root, account, clock, files, dry_run=dry_run)
    work.findings += _without_file(root, account, files, wanted)
    for number, (key, group) in enumerate(by_key.items(), start=1):
        work.partition(group, used)
        progress(f"{key} ({number} of {len(by_key)})")
    work.report_without_payload(list(windows.values()))
    return RestoreReport(
        dry_run=dry_run,
        partitions=len(by_key),
        files=work.files,
        outcomes=work.restored.outcomes,
        asked_again=work.restored.asked_again,
        revision=ledger.revision(),
        adoption=why_adopt(ledger.ledger_id, mark, work.met) if by_key else None,
        findings=work.findings,
    )


def _without_file(
    root: StorageRoot, account: str, files: Sequence[TableFile], wanted: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield which of the wanted keys have no file in a table that has others; ``wanted``: by the key in file names."""
    if not files:
        yield Finding(
            about="tables",
            what=f"There are no tables in {root.uri(account)}.",
            todo="Is the storage mounted, and are AKOOL_STORAGE and --account right?",
        )
    keys: dict[str, set[str]] = defaultdict(set)
    for file in files:
        keys[file.table].add(file.key)
    for file_key, key in sorted(wanted.items()):
        without = sorted(table for table in keys if file_key not in keys[table])
        if without:
            yield Finding(
                about="tables",
                what=f"In {root.uri(account)} these tables have no file of {key}, though they have others: "
                f"{', '.join(without)}.",
                todo="Have they landed for it? (Videos do where a job completed.) If files are lost, bring them back "
                "from a backup, and restore once more.",
                level=Level.PROBLEM if len(without) == len(keys) else Level.NOTICE,
            )


def _mark(root: StorageRoot, account: str) -> Mark | None:
    try:
        return read_mark(root, account)
    except OwnershipError:  # which adopting mends, after this
        return None


def _refuse_foreign(ledger: JobLedger, root: StorageRoot, account: str, mark: Mark | None) -> None:
    if mark is None or mark.covers(ledger.ledger_id) or not ledger.landings(account).have_begun():
        return
    raise OwnershipError(
        f"{root.uri(account)} belongs to ledger {mark.ledger_id}, and ledger {ledger.ledger_id} ({ledger.shown_url}) "
        "has landed somewhere else: its jobs would be mixed with another deployment's. Check AKOOL_STORAGE and "
        f"AKOOL_LEDGER_URL. If it is meant, run {ledger_command('restore --foreign', account)}. Nothing was changed."
    )


def _plain(file: TableFile, table: pa.Table, uri: str) -> pa.Table:
    """Return the columns that a table of ours has, with times as numbers."""
    columns: dict[str, Any] = {}
    try:
        for column in TABLES[file.table].columns:
            if column.name in table.schema.names:
                values = table.column(column.name).cast(column.type)
                columns[column.name] = values.cast(pa.int64()) if pa.types.is_timestamp(column.type) else values
    except pa.ArrowException as error:
        raise StorageError(f"{uri} has a column of another type than akool/{file.table}: {error}.") from error
    return pa.table(columns)
