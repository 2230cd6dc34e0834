"""`ledger adopt`: makes the storage root this ledger's, and lets the ledger know all that the tables know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from akool_dagster.base.clock import Clock
from akool_dagster.base.job_ids import OBJECT_ID_PATTERN
from akool_dagster.ledger import AccountLedger, InvalidJobError
from akool_dagster.ledger.adoption import AdoptReport, FoundJob
from akool_dagster.ledger.records import partition_time
from akool_dagster.ledger.rows import chunks
from akool_dagster.operations.findings import Finding, Level, named
from akool_dagster.operations.found_jobs import found_job, shown_end
from akool_dagster.operations.landed_rows import TableRows, read_rows
from akool_dagster.operations.partitions import Window, by_window, granularities
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.storage.marker import Mark, OwnershipError, ledger_command, read_mark, write_mark
from akool_dagster.tables.files import TableFile, table_files


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionPlan:
    """What there is to adopt."""

    reason: str | None
    """Why the root is not this ledger's; None when its marker names this ledger."""
    mark: Mark
    """What ``ledger.json`` will say."""
    files: Sequence[TableFile]


@dataclass(slots=True, kw_only=True)
class AdoptionReport:
    """What adopting did."""

    partitions: int = 0
    files: int = 0
    """How many table files were read."""
    jobs: AdoptReport = field(default_factory=AdoptReport)
    asked_again: int = 0
    """Jobs that a table shows as ended, but without the row that a landing needs: Akool is asked for them again."""
    findings: list[Finding] = field(default_factory=list)


def plan_adoption(account: AccountLedger, root: StorageRoot) -> AdoptionPlan:
    """Return what `adopt` works on; nothing is changed.

    Raises `OwnershipError` when the tables and the ledger have partitions of different lengths, and `StorageError`
    when the root cannot be reached.
    """
    mark, reason = read_mark_or_why(account, root)
    files = table_files(root, account.name)
    shown = granularities(files)
    known = account.landings.granularity()
    if len(shown) > 1 or (shown and known not in (None, *shown)):
        ledger = "" if known is None else f" The ledger's partitions are {known}."
        raise OwnershipError(
            f"The tables in {root.uri(account.name)} have {' and '.join(shown)} partitions.{ledger} One account has "
            "one granularity: move the other files away, or give this ledger a storage root or a prefix of its own. "
            "Nothing was changed."
        )
    granularity = known or next(iter(shown), None if mark is None else mark.granularity)
    return AdoptionPlan(reason=reason, mark=Mark(ledger_id=account.ledger_id, granularity=granularity), files=files)


def read_mark_or_why(account: AccountLedger, root: StorageRoot) -> tuple[Mark | None, str | None]:
    """Return the root's mark, and why the root is not this ledger's. Raises `StorageError`."""
    try:
        mark = read_mark(root, account.name)
    except OwnershipError as error:
        return None, str(error)
    if mark is None:
        return None, "it has no ledger.json"
    return mark, None if mark.ledger_id == account.ledger_id else f"its ledger.json names ledger {mark.ledger_id}"


def adopt(
    account: AccountLedger,
    root: StorageRoot,
    plan: AdoptionPlan,
    *,
    clock: Clock,
    progress: Callable[[str], None] = lambda _line: None,
) -> AdoptionReport:
    """Let the ledger know what the tables know, and make the root this ledger's.

    Running it again, also after a crash, does no harm: the marker is written last. A file that cannot be read is a
    finding, and the others go on. Raises `LedgerError`, and `StorageError` when the root cannot be reached.
    """
    adoption = _Adoption(account, root, clock, plan.files)
    for number, (window, files) in enumerate(by_window(plan.files).items(), start=1):
        adoption.partition(window, files)
        progress(f"Partition {files[0].key} is read ({number}).")
    adoption.report_lost_tombstones()
    account.adoption.land_everything_again()
    if plan.mark.granularity is not None:
        account.landings.settle_granularity(plan.mark.granularity)
    write_mark(root, account.name, plan.mark)
    account.landings.note_marked_root()
    return adoption.report


