"""`ledger prune`: drops payloads that the landed tables hold too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from akool_dagster.clock import Clock
from akool_dagster.landed_files import landed_file, table_files
from akool_dagster.ledger import JobLedger
from akool_dagster.ledger.pruning import Pruned
from akool_dagster.ledger.transitions import DAY_MS
from akool_dagster.operations.findings import Finding
from akool_dagster.storage.marker import LandedFile, Mark, OwnershipError, ledger_command, read_mark
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables import RESULTS, VIDEOS


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What pruning did, or with ``dry_run`` would do."""

    dry_run: bool
    partitions: int
    """How many landed partitions are old enough."""
    pruned: Pruned
    kept: int
    """Payloads as old that stay: their video is not settled, or no landed file shows them as they are."""
    problems: Sequence[Finding]


def prune(
    ledger: JobLedger, root: StorageRoot, account: str, *, older_than_days: int, clock: Clock, dry_run: bool = False
) -> PruneReport:
    """Drop the payloads of ended jobs of partitions that ended over so many days ago.

    Only what the Parquet file of ``results`` in the storage root shows, at a revision at or above the job's own (a
    newer URL of its video: the manifest), for `restore` to fill payloads in again. So nothing is dropped where
    another IO manager keeps the tables, or ``results`` is not among them. Raises `OwnershipError` when the root is
    not this ledger's.
    """
    mark = read_mark(root, account)
    if mark is None or mark.ledger_id != ledger.ledger_id:
        raise OwnershipError(
            f"{root.uri(account)} is not marked as ledger {ledger.ledger_id}'s, so its tables are no proof of what "
            f"has landed from it. Run {ledger_command('check', account)}. Nothing was pruned."
        )
    cutoff = clock.now_ms() - older_than_days * DAY_MS
    landed_files = table_files(root, account)
    files = [file for file in landed_files if file.end <= cutoff]
    old = [file for file in files if file.table == RESULTS.name]
    manifests = {file.key: file for file in files if file.table == VIDEOS.name}
    total = Pruned()
    problems = []
    for file in old:
        try:
            landed = landed_file(root, file.relative, whole=True)
            manifest = manifests.get(file.key)
            shown = None if manifest is None else landed_file(root, manifest.relative, whole=True)
        except StorageError as error:
            problems.append(Finding(about="tables", what=str(error), todo="Mend it; its day's payloads were kept."))
            continue
        if _is_proof(landed, mark):
            total += ledger.pruning(account).drop(
                landed.job_ids,
                file.start,
                file.end,
                landed_revision=landed.revision,
                manifest_revision=shown.revision if shown is not None and _is_proof(shown, mark) else 0,
                dry_run=dry_run,
            )
    # What lies in a partition that has not ended so long ago is not as old.
    kept = ledger.pruning(account).kept(min([cutoff, *(file.start for file in landed_files if file.end > cutoff)]))
    return PruneReport(
        dry_run=dry_run,
        partitions=len(old),
        pruned=total,
        kept=kept - total.payloads if dry_run else kept,
        problems=problems,
    )


def _is_proof(landed: LandedFile, mark: Mark) -> bool:
    """Return whether a file says by its stamp that it landed from this ledger, or from one before it."""
    return landed.ledger_id is not None and mark.covers(landed.ledger_id)
