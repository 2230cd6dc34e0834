"""What the files in a storage root say, held against the ledger: read only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from akool_dagster.landed_files import TableFile, landed_file, table_files
from akool_dagster.ledger import JobLedger, JobState
from akool_dagster.ledger.inspection import PartitionFacts
from akool_dagster.ledger.records import FINAL_STATES
from akool_dagster.storage.marker import LandedFile, Mark, OwnershipError, read_mark
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables import RESULTS, STATUSES, VIDEOS


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedFile:
    """One partition of one table, and how far the ledger is behind it."""

    file: TableFile
    landed: LandedFile
    unknown_ids: Sequence[str]
    """Ids that the ledger has not got in this partition."""
    unsettled_ids: Sequence[str]
    """Ids that the ledger has, but whose end it does not know as this table does."""
    is_newer: bool
    """Whether a landing now would be refused, since the file is at a higher revision than the ledger's rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableFile:
    """One partition of one table that cannot be read."""

    file: TableFile
    why: str
    """The reason, with the file's path."""
    pruned: int
    """How many payloads were dropped from the ledger because this file has them; 0 for any table but ``results``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Every table of one account in a storage root."""

    mark: Mark | None
    unreadable_mark: str | None
    files: Sequence[SurveyedFile]
    unreadable: Sequence[UnreadableFile]
    only_copy_gone: Sequence[str]
    """Jobs whose payload was pruned, and that no readable file of ``results`` shows any more."""

    def keys_of(self, table: str) -> set[str]:
        """Return the keys of the files that a table has, as file names have them."""
        files = [one.file for one in self.files] + [one.file for one in self.unreadable]
        return {file.key for file in files if file.table == table}

    @property
    def revision(self) -> int:
        """Return the highest revision that is in a file."""
        return max((file.landed.revision for file in self.files), default=0)

    @property
    def ledger_ids(self) -> set[str]:
        """Return the ledgers that the files were written from."""
        return {file.landed.ledger_id for file in self.files if file.landed.ledger_id is not None}

    @property
    def unknown_ids(self) -> list[str]:
        """Return the ids that some file has and the ledger has not, in order."""
        return sorted({job_id for file in self.files for job_id in file.unknown_ids})


def survey(ledger: JobLedger, root: StorageRoot, account: str) -> Survey:
    """Read every table's ids and revisions. Raises `StorageError` when the storage root cannot be reached."""
    mark, unreadable_mark = None, None
    try:
        mark = read_mark(root, account)
    except OwnershipError as error:
        unreadable_mark = str(error)
    surveyed: list[SurveyedFile] = []
    unreadable: list[UnreadableFile] = []
    gone = set(ledger.pruning(account).pruned_ids())
    by_window: dict[tuple[int, int], list[TableFile]] = defaultdict(list)
    for file in table_files(root, account):
        by_window[file.start, file.end].append(file)
    for (start, end), files in by_window.items():
        facts = ledger.inspection(account).partition(start, end)
        for file in files:
            pruned = facts.pruned if file.table == RESULTS.name else frozenset()
            try:
                landed = landed_file(root, file.relative, whole=bool(pruned))
            except StorageError as error:
                unreadable.append(UnreadableFile(file=file, why=str(error), pruned=len(pruned)))
                continue
            if file.table == RESULTS.name:
                gone.difference_update(landed.job_ids)
            surveyed.append(
                SurveyedFile(
                    file=file,
                    landed=landed,
                    unknown_ids=sorted(set(landed.job_ids) - facts.states.keys()),
                    unsettled_ids=sorted(
                        job_id
                        for job_id in landed.job_ids
                        if job_id in facts.states and not _shows(file.table, facts.states[job_id])
                    ),
                    is_newer=bool(landed.job_ids or facts.states) and landed.revision > revision_of(facts, file.table),
                )
            )
    return Survey(
        mark=mark,
        unreadable_mark=unreadable_mark,
        files=surveyed,
        unreadable=unreadable,
        only_copy_gone=sorted(gone),
    )


def revision_of(facts: PartitionFacts, table: str) -> int:
    """Return the revision at which a table would land now."""
    return max(facts.revision, facts.video_revision) if table == VIDEOS.name else facts.revision


def why_adopt(ledger_id: str, mark: Mark | None, met: Collection[str]) -> str | None:
    """Return why a storage root is not this ledger's yet; None when it is. ``met``: the ledgers of its files."""
    if mark is None:
        return "it has no ledger.json that can be read"
    if mark.ledger_id != ledger_id:
        return f"its ledger.json names ledger {mark.ledger_id}"
    strange = sorted(one for one in met if not mark.covers(one))
    return f"it has files of ledger {', '.join(strange)}" if strange else None


def _shows(table: str, state: str) -> bool:
    if table == STATUSES.name:
        return True
    return state == JobState.COMPLETED if table == VIDEOS.name else state in FINAL_STATES