class _Adoption:
    def __init__(self, account: AccountLedger, root: StorageRoot, clock: Clock, files: Sequence[TableFile]) -> None:
        self._account = account
        self._root = root
        self._clock = clock
        self._used = {file.table for file in files} | set(account.landings.enabled_assets())
        self._rowless = set(account.pruning.tombstones())
        """Tombstones whose row was not met yet."""
        self._strays: dict[str, list[Window]] = {}
        """The partitions of ids that have a row in another partition than their id tells."""
        self.report = AdoptionReport()

    def partition(self, window: Window, files: Sequence[TableFile]) -> None:
        """Adopt the jobs of one partition."""
        tables = {file.table: table for file in files if (table := self._read(file)) is not None}
        if not tables:
            return
        self.report.partitions += 1
        self.report.files += len(tables)
        self._account.adoption.raise_version(max(table.version for table in tables.values()))
        ids = sorted(set().union(*(table.index for table in tables.values())))
        self._rowless.difference_update(ids)
        twice: list[str] = []
        for chunk in chunks(ids):
            found = list(self._found(chunk, tables, window))
            twice += [one.job.job_id for one in found if one.also]
            self.report.jobs += self._account.adoption.adopt(found)
        if twice:
            self._note(
                f"{len(twice)} jobs of {files[0].key} have a row in an earlier partition too: {named(twice)}.",
                "They stay in that one. The rows here stay as they are: leave them out when you add up all partitions.",
                Level.NOTICE,
            )

    def report_lost_tombstones(self) -> None:
        """Note the pruned jobs that are in no table."""
        lost = sorted(self._rowless)
        if lost:
            self.report.findings.append(lost_tombstones(lost, self._root, self._account.name))

    def _read(self, file: TableFile) -> TableRows | None:
        try:
            return read_rows(self._root, file)
        except StorageError as error:
            adopt_again = ledger_command("adopt", self._account.name)
            self._note(str(error), f"Bring the file back from a backup, or move it away. Then run {adopt_again} again.")
            return None

    def _found(self, job_ids: Collection[str], tables: Mapping[str, TableRows], window: Window) -> Iterator[FoundJob]:
        name, now = self._account.name, self._clock.now_ms()
        ids = list(job_ids)
        rows = {table: landed.of(ids) for table, landed in tables.items()}
        for job_id in ids:
            mine = {table: of[job_id] for table, of in rows.items() if job_id in of}
            try:
                found = found_job(name, job_id, mine, window, self._used, now, self._also(job_id, window))
                self.report.asked_again += shown_end(mine) is not None and found.job.settled_at is None
                yield found
            except (InvalidJobError, ValueError, TypeError, OverflowError) as error:
                self._note(
                    f"Job {job_id[:80]!r} in the {next(iter(mine))} of {self._root.uri(self._account.name)} was left "
                    f"out: {error}.",
                    "Track the id by hand, if it is yours.",
                )

    def _also(self, job_id: str, window: Window) -> list[Window]:
        """Return the partitions met before this one that have a row of the job."""
        before = self._strays.get(job_id, [])
        if not OBJECT_ID_PATTERN.fullmatch(job_id) or not window[0] <= partition_time(job_id, 2**62) < window[1]:
            self._strays[job_id] = [*before, window]  # the others have one row: their id tells where
        return before

    def _note(self, what: str, hint: str, level: Level = Level.PROBLEM) -> None:
        self.report.findings.append(Finding(about="tables", what=what, hint=hint, level=level))


def lost_tombstones(job_ids: Sequence[str], root: StorageRoot, account: str) -> Finding:
    """Return what is to be said of pruned jobs that are in no table."""
    return Finding(
        about="tables",
        what=f"{len(job_ids)} pruned jobs are in no readable table of {root.uri(account)}: {named(job_ids)}.",
        hint="The tables are the only copy of them. Bring the missing files back from a backup of the storage.",
    )
