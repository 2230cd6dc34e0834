"""Which ledger a storage root belongs to, and when a landing must not replace what is there.

One ledger = one Dagster deployment = one storage root. A restored or replaced ledger knows fewer jobs than have
landed; without these checks it would quietly delete their rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from akool_dagster.errors import AkoolDagsterError
from akool_dagster.object_storage import NOTHING
from akool_dagster.storage import StorageRoot

MARKER = "ledger.json"
LEDGER_METADATA = "akool/ledger"
REVISION_METADATA = "akool/revision"
FIRST_LANDING_METADATA = "akool/first_landing"
"""Present on a landing before which the ledger knew of none: only such a one may mark a storage root."""


class OwnershipError(AkoolDagsterError):
    """This ledger must not write here: the files belong to another ledger, or to a newer state of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedFile:
    """What a landed file says of itself."""

    uri: str
    ledger_id: str | None
    revision: int
    job_ids: Collection[str]


def ensure_owner(root: StorageRoot, folder: str, ledger_id: str, *, first: bool) -> None:
    """Mark a folder of the storage root as this ledger's, or raise `OwnershipError` when it is another's.

    A missing mark is made only at the ledger's ``first`` landing: later it means that the storage is not mounted, or
    gone, and what is written now would vanish. Raises `StorageError` when the root cannot be read or written.
    """
    marker = f"{folder}/{MARKER}"
    content = root.read_if_there(marker)
    if content is None:
        if not first:
            raise OwnershipError(
                f"There is no {root.uri(marker)}, though ledger {ledger_id} has landed here before: is the storage "
                "mounted, and AKOOL_STORAGE right? If you moved the files, move that one too; if you start anew in an "
                f'empty place, make it with the text {{"ledger": "{ledger_id}"}}. Nothing was written.'
            )
        with root.temporary(marker) as file:
            file.write_text(json.dumps({"ledger": ledger_id}))
            root.publish(file, marker, replacing=NOTHING)
        return
    try:
        owner = json.loads(content)["ledger"]
    except (ValueError, KeyError, TypeError):
        raise OwnershipError(
            f'{root.uri(marker)} cannot be read. It should hold {{"ledger": "<id>"}}; restore it from a backup.'
        ) from None
    if owner != ledger_id:
        raise OwnershipError(
            f"{root.uri(folder)} belongs to ledger {owner}, but this deployment's ledger is {ledger_id}. Point "
            "AKOOL_LEDGER_URL back at the database of the first, or give this deployment a storage root "
            "(AKOOL_STORAGE) or a prefix of its own. Nothing was written."
        )


def refuse_going_back(landed: LandedFile, ledger_id: str, revision: int, job_ids: Collection[str]) -> None:
    """Raise `OwnershipError` when writing would replace newer, foreign or fuller rows."""
    if landed.ledger_id is not None and landed.ledger_id != ledger_id:
        raise OwnershipError(
            f"{landed.uri} was written from ledger {landed.ledger_id}, but this is ledger {ledger_id}. Point "
            "AKOOL_LEDGER_URL back at that ledger's database, or move the file away. Nothing was written."
        )
    unknown = set(landed.job_ids) - set(job_ids)
    if unknown:
        example = min(unknown)
        raise OwnershipError(
            f"{landed.uri} has {len(unknown)} jobs that this ledger does not know (such as {example}): the ledger is "
            "older than the tables, or was made anew. Restore the ledger's newest backup, or track those ids again "
            "from the file. Nothing was written."
        )
    if landed.revision > revision:
        raise OwnershipError(
            f"{landed.uri} is at revision {landed.revision}, this ledger's rows only at {revision}: the ledger is "
            "older than the tables, or another run landed newer rows meanwhile. If it was restored, the next "
            "change of a job lands it; else nothing is to be done. Nothing was written."
        )
