"""Which ledger a storage root belongs to, and when a landing must not replace what is there.

One ledger = one Dagster deployment = one storage root. A restored or replaced ledger knows fewer jobs than have
landed; without these checks it would quietly delete their rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from akool_dagster.errors import AkoolDagsterError
from akool_dagster.object_storage import NOTHING, Found
from akool_dagster.storage import StorageError, StorageRoot

MARKER = "ledger.json"
LEDGER_METADATA = "akool/ledger"
REVISION_METADATA = "akool/revision"
REVISION_DIGITS = 15
"""The most digits of a revision that is believed: the ledger's counter, which has room for 18, goes on from it."""
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
    ended_ids: Collection[str] = ()
    """Those of them whose row shows an end that is final: a job that completed or failed, a video that is stored."""
    account: str = "akool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Whose a folder of the storage root is: the content of its ``ledger.json``."""

    ledger_id: str
    adopted: tuple[str, ...] = ()
    """Ledgers that it belonged to before: their files may be replaced, by rows that hold all of theirs."""

    def covers(self, ledger_id: str | None) -> bool:
        """Return whether a file of this ledger (None: of none in particular) is at home here."""
        return ledger_id is None or ledger_id == self.ledger_id or ledger_id in self.adopted


def ledger_command(name: str, account: str) -> str:
    """Return a command that looks after the ledger, to be named in a message."""
    return f"`akool-dagster ledger {name}" + ("`" if account == "akool" else f" --account {account}`")


def read_mark(root: StorageRoot, account: str) -> Mark | None:
    """Return whose an account's folder is; None where that is not written.

    Raises `OwnershipError` for a mark that cannot be understood, `StorageError` when the root cannot be read.
    """
    marker = f"{account}/{MARKER}"
    content = root.read_if_there(marker)
    if content is None:
        return None
    try:
        written = json.loads(content)
        mark = Mark(ledger_id=written["ledger"], adopted=tuple(written.get("adopted", ())))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        mark = None
    if mark is None or not all(isinstance(one, str) for one in (mark.ledger_id, *mark.adopted)):
        raise OwnershipError(
            f'{root.uri(marker)} cannot be read. It should hold {{"ledger": "<id>"}}: restore it from a backup, or '
            f"make it anew with {ledger_command('adopt', account)}. Nothing was written."
        )
    return mark


def write_mark(root: StorageRoot, account: str, mark: Mark, *, replacing: Found | None = None) -> None:
    """Write whose an account's folder is, in one step; `StorageRoot.publish` says what ``replacing`` means.

    Raises `StorageError` when the root cannot be written.
    """
    marker = f"{account}/{MARKER}"
    content: dict[str, object] = {"ledger": mark.ledger_id}
    if mark.adopted:
        content["adopted"] = list(mark.adopted)
    with root.temporary(marker) as file:
        file.write_text(json.dumps(content))
        root.publish(file, marker, replacing=replacing)


def ensure_owner(root: StorageRoot, account: str, ledger_id: str, *, first: bool) -> Mark:
    """Mark an account's folder as this ledger's, or raise `OwnershipError` when it is another's; return the mark.

    A missing mark is made only at the ledger's ``first`` landing: later it means that the storage is not mounted, or
    gone, and what is written now would vanish. Raises `StorageError` when the root cannot be read or written.
    """
    mark = read_mark(root, account)
    adopt = ledger_command("adopt", account)
    if mark is None:
        if not first:
            raise OwnershipError(
                f"There is no {root.uri(f'{account}/{MARKER}')}, though ledger {ledger_id} has landed here before: is "
                "the storage mounted, and AKOOL_STORAGE right? If you moved the files, move that one too; if you start "
                f"anew in an empty place, or that file is lost, run {adopt}. Nothing was written."
            )
        mark = _first_mark(root, account, ledger_id)
    if mark.ledger_id != ledger_id:
        raise OwnershipError(
            f"{root.uri(account)} belongs to ledger {mark.ledger_id}, but this deployment's ledger is {ledger_id}. "
            "Point AKOOL_LEDGER_URL back at the database of the first, or give this deployment a storage root "
            "(AKOOL_STORAGE) or a prefix of its own. If the first ledger is lost, run "
            f"{ledger_command('restore', account)} and then {adopt}. Nothing was written."
        )
    return mark


def _first_mark(root: StorageRoot, account: str, ledger_id: str) -> Mark:
    """Mark a folder that nobody has marked yet, or return the mark of whoever was faster: one of them gets it."""
    mark = Mark(ledger_id=ledger_id)
    try:
        write_mark(root, account, mark, replacing=NOTHING)
    except StorageError:
        faster = read_mark(root, account)
        if faster is None:
            raise
        return faster
    return mark


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
