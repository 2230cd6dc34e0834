"""When a landing must not replace what is there; which ledger a storage root belongs to is in `storage.marker`.

A restored or replaced ledger knows fewer jobs than have
landed; without these checks it would quietly delete their rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from akool_dagster.storage.marker import Mark, OwnershipError, ensure_owner, ledger_command, read_mark, write_mark

__all__ = [
    "FIRST_LANDING_METADATA",
    "LEDGER_METADATA",
    "REVISION_DIGITS",
    "REVISION_METADATA",
    "LandedFile",
    "Mark",
    "OwnershipError",
    "ensure_owner",
    "ledger_command",
    "read_mark",
    "refuse_going_back",
    "write_mark",
]

LEDGER_METADATA = "akool/ledger"
REVISION_METADATA = "akool/revision"
REVISION_DIGITS = 15
"""The most digits of a revision that is believed: the ledger's counter, which has room for 18, goes on from it."""
FIRST_LANDING_METADATA = "akool/first_landing"
"""Present on a landing before which the ledger knew of none: only such a one may mark a storage root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedFile:
    """What a landed file says of itself."""

    uri: str
    ledger_id: str | None
    revision: int
    job_ids: Collection[str]
    ended_ids: Collection[str] = ()
    """Those of them whose row shows an end that is final: a job that completed or failed, a video that is stored."""
    account: str = "akool"


def refuse_going_back(
    landed: LandedFile,
    ledger_id: str,
    revision: int,
    job_ids: Collection[str],
    *,
    ended_ids: Collection[str] = (),
    adopted: Collection[str] = (),
) -> None:
    """Raise `OwnershipError` when writing would replace newer, foreign or fuller rows, or take an end back.

    Files of the ``adopted`` ledgers count as this one's.
    """
    restore, adopt = ledger_command("restore", landed.account), ledger_command("adopt", landed.account)
    if landed.ledger_id is not None and landed.ledger_id != ledger_id and landed.ledger_id not in adopted:
        raise OwnershipError(
            f"{landed.uri} was written from ledger {landed.ledger_id}, but this is ledger {ledger_id}. Point "
            f"AKOOL_LEDGER_URL back at that ledger's database, or, if it is lost, run {restore} and then {adopt}. "
            "Nothing was written."
        )
    unknown = set(landed.job_ids) - set(job_ids)
    if unknown:
        example = min(unknown)
        raise OwnershipError(
            f"{landed.uri} has {len(unknown)} jobs that this ledger does not know (such as {example}): the ledger is "
            "older than the tables, or was made anew. Restore the ledger's newest backup, or bring it up to the tables "
            f"with {restore}. Nothing was written."
        )
    reopened = set(landed.ended_ids) - set(ended_ids)
    if reopened:
        raise OwnershipError(
            f"{landed.uri} shows {len(reopened)} jobs (such as {min(reopened)}) as ended, or their video as stored, of "
            "which this ledger does not know it: the ledger is older than the tables. Restore the ledger's newest "
            f"backup, or bring it up to the tables with {restore}. Nothing was written."
        )
    if landed.revision > revision:
        raise OwnershipError(
            f"{landed.uri} is at revision {landed.revision}, this ledger's rows only at {revision}: the ledger is "
            "older than the tables, or another run landed newer rows meanwhile. If the ledger was restored from a "
            f"backup, run {restore}; else nothing is to be done. Nothing was written."
        )
