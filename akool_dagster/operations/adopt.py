"""`ledger adopt`: makes a ledger the storage root's, in the place of one that was lost, or in a new place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from akool_dagster.landing import END_OF_TIME
from akool_dagster.ledger import JobLedger
from akool_dagster.operations.findings import named
from akool_dagster.operations.survey import Survey, survey, why_adopt
from akool_dagster.storage.marker import Mark, OwnershipError, ledger_command, write_mark
from akool_dagster.storage import StorageRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What adopting a storage root would do, to be confirmed."""

    reason: str | None
    """Why the root is not this ledger's yet; None when it is, and nothing is to be done."""
    mark: Mark
    """What ``ledger.json`` will say."""
    former: str | None
    """The ledger that the root belongs to now; None for none."""
    files: int
    revision: int
    """The highest revision in the tables, that the ledger will count on from."""
    unreadable: Sequence[str]
    pruned: int
    """Ended jobs without payload, whose partitions cannot land anew before they are restored."""


def plan_adoption(ledger: JobLedger, root: StorageRoot, account: str) -> Adoption:
    """Return what `adopt` would do; nothing is changed.

    Raises `OwnershipError` when the tables have jobs that this ledger does not know, `StorageError` when the root
    cannot be reached.
    """
    found = survey(ledger, root, account)
    unknown = found.unknown_ids
    if unknown:
        raise OwnershipError(
            f"The tables in {root.uri(account)} have {len(unknown)} jobs that ledger {ledger.ledger_id} does not know: "
            f"{named(unknown)}. Run {ledger_command('restore', account)} first. Nothing was changed."
        )
    return Adoption(
        reason=why_adopt(ledger.ledger_id, found.mark, found.ledger_ids),
        mark=Mark(ledger_id=ledger.ledger_id, adopted=tuple(_former(ledger.ledger_id, found))),
        former=None if found.mark is None else found.mark.ledger_id,
        files=len(found.files),
        revision=found.revision,
        unreadable=[one.why for one in found.unreadable],
        pruned=len(ledger.pruning(account).pruned_ids()),
    )


def adopt(ledger: JobLedger, root: StorageRoot, account: str, plan: Adoption) -> None:
    """Make the ledger the storage root's. Run again after a crash: the mark is written last.

    Every revision that lands from here on is above those in the tables, and everything lands anew.
    """
    landings = ledger.landings(account)
    landings.land_anew(0, END_OF_TIME, above=plan.revision)
    write_mark(root, account, plan.mark)
    landings.note_first()


def _former(ledger_id: str, found: Survey) -> list[str]:
    """Return the ledgers whose files are at home there from now on, those that were adopted before first."""
    before = (*found.mark.adopted, found.mark.ledger_id) if found.mark is not None else ()
    return [one for one in dict.fromkeys((*before, *sorted(found.ledger_ids))) if one != ledger_id]
